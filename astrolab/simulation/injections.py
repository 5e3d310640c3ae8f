"""Injections into observed spectra: what of a spectrum is signal, and the families that a simulator has no need of.

Each injector takes whole arrays of shape (n_object, n_wavelength) on one shared observed grid. The noise of an observed
spectrum stays as its own ivar says, because only the smooth `signal` is changed.
"""

import numpy as np
from scipy.ndimage import uniform_filter1d

from astrolab.lines import SPEED_OF_LIGHT

SDSS_DICHROIC = 6000.0  # Å, where the two arms of the SDSS and BOSS spectrographs meet (Smee et al. 2013, AJ 146, 32)


def smooth_spectra(flux, ivar, wavelength, *, velocity=600.0):
    """Smooth observed spectra: an estimate of the signal without the noise.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density and inverse variance, observed frame; pixels with ``ivar == 0`` do not count.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    velocity : float, optional
        Sigma of the Gaussian kernel in km/s, at the middle of the grid.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        In the unit of `flux`, dtype of `flux`; 0 farther than a few sigma from any good pixel.
    """
    middle = len(wavelength) // 2
    step = SPEED_OF_LIGHT * (wavelength[middle + 1] / wavelength[middle] - 1)
    top, weight = np.where(ivar > 0, flux, 0).astype("float64"), (ivar > 0).astype("float64")
    width = 2 * round(velocity / step) + 1
    for _ in range(3):  # three boxes of width 2 sigma are nearly a Gaussian, and cost the same at any width
        top, weight = (uniform_filter1d(one, width, axis=1, mode="constant") for one in (top, weight))
    return np.where(weight > 1e-3, top / np.maximum(weight, 1e-3), 0).astype(flux.dtype)


def split_lines(signal, ivar, wavelength, *, velocity=12_000.0):
    """Split smoothed spectra into a continuum and the emission lines on it.

    The continuum is the spectrum smoothed over widths of the broadest lines, again and again with what stands above it
    cut off. It follows breaks and slopes of the instrument too; of a blend of lines as wide as iron's, part is taken
    for continuum.

    Parameters
    ----------
    signal, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        From `smooth_spectra`, and the inverse variance; pixels with ``ivar == 0`` do not count.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    velocity : float, optional
        Sigma of the continuum's kernel in km/s.

    Returns
    -------
    continuum, lines : numpy.ndarray, shape (n_object, n_wavelength)
        In the unit of `signal`; `lines` is not negative.
    """
    continuum, clipped = signal, signal
    for _ in range(6):
        continuum = smooth_spectra(clipped, ivar, wavelength, velocity=velocity)
        clipped = np.minimum(signal, continuum)
    return continuum, np.maximum(signal - continuum, 0)


def inject_power_law(flux, wavelength, rng, *, signal, share=None, slope=None):
    """Let a featureless power law outshine the quasar: a blazar's beamed synchrotron light dilutes every line.

    Parameters
    ----------
    flux, signal : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame, and a smooth model of it.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of what is not given.
    share : float or numpy.ndarray, optional
        Share of the median light that is the power law's, 0 to 1; drawn from 0.6-0.98. The total stays.
    slope : float or numpy.ndarray, optional
        Index of flux per Å; drawn from -1.5 to -0.5, where BL Lac objects lie.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Plotkin et al. (2010), AJ 139, 390 (BL Lac objects in SDSS).
    """
    n = len(flux)
    share = _column(share, n, rng.uniform(0.6, 0.98, n))
    slope = _column(slope, n, rng.uniform(-1.5, -0.5, n))
    law = (wavelength / np.median(wavelength)) ** slope
    level = np.stack([np.median(one[one != 0]) if np.any(one != 0) else 0.0 for one in signal])[:, None]
    return (flux + share * (law * level - signal)).astype(flux.dtype)


def inject_observed_dip(flux, wavelength, rng, *, signal, depth=None, centre=5200.0, width=30.0):
    """Leave a dip at one observed wavelength, the same in every object, as a bad column or a flat field does.

    Parameters
    ----------
    flux, signal : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame, and a smooth model of it.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of what is not given.
    depth : float or numpy.ndarray, optional
        Fraction of the light missing at the centre, 0 to 1; drawn from 0.2-0.9.
    centre, width : float, optional
        Centre and sigma of the Gaussian dip, observed Å.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.
    """
    depth = _column(depth, len(flux), rng.uniform(0.2, 0.9, len(flux)))
    profile = np.exp(-0.5 * np.clip((wavelength - centre) / width, -30, 30) ** 2)
    return (flux - depth * profile * signal).astype(flux.dtype)


def inject_dichroic_step(flux, wavelength, rng, *, signal, step=None, centre=SDSS_DICHROIC, reach=250.0):
    """Leave a step at the dichroic that dies away on both sides, as an ill-known transmission curve does.

    Unlike an offset of a whole arm it touches only the neighbourhood of the step.

    Parameters
    ----------
    flux, signal : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame, and a smooth model of it.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of signs, and of what is not given.
    step : float or numpy.ndarray, optional
        Height of the step as a fraction of the light; drawn from 0.1-0.6. Its sign is drawn.
    centre, reach : float, optional
        Wavelength of the dichroic, and the length over which the error dies away, observed Å.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Smee et al. (2013), AJ 146, 32 (the dichroics of the SDSS and BOSS spectrographs).
    """
    n = len(flux)
    step = _column(step, n, rng.uniform(0.1, 0.6, n)) * rng.choice([-1.0, 1.0], (n, 1))
    offset = wavelength - centre
    profile = 0.5 * np.sign(offset) * np.exp(-np.abs(offset) / reach)
    return (flux + step * profile * signal).astype(flux.dtype)


def inject_light_loss(flux, wavelength, rng, *, signal, loss=None, interval=None):
    """Lose part of the light that one amplifier read, unflagged: flux is too low there and ivar does not say so.

    Parameters
    ----------
    flux, signal : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame, and a smooth model of it.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    rng : numpy.random.Generator
        Source of what is not given.
    loss : float or numpy.ndarray, optional
        Fraction lost, 1 for a dead amplifier; drawn from 0.3-1.
    interval : numpy.ndarray, shape (n_object, 2), optional
        First and last observed wavelength in Å; by default 800 Å from a place drawn between 4,500 and 7,500 Å.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.
    """
    n = len(flux)
    loss = _column(loss, n, rng.uniform(0.3, 1.0, n))
    first = rng.uniform(4500, 7500, n)
    low, high = (np.stack([first, first + 800.0]) if interval is None else np.transpose(interval))[..., None]
    return (flux - loss * signal * ((wavelength >= low) & (wavelength < high))).astype(flux.dtype)


def _column(value, n_object, drawn):
    value = drawn if value is None else value
    return np.broadcast_to(np.asarray(value, float), n_object)[:, None]
