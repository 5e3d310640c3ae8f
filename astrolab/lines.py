"""The table of spectral lines: names and rest vacuum wavelengths in Å.

Sources: Vanden Berk et al. (2001, AJ 122, 549) for quasar lines; NIST Atomic Spectra Database for wavelengths.
"""

from typing import NamedTuple

import numpy as np

SPEED_OF_LIGHT = 299792.458  # km/s


class Line(NamedTuple):
    """One spectral line.

    Attributes
    ----------
    name : str
        As astronomers write it, such as ``"C IV"`` or ``"[O III] 5007"``.
    wavelength : float
        Rest vacuum wavelength, Å.
    is_major : bool
        Strong enough in quasars or galaxies to label in every plot.
    is_broad : bool
        Comes from the broad-line region of a quasar.
    """

    name: str
    wavelength: float
    is_major: bool
    is_broad: bool


_LINES = (
    Line("Lyβ", 1025.72, False, True),
    Line("O VI", 1033.83, False, True),
    Line("Lyα", 1215.67, True, True),
    Line("N V", 1240.14, False, True),
    Line("Si II", 1262.59, False, True),
    Line("O I", 1304.35, False, True),
    Line("C II", 1335.30, False, True),
    Line("Si IV", 1396.76, True, True),
    Line("C IV", 1549.06, True, True),
    Line("He II 1640", 1640.42, False, True),
    Line("O III] 1663", 1663.48, False, True),
    Line("Al III", 1857.40, False, True),
    Line("C III]", 1908.73, True, True),
    Line("[Ne IV]", 2423.83, False, False),
    Line("Mg II", 2798.75, True, True),
    Line("[Ne V]", 3426.84, False, False),
    Line("[O II]", 3728.48, True, False),
    Line("[Ne III]", 3869.85, False, False),
    Line("Ca K", 3934.78, False, False),
    Line("Ca H", 3969.59, False, False),
    Line("Hδ", 4102.89, False, True),
    Line("Hγ", 4341.68, False, True),
    Line("He II 4686", 4687.02, False, True),
    Line("Hβ", 4862.68, True, True),
    Line("[O III] 4959", 4960.30, False, False),
    Line("[O III] 5007", 5008.24, True, False),
    Line("Mg I b", 5176.63, False, False),
    Line("He I", 5877.25, False, True),
    Line("Na D", 5895.60, False, False),
    Line("[Fe VII]", 6088.70, False, False),
    Line("[O I]", 6302.05, False, False),
    Line("[Fe X]", 6376.30, False, False),
    Line("Hα", 6564.61, True, True),
    Line("[N II]", 6585.27, False, False),
    Line("[S II]", 6725.48, False, False),
)


def spectral_lines(only_major=False):
    """Return the table of spectral lines.

    Parameters
    ----------
    only_major : bool, optional
        Leave out the weaker ones.

    Returns
    -------
    tuple of Line
        Sorted by rest vacuum wavelength (Å).

    Examples
    --------
    >>> [line.name for line in spectral_lines(only_major=True)][:3]
    ['Lyα', 'Si IV', 'C IV']
    """
    return tuple(line for line in _LINES if line.is_major or not only_major)


def lines_between(wavelength_min, wavelength_max, only_major=False):
    """Return the lines in an interval of rest wavelength.

    Parameters
    ----------
    wavelength_min, wavelength_max : float or astropy.units.Quantity
        Interval in Å (or in the unit they have), rest frame, vacuum.
    only_major : bool, optional
        Leave out the weaker ones.

    Returns
    -------
    tuple of Line
        Sorted by wavelength; empty when there is none.

    Raises
    ------
    ValueError
        If an end has a unit that is no length.

    Examples
    --------
    >>> [line.name for line in lines_between(4900, 5100)]
    ['[O III] 4959', '[O III] 5007']
    """
    wavelength_min, wavelength_max = without_unit(wavelength_min), without_unit(wavelength_max)
    return tuple(line for line in spectral_lines(only_major) if wavelength_min <= line.wavelength <= wavelength_max)


def without_unit(value, unit="Angstrom"):
    """Return plain numbers in a unit; what has another one is converted, never stripped of it.

    Parameters
    ----------
    value : array_like, astropy.units.Quantity, astropy.table.Column or xarray.DataArray
        A Quantity or Column may have a unit, a DataArray ``attrs["units"]``; without one it is taken to be `unit`.
    unit : str, optional
        The unit wanted.

    Returns
    -------
    float, numpy.ndarray or what was given
        Unchanged where it had no unit.

    Raises
    ------
    ValueError
        If its unit cannot be converted.

    Examples
    --------
    >>> from astropy import units
    >>> round(without_unit(121.567 * units.nm), 2)
    1215.67
    """
    given = getattr(value, "unit", None)
    given = getattr(value, "attrs", {}).get("units") if given is None else given
    if given is None or (isinstance(given, str) and given == unit):
        return value
    from astropy import units  # here: few give units, and it takes a while

    try:
        converted = units.Quantity(np.asarray(getattr(value, "value", value)), given).to_value(unit)
    except (ValueError, TypeError) as error:
        raise ValueError(f"a value is given in {str(given)!r}, expected {unit}, a unit like it, or none.") from error
    return converted if converted.ndim else converted.item()
