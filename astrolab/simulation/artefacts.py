"""What an instrument and a pipeline leave behind: artefacts, for the simulator and for injections into real spectra.

Each takes whole arrays of shape (n_object, n_wavelength) on one shared observed grid; an artefact sits at a fixed
observed wavelength and knows nothing of redshift. What is not given is drawn, so that a benchmark can fix the dose.
"""

import numpy as np

from astrolab.airglow import AIRGLOW
from astrolab.simulation.grid import LINE_SPREAD

ARTEFACTS = ("cosmic_ray", "sky_residual", "arm_step", "dead_amplifier")

# the overlaps of DESI's cameras, Å, and the half of each camera that one amplifier reads
_OVERLAPS = ((5760.0, 5800.0), (7520.0, 7620.0))
_AMPLIFIERS = (
    (3600.0, 4700.0),
    (4700.0, 5760.0),
    (5800.0, 6690.0),
    (6690.0, 7520.0),
    (7620.0, 8670.0),
    (8670.0, 9824.0),
)


def inject_cosmic_rays(flux, ivar, rng, *, n_hits=None, amplitude=None):
    """Add a cluster of cosmic-ray hits that the pipeline missed: spikes of one to three pixels.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density and inverse variance; masked pixels (ivar 0) get no hit.
    rng : numpy.random.Generator
        Source of places, and of what is not given.
    n_hits : int or numpy.ndarray, optional
        Hits in each spectrum, at most 20; drawn from 3-12.
    amplitude : float or numpy.ndarray, optional
        Height in units of sigma, per object; drawn from 15-80.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Guy et al. (2023), AJ 165, 144 (cosmic rays in DESI).
    """
    n, n_wavelength = flux.shape
    n_hits = np.broadcast_to(rng.integers(3, 13, n) if n_hits is None else n_hits, n)
    amplitude = _column(amplitude, n, rng.uniform(15, 80, n))
    middle = rng.integers(60, n_wavelength - 60, (n, 1))
    place = np.clip(middle + rng.integers(-50, 51, (n, 20)), 1, n_wavelength - 2)
    height = amplitude * rng.uniform(0.4, 1.6, (n, 20)) * (np.arange(20) < n_hits[:, None])
    spikes = np.zeros(flux.shape, "float64")
    rows = np.arange(n)[:, None]
    for offset, share in ((-1, 0.2), (0, 1.0), (1, 0.35)):
        np.add.at(spikes, (rows, place + offset), share * height)
    return (flux + spikes * _sigma(ivar)).astype(flux.dtype)


def inject_sky_residual(flux, ivar, wavelength, rng, *, amplitude=None):
    """Leave residuals of badly subtracted sky lines: up-and-down wiggles on the airglow lines.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density and inverse variance.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of signs, and of what is not given.
    amplitude : float or numpy.ndarray, optional
        Error of the subtraction as a fraction of the sky line; drawn from 0.03-0.12.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Wild & Hewett (2005), MNRAS 358, 1083.
    """
    n = len(flux)
    amplitude = _column(amplitude, n, rng.uniform(0.03, 0.12, n))
    shift, level = rng.normal(0, 1, (n, 1)), rng.normal(0, 0.5, (n, 1))
    even, odd = np.zeros(len(wavelength)), np.zeros(len(wavelength))
    for centre, power in AIRGLOW:
        x = (wavelength - centre) / LINE_SPREAD
        profile = power / (np.sqrt(2 * np.pi) * LINE_SPREAD) * np.exp(-0.5 * np.clip(x, -30, 30) ** 2)
        even += profile
        odd += x * profile
    residual = amplitude * (level * even + shift * odd)
    return (flux + residual * (ivar > 0)).astype(flux.dtype)


def inject_arm_step(flux, wavelength, rng, *, step=None, overlap=None):
    """Multiply one camera's flux: a step where the cameras meet.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, DESI's cameras coadded.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of what is not given.
    step : float or numpy.ndarray, optional
        Fraction by which the bluer side is brighter (negative: fainter); drawn from ±0.25-0.6.
    overlap : int or numpy.ndarray, optional
        0 for the step between B and R (all of B is multiplied), 1 between R and Z (all of Z is divided); drawn.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`; within the overlap the step is a ramp, as the weights of the coadd make it.

    References
    ----------
    Guy et al. (2023), AJ 165, 144 (flux calibration, camera by camera).
    """
    n = len(flux)
    drawn = rng.uniform(0.25, 0.6, n) * rng.choice([-1.0, 1.0], n)
    step = _column(step, n, drawn)
    overlap = np.broadcast_to(rng.integers(0, 2, n) if overlap is None else overlap, n)[:, None]
    (low_b, high_b), (low_r, high_r) = _OVERLAPS
    in_b = np.clip((high_b - wavelength) / (high_b - low_b), 0, 1)
    in_z = np.clip((wavelength - low_r) / (high_r - low_r), 0, 1)
    factor = np.where(overlap == 0, 1 + step * in_b, 1 / (1 + step * in_z))
    return (flux * factor).astype(flux.dtype)


def inject_dead_amplifier(flux, ivar, wavelength, rng, *, amplifier=None):
    """Lose the half of a camera that one amplifier reads, as DESI's masks do: flux and ivar are 0 there.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density and inverse variance.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of what is not given.
    amplifier : int or numpy.ndarray, optional
        0 to 5, from blue to red, two to a camera; drawn.

    Returns
    -------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        New arrays.
    """
    n = len(flux)
    amplifier = np.broadcast_to(rng.integers(0, len(_AMPLIFIERS), n) if amplifier is None else amplifier, n)
    low, high = np.asarray(_AMPLIFIERS)[amplifier].T[..., None]
    is_dead = (wavelength >= low) & (wavelength < high)
    return np.where(is_dead, flux.dtype.type(0), flux), np.where(is_dead, ivar.dtype.type(0), ivar)


def _column(value, n_object, drawn):
    value = drawn if value is None else value
    return np.broadcast_to(np.asarray(value, float), n_object)[:, None]


def _sigma(ivar):
    good = ivar > 0
    return np.where(good, 1 / np.sqrt(np.where(good, ivar, 1)), 0)
