"""The instrument: how many electrons a flux makes in DESI's three cameras, and the noise that follows.

Throughput, sky and read noise were set so that the inverse variance of a 1000 s exposure agrees with published DESI
Early Data Release coadds to about 20 % (see the tests). What is left out: the extraction's pixel correlations,
fibre-to-fibre differences, moonlight, and errors of the sky subtraction (those are artefacts:
`astrolab.simulation.artefacts`).

References: DESI Collaboration (2022), AJ 164, 207; Guy et al. (2023), AJ 165, 144.
"""

from functools import lru_cache

import numpy as np

from astrolab.simulation.grid import CAMERAS, N_WAVELENGTH, WAVELENGTH, WAVELENGTH_STEP
from astrolab.simulation.profiles import add_camera_ivar, add_noise
from astrolab.simulation.sky import sky_brightness

EXPOSURE_TIME = 1000.0  # s, effective time of one exposure of the dark program
READ_VARIANCE = 45.0  # electrons squared in one extracted pixel and exposure: about 3 e- over five detector pixels
_MIRROR_AREA = 8.66e4  # cm2, clear aperture of the Mayall telescope
_PHOTON_ENERGY = 1.98645e-8  # erg Å: Planck's constant times the speed of light

# atmosphere, telescope, fibre aperture and spectrograph together, at (Å, fraction)
_THROUGHPUT = {
    "b": (
        (3600, 0.020), (3700, 0.034), (3800, 0.048), (4000, 0.075), (4400, 0.107), (4800, 0.128),
        (5200, 0.137), (5600, 0.138), (5730, 0.132), (5760, 0.118), (5800, 0.055),
    ),
    "r": (
        (5760, 0.022), (5780, 0.050), (5800, 0.080), (5840, 0.125), (6000, 0.155), (6400, 0.188), (6800, 0.205),
        (7200, 0.205), (7500, 0.190), (7560, 0.165), (7620, 0.075),
    ),
    "z": (
        (7520, 0.040), (7560, 0.080), (7620, 0.150), (7800, 0.205), (8400, 0.245), (9000, 0.255),
        (9300, 0.230), (9600, 0.190), (9824, 0.130),
    ),
}  # fmt: skip

# absorption bands of the atmosphere, (centre and half width in Å, depth): O2 B and A, and water vapour
_TELLURIC = ((6876, 8, 0.25), (7190, 25, 0.1), (7605, 13, 0.6), (8190, 50, 0.1), (9350, 50, 0.45), (9530, 40, 0.25))


@lru_cache
def electrons_per_flux(camera):
    """Return how many electrons one unit of flux makes in one pixel of a camera in one second.

    Parameters
    ----------
    camera : {'b', 'r', 'z'}
        The camera.

    Returns
    -------
    numpy.ndarray, shape (n_wavelength of the camera,), float64
        Electrons per second for a flux of 1e-17 erg/s/cm2/Å, on the camera's part of the grid (observed frame, vacuum).
    """
    wavelength = WAVELENGTH[CAMERAS[camera]]
    throughput = np.interp(wavelength, *np.transpose(_THROUGHPUT[camera]))
    for centre, half_width, depth in _TELLURIC:
        throughput *= 1 - depth * np.exp(-0.5 * ((wavelength - centre) / half_width) ** 2)
    rate = 1e-17 * WAVELENGTH_STEP * _MIRROR_AREA * wavelength / _PHOTON_ENERGY * throughput
    rate.flags.writeable = False
    return rate


def coadd_ivar(flux, n_exposures, efficiency, cameras="brz"):
    """Return the inverse variance of the coadded cameras: photons of object and sky, and read noise.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength), float32
        Noiseless flux on the simulator's grid, 1e-17 erg/s/cm2/Å, observed frame.
    n_exposures : numpy.ndarray, shape (n_object,)
        Exposures of `EXPOSURE_TIME`.
    efficiency : numpy.ndarray, shape (n_object,)
        Throughput of the nights relative to a nominal one.
    cameras : str, optional
        Which cameras; where two overlap their inverse variances add up.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Inverse variance in 1e34 erg-2 s2 cm4 Å2; 0 where none of the cameras looks.
    """
    ivar = np.zeros((len(flux), N_WAVELENGTH), "float32")
    exposures = np.asarray(n_exposures, "float64")
    for camera in cameras:
        pixels = CAMERAS[camera]
        gain = EXPOSURE_TIME * electrons_per_flux(camera)
        sky = sky_brightness()[pixels]
        add_camera_ivar(ivar, flux, pixels.start, gain, sky, np.asarray(efficiency), exposures, READ_VARIANCE)
    return ivar


def observe(flux, n_exposures, efficiency, rng, with_noise=True):
    """Observe noiseless spectra: return flux with noise, and its inverse variance.

    The ivar-weighted mean of independent Gaussian measurements by two cameras is a Gaussian measurement whose ivar is
    their sum, so the coadd is drawn directly. A few short runs of pixels are lost to cosmic rays, as in every real
    coadd.

    Parameters
    ----------
    flux, n_exposures, efficiency
        As for `coadd_ivar`.
    rng : numpy.random.Generator
        Source of the noise, drawn spectrum by spectrum.
    with_noise : bool, optional
        False leaves the flux noiseless; inverse variance and lost pixels are the same.

    Returns
    -------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength), float32
        Observed flux and its true inverse variance; both 0 where a pixel was lost.
    """
    ivar = coadd_ivar(flux, n_exposures, efficiency)
    n_hits, longest = 4, 6
    start = rng.integers(0, N_WAVELENGTH - longest, (len(flux), n_hits))
    length = rng.integers(0, longest + 1, (len(flux), n_hits))
    run = np.arange(longest)
    row, hit, place = np.nonzero(run < length[..., None])
    ivar[row, start[row, hit] + run[place]] = 0
    noise = rng.standard_normal(flux.shape, dtype="float32") if with_noise else np.zeros_like(flux)
    observed = flux.copy()
    add_noise(observed, ivar, noise)
    return observed, ivar
