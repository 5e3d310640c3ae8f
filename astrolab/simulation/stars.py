"""Stars: a black body with the absorption that makes its class, from white dwarfs to late M dwarfs.

Analytic likenesses after the classification atlases of Jacoby, Hunter & Christian (1984, ApJS 56, 257) and Bochanski et
al. (2007, AJ 133, 531); they are no model atmospheres. With a folder of Redrock templates the simulator draws stars
from those.
"""

from functools import lru_cache

import numpy as np
from scipy.special import expit

from astrolab.simulation.galaxies import balmer_absorption
from astrolab.simulation.grid import N_WAVELENGTH, WAVELENGTH
from astrolab.simulation.profiles import add_templates

TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, _N_REST = np.log(3500.0), 8e-5, 13100

# class, temperature in K, depth and sigma (Å) of Hβ, strength of metal lines, strength of TiO bands
_CLASSES = (
    ("WD", 14000, 1.1, 34.0, 0.0, 0.0),
    ("A", 9200, 0.95, 11.0, 0.08, 0.0),
    ("F", 6900, 0.50, 6.0, 0.30, 0.0),
    ("G", 5800, 0.28, 4.0, 0.70, 0.0),
    ("K", 4700, 0.12, 3.5, 1.25, 0.10),
    ("M0", 3900, 0.03, 3.0, 1.20, 0.60),
    ("M3", 3450, 0.0, 3.0, 1.10, 1.30),
    ("M6", 2950, 0.0, 3.0, 1.00, 2.20),
)
STAR_CLASSES = tuple(row[0] for row in _CLASSES)
_ABUNDANCE = np.array([0.13, 0.12, 0.22, 0.18, 0.13, 0.08, 0.09, 0.05])

# (rest vacuum wavelength in Å, optical depth, sigma in Å)
_METAL_LINES = (
    (3735, 0.3, 10), (3820, 0.4, 10), (3934.8, 1.2, 6), (3969.6, 1.1, 6), (4046, 0.2, 4), (4227.9, 0.4, 3.5),
    (4305.6, 0.4, 9), (4384.8, 0.3, 4), (4669, 0.1, 8), (4958, 0.1, 8), (5176.6, 0.4, 8), (5211, 0.2, 4),
    (5271, 0.2, 4), (5329, 0.2, 4), (5407, 0.1, 4), (5891.6, 0.35, 2.2), (5897.6, 0.3, 2.2), (6497, 0.06, 4),
    (8500.4, 0.3, 3), (8544.4, 0.5, 3.5), (8664.5, 0.45, 3.5),
)  # fmt: skip
# molecular bands of cool dwarfs: (head in Å, optical depth, e-folding length to the red in Å)
_BANDS = (
    (4762, 0.25, 60), (4956, 0.30, 70), (5169, 0.40, 80), (5450, 0.35, 80), (5849, 0.30, 80), (6160, 0.35, 60),
    (6385, 0.12, 30), (6653, 0.30, 70), (6751, 0.30, 60), (6780, 0.25, 50), (7055, 0.55, 80), (7126, 0.40, 70),
    (7591, 0.40, 90), (7668, 0.30, 80), (8208, 0.15, 40), (8434, 0.35, 110), (8860, 0.25, 120), (9210, 0.10, 60),
)  # fmt: skip
_COOL_LINES = ((7667, 0.5, 6), (7701, 0.4, 6), (8185.5, 0.3, 3), (8197.1, 0.4, 3))


@lru_cache
def star_templates():
    """Return one spectrum for each class of `STAR_CLASSES`.

    Returns
    -------
    numpy.ndarray, shape (n_class, n_rest), float32
        Flux per Å relative to 6400 Å, on a grid uniform in ln(rest wavelength).
    """
    wavelength = np.exp(TEMPLATE_LOG_FIRST + TEMPLATE_LOG_STEP * np.arange(_N_REST))
    templates = np.stack([_star(wavelength, *row[1:]) for row in _CLASSES])
    templates /= templates[:, [np.searchsorted(wavelength, 6400)]]
    templates = templates.astype("float32")
    templates.flags.writeable = False
    return templates


def star_flux(redshift, rng):
    """Return noiseless spectra of stars, each between two neighbouring classes.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Radial velocity over the speed of light.
    rng : numpy.random.Generator
        Source of the classes.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Flux per Å on the simulator's grid, about 1 at 6400 Å.
    """
    n = len(redshift)
    kind = np.searchsorted(np.cumsum(_ABUNDANCE)[:-1] / _ABUNDANCE.sum(), rng.random(n))
    part = np.where(kind == 0, 0.0, rng.uniform(0, 1, n))  # white dwarfs have no cooler neighbour
    weights = np.zeros((n, len(_CLASSES)))
    rows = np.arange(n)
    weights[rows, kind] = 1 - part
    weights[rows, np.minimum(kind + 1, len(_CLASSES) - 1)] += part
    flux = np.zeros((n, N_WAVELENGTH), "float32")
    add_templates(
        flux, np.log(WAVELENGTH), star_templates(), TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, np.log1p(redshift), weights
    )
    return flux


def _star(wavelength, temperature, balmer_depth, balmer_sigma, metals, molecules):
    light = wavelength**-5.0 / np.expm1(1.43878e8 / (wavelength * temperature))
    is_dwarf = temperature > 12000
    light *= balmer_absorption(wavelength, balmer_depth, balmer_sigma, last_level=8 if is_dwarf else 16)
    jump = 0.05 if is_dwarf else 0.45 * min(balmer_depth, 1.0)
    light *= 1 - jump * expit((3720 - wavelength) / 25)
    lines = [(centre, metals * depth, sigma) for centre, depth, sigma in _METAL_LINES]
    lines += [(centre, min(molecules, 1.5) * depth, sigma) for centre, depth, sigma in _COOL_LINES]
    weak = np.random.default_rng(1943)
    centres, depths = weak.uniform(3600, 7500, 600), weak.exponential(0.05, 600)
    lines += zip(centres, metals * depths * (4300 / centres) ** 3, np.full(600, 2.5), strict=True)
    optical_depth = np.zeros_like(wavelength)
    for centre, depth, sigma in lines:
        optical_depth += depth * np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
    for head, depth, length in _BANDS:
        redward = np.clip(wavelength - head, 0, None)
        optical_depth += molecules * depth * np.exp(-redward / length) * expit((wavelength - head) / 3.0)
    # a blanket of metals and molecules dims the blue of cool stars
    optical_depth += 0.25 * metals * np.clip((4600 - wavelength) / 1000, 0, None)
    return light * np.exp(-optical_depth)
