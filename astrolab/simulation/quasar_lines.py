"""Emission lines and iron blends of a type 1 quasar: where they are, how strong, how they vary.

Strengths and positions follow the composite of Vanden Berk et al. (2001, AJ 122, 549, table 2), rounded, with its
blends taken apart (Lyα and N V; Si IV and O IV]; Al III, Si III] and C III]) and C IV raised to the fainter quasars of
DESI. The Baldwin slopes are those of Dietrich et al. (2002, ApJ 581, 912), the blueshift of C IV and its link to the
line's strength that of Richards et al. (2011, AJ 141, 167).
"""

from typing import NamedTuple

import numpy as np


class BroadLine(NamedTuple):
    """One broad line: two Gaussians, a core and a base, about the same centre.

    Attributes
    ----------
    wavelength : float
        Rest vacuum wavelength, Å.
    equivalent_width : float
        Typical rest equivalent width, Å, at log L(3000 Å) = 45.5.
    core_fraction : float
        Share of the flux in the narrower Gaussian.
    baldwin : float
        d log(equivalent width) / d log(luminosity).
    blueshift : float
        In units of the object's C IV blueshift.
    """

    wavelength: float
    equivalent_width: float
    core_fraction: float = 0.4
    baldwin: float = 0.0
    blueshift: float = 0.0


BROAD_LINES = (
    BroadLine(977.02, 5, 0.2, -0.1, 0.4),
    BroadLine(990.69, 3, 0.2, -0.1, 0.4),
    BroadLine(1025.72, 2, 0.4, -0.1, 0.3),
    BroadLine(1033.83, 10, 0.3, -0.15, 0.4),
    BroadLine(1065.10, 3, 0.0),
    BroadLine(1123.00, 2, 0.0),
    BroadLine(1175.70, 2.5, 0.2),
    BroadLine(1215.67, 85, 0.42, -0.11, 0.3),
    BroadLine(1240.14, 20, 0.2, -0.02, 0.5),
    BroadLine(1262.59, 3, 0.2),
    BroadLine(1304.35, 2.6, 0.4),
    BroadLine(1335.30, 1.2, 0.4),
    BroadLine(1396.76, 6, 0.3, -0.06, 0.6),
    BroadLine(1402.06, 4, 0.3, -0.06, 0.6),
    BroadLine(1486.50, 0.6, 0.5, -0.1, 0.3),
    BroadLine(1549.06, 37, 0.42, -0.17, 1.0),
    BroadLine(1610.00, 3.5, 0.0),
    BroadLine(1640.42, 5.0, 0.25, -0.20, 1.2),
    BroadLine(1663.48, 3.0, 0.4, -0.1, 0.3),
    BroadLine(1750.00, 1.5, 0.2),
    BroadLine(1788.73, 0.8, 0.2),
    BroadLine(1857.40, 2.4, 0.3, 0.0, 0.3),
    BroadLine(1892.03, 3.6, 0.4, -0.02, 0.2),
    BroadLine(1908.73, 16, 0.35, -0.08, 0.25),
    BroadLine(2326.44, 2.2, 0.3),
    BroadLine(2423.83, 0.8, 0.4),
    BroadLine(2798.75, 35, 0.4, -0.09, 0.0),
    BroadLine(4102.89, 8, 0.35),
    BroadLine(4341.68, 20, 0.35),
    BroadLine(4687.02, 4, 0.1, -0.2, 0.5),
    BroadLine(4862.68, 64, 0.4),
    BroadLine(5877.25, 6, 0.3),
    BroadLine(6564.61, 320, 0.4),
    BroadLine(7067.20, 3, 0.3),
    BroadLine(8448.70, 8, 0.4),
)

# narrow lines: (rest vacuum wavelength in Å, rest equivalent width in Å)
NARROW_LINES = (
    (2423.83, 0.15), (3346.79, 0.4), (3426.84, 1.1), (3728.48, 1.9), (3869.85, 2.0), (3968.58, 0.6), (4364.44, 0.9),
    (4862.68, 1.9), (4960.30, 4.6), (5008.24, 13.6), (6088.70, 0.3), (6302.05, 0.9), (6549.85, 1.5), (6564.61, 6.5),
    (6585.27, 4.4), (6718.29, 1.8), (6732.67, 1.7), (7137.80, 0.4), (9071.10, 2.0), (9533.20, 5.0),
)  # fmt: skip

# Iron is thousands of blended lines. There is no free formula for it; these Gaussians, at the positions of the
# strongest Fe II and Fe III multiplets, imitate the templates of Vestergaard & Wilkes (2001, ApJS 134, 1) in the
# ultraviolet and of Boroson & Green (1992, ApJS 80, 109) in the optical. (rest vacuum wavelength in Å, relative
# strength)
IRON_UV = (
    (1895, 0.2), (1914, 0.2), (1926, 0.2), (1975, 0.2), (2020, 0.25), (2050, 0.5), (2076, 0.9), (2110, 0.4),
    (2165, 0.3), (2220, 0.5), (2250, 0.7), (2280, 0.7), (2310, 0.8), (2332, 1.0), (2350, 0.9), (2367, 0.8),
    (2383, 1.1), (2400, 1.2), (2412, 0.9), (2430, 0.8), (2460, 1.0), (2480, 1.2), (2500, 1.2), (2515, 1.0),
    (2535, 0.9), (2550, 0.8), (2567, 0.8), (2588, 0.9), (2600, 0.9), (2612, 0.8), (2630, 0.6), (2650, 0.4),
    (2680, 0.4), (2715, 0.6), (2735, 0.8), (2750, 0.9), (2770, 0.7), (2840, 0.6), (2870, 0.7), (2900, 0.6),
    (2927, 0.8), (2950, 0.8), (2970, 0.7), (2985, 0.5), (3003, 0.3), (3050, 0.4), (3090, 0.5), (3133, 1.2),
    (3160, 0.5), (3190, 1.2), (3210, 1.0), (3260, 0.9), (3300, 0.7), (3350, 0.3), (3420, 0.3), (3500, 0.4),
    (3580, 0.3),
)  # fmt: skip
IRON_OPTICAL = (
    (4175, 0.4), (4180, 0.4), (4234, 1.0), (4259, 0.3), (4298, 0.5), (4304, 0.5), (4353, 0.8), (4387, 0.6),
    (4418, 0.6), (4473, 0.5), (4490, 0.9), (4510, 0.9), (4516, 0.9), (4524, 1.0), (4551, 1.2), (4557, 0.9),
    (4578, 0.6), (4585, 1.4), (4622, 0.5), (4631, 1.0), (4664, 0.5), (4925, 1.1), (5020, 1.2), (5171, 1.5),
    (5199, 1.1), (5236, 1.2), (5266, 0.8), (5277, 1.3), (5286, 0.6), (5318, 1.7), (5327, 0.6), (5339, 0.4),
    (5364, 0.9), (5416, 0.3), (5427, 0.4), (5536, 0.5), (6150, 0.3), (6249, 0.4), (6419, 0.2), (6458, 0.5),
    (6518, 0.3),
)  # fmt: skip
IRON_UNIT = 2.1  # Å of equivalent width for a relative strength of 1: 20 Å between 4434 and 4684 Å


def broad_line_columns():
    """Return the columns of the table of broad lines as arrays.

    Returns
    -------
    BroadLine
        The same fields, each a ``numpy.ndarray`` of shape (n_line,).
    """
    return BroadLine(*(np.array(column, float) for column in zip(*BROAD_LINES, strict=True)))
