"""Intervening hydrogen and metals: the Lyα and Lyβ forests, Lyman-limit absorption, Mg II and C IV systems."""

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from astrolab.simulation.grid import LINE_SPREAD, N_WAVELENGTH, WAVELENGTH, WAVELENGTH_FIRST, WAVELENGTH_STEP
from astrolab.simulation.profiles import add_gaussians

LYA, LYB, LYMAN_LIMIT = 1215.67, 1025.72, 911.76
_LYB_TO_LYA = 0.0791 / 0.4164 * LYB / LYA  # ratio of the optical depths: oscillator strength times wavelength
_SIGMA_LOG = 1.9  # scatter of ln(optical depth) in a pixel; sets the variance of the flux
_METALS = ((2796.35, 1.0), (2803.53, 0.6), (2600.17, 0.35), (2382.76, 0.45), (1548.20, 0.5), (1550.78, 0.3))


def effective_optical_depth(redshift):
    """Return the effective optical depth of the Lyα forest, -ln of the mean transmission.

    Parameters
    ----------
    redshift : numpy.ndarray
        Redshift of the absorbing hydrogen.

    Returns
    -------
    numpy.ndarray
        ``0.0023 (1 + z)**3.65`` (Kim et al. 2007, MNRAS 382, 1657).

    Examples
    --------
    >>> float(effective_optical_depth(2.5).round(2))
    0.22
    """
    return 0.0023 * (1 + np.asarray(redshift)) ** 3.65


def forest_transmission(redshift, rng):
    """Return the transmission of the intergalactic medium: forests of Lyα and Lyβ, and Lyman-limit systems.

    The optical depth is lognormal (Bi & Davidsen 1997, ApJ 479, 523), with structure on two scales (about 80 and 500
    km/s), and its mean transmission is `effective_optical_depth`. Each object draws one Lyman-limit system, at about
    the density of Prochaska et al. (2010, ApJ 718, 392).

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Redshift of the quasar; there is no absorption redward of its Lyα.
    rng : numpy.random.Generator
        Source of the density field.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Between 0 and 1, on the simulator's grid (observed frame); 1 for every pixel of an object without Lyα in range.
    """
    transmission = np.ones((len(redshift), N_WAVELENGTH), "float32")
    limit_redshift = _nearest_limit_system(redshift, rng)
    limit_depth = 10 ** rng.uniform(-0.5, 1.5, len(redshift))
    seen = np.flatnonzero(LYA * (1 + redshift) > WAVELENGTH_FIRST)
    if seen.size == 0:
        return transmission
    n_blue = int(np.searchsorted(WAVELENGTH, LYA * (1 + redshift[seen].max())))
    wavelength = WAVELENGTH[:n_blue].astype("float32")
    depth = _lognormal_depth(seen.size, n_blue, rng)
    depth[wavelength >= np.float32(LYA) * (1 + redshift[seen, None]).astype("float32")] = 0
    depth += _lyman_beta_depth(depth, n_blue)
    with_limit = limit_redshift[seen] > WAVELENGTH_FIRST / LYMAN_LIMIT - 1
    edge = (LYMAN_LIMIT * (1 + limit_redshift[seen[with_limit], None])).astype("float32")
    own = limit_depth[seen[with_limit], None].astype("float32")
    depth[with_limit] += np.where(wavelength < edge, own * (wavelength / edge) ** 3, np.float32(0))
    transmission[seen, :n_blue] = np.exp(-depth)
    return transmission


def metal_transmission(redshift, rng):
    """Return the transmission of intervening metal systems: Mg II, Fe II and C IV at up to two redshifts an object.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Redshift of the quasar; absorbers lie in front of it.
    rng : numpy.random.Generator
        Source of the systems: a third of all sight lines has one, a tenth two; rest equivalent widths of Mg II 2796
        fall exponentially with 0.7 Å (Nestor, Turnshek & Rao 2005, ApJ 628, 637).

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Between 0 and 1, on the simulator's grid (observed frame).
    """
    n = len(redshift)
    depth = np.zeros((n, N_WAVELENGTH), "float32")
    for probability in (0.33, 0.10):
        is_there = rng.random(n) < probability
        absorber = redshift * rng.uniform(0.3, 0.99, n)
        width = rng.exponential(0.7, n)
        rest, relative = np.transpose(_METALS)
        centre = rest * (1 + absorber[:, None])
        centre = np.where(centre > LYA * (1 + redshift[:, None]), centre, 0)
        sigma = np.hypot(centre * 60 / 299792.458, LINE_SPREAD)
        equivalent = np.where(is_there, width, 0)[:, None] * relative * (1 + absorber[:, None])
        add_gaussians(
            depth, WAVELENGTH_FIRST, WAVELENGTH_STEP, centre, sigma, equivalent / (np.sqrt(2 * np.pi) * sigma)
        )
    np.negative(depth, out=depth)
    return np.exp(depth, out=depth)


def _lognormal_depth(n_object, n_blue, rng):
    field = rng.standard_normal((n_object, n_blue), dtype="float32")
    small = gaussian_filter1d(field, 1.1, axis=1, mode="wrap", truncate=3)
    large = gaussian_filter1d(field[:, ::-1], 6.0, axis=1, mode="wrap", truncate=3)
    # a white field smoothed by a Gaussian of sigma s pixels keeps the variance 1 / (2 sqrt(pi) s)
    small *= np.float32(np.sqrt(0.7 * 2 * np.sqrt(np.pi) * 1.1))
    large *= np.float32(np.sqrt(0.3 * 2 * np.sqrt(np.pi) * 6.0))
    small += large
    small *= np.float32(_SIGMA_LOG)
    small += _log_scale(n_blue)
    return np.exp(small, out=small)


@lru_cache
def _log_scale(n_blue):
    """Return ln of the median optical depth that gives the wanted mean transmission at each pixel."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    log_scale = np.linspace(-12, 6, 400)
    mean = np.exp(-np.exp(log_scale[:, None] + _SIGMA_LOG * nodes)) @ weights
    wanted = effective_optical_depth(WAVELENGTH[:n_blue] / LYA - 1)
    return np.interp(wanted, -np.log(mean), log_scale).astype("float32")


def _lyman_beta_depth(depth, n_blue):
    """Lyβ of the same hydrogen: the Lyα optical depth where its wavelength is longer by the ratio of the two lines."""
    place = (WAVELENGTH[:n_blue] * (LYA / LYB) - WAVELENGTH_FIRST) / WAVELENGTH_STEP
    cell = np.rint(place).astype(int)
    inside = cell < n_blue
    beta = np.zeros_like(depth)
    beta[:, inside] = np.float32(_LYB_TO_LYA) * depth[:, cell[inside]]
    return beta


def _nearest_limit_system(redshift, rng):
    """Return the redshift of the first thick absorber; 1.9 (1 + z) / 4.7 of them lie in unit redshift."""
    path = rng.exponential(1.0, len(redshift))
    return redshift - path / (1.9 * (1 + redshift) / 4.7)
