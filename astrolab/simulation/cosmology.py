"""How bright an object of a given magnitude and redshift is: flat ΛCDM, H0 = 70 km/s/Mpc, Ωm = 0.3."""

import numpy as np

from astrolab.lines import SPEED_OF_LIGHT

R_BAND = (5620.0, 7160.0)  # Å, where the r band of the Legacy Surveys passes half its peak
R_EFFECTIVE = 6420.0  # Å
_HUBBLE, _MATTER = 70.0, 0.3


def luminosity_distance(redshift):
    """Return the luminosity distance.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Between 0 and 6.

    Returns
    -------
    numpy.ndarray, shape (n_object,)
        Mpc.

    Examples
    --------
    >>> float(luminosity_distance(1.0).round(-1))
    6610.0
    """
    steps = np.linspace(0, 6, 6001)
    inverse = 1 / np.sqrt(_MATTER * (1 + steps) ** 3 + 1 - _MATTER)
    comoving = np.concatenate([[0], np.cumsum((inverse[1:] + inverse[:-1]) / 2)]) * steps[1]
    return SPEED_OF_LIGHT / _HUBBLE * np.interp(redshift, steps, comoving) * (1 + np.asarray(redshift))


def magnitude_to_flux(magnitude):
    """Return the flux density that an AB magnitude in r stands for.

    Parameters
    ----------
    magnitude : numpy.ndarray
        AB magnitude at 6420 Å.

    Returns
    -------
    numpy.ndarray
        1e-17 erg/s/cm2/Å.

    Examples
    --------
    >>> float(magnitude_to_flux(22.5).round(3))
    0.264
    """
    per_hertz = 10 ** (-0.4 * (np.asarray(magnitude) + 48.6))
    return per_hertz * SPEED_OF_LIGHT * 1e13 / R_EFFECTIVE**2 * 1e17


def log_luminosity(redshift, magnitude):
    """Return the luminosity λL(3000 Å) of a quasar, for a power law of index -1.56 in flux per Å.

    Parameters
    ----------
    redshift, magnitude : numpy.ndarray, shape (n_object,)
        Redshift and r magnitude (AB).

    Returns
    -------
    numpy.ndarray, shape (n_object,)
        log10 of erg/s.

    Examples
    --------
    >>> float(log_luminosity(1.7, 21.5).round(1))
    44.9
    """
    distance = luminosity_distance(redshift) * 3.0857e24
    observed = magnitude_to_flux(magnitude) * 1e-17 * R_EFFECTIVE
    at_rest = (3000.0 * (1 + np.asarray(redshift)) / R_EFFECTIVE) ** -0.56
    return np.log10(4 * np.pi * distance**2 * observed * at_rest)
