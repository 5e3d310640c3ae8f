"""Galaxies: old, intermediate and young stars, and the emission lines of their gas; also the hosts of quasars.

The stellar spectra are not from a stellar library: they are analytic likenesses of populations of about 8 Gyr, 0.7 Gyr
and 20 Myr (continuum, 4000 Å and Balmer breaks, the strongest absorption lines and bands), after the atlases of
Kennicutt (1992, ApJS 79, 255) and Bruzual & Charlot (2003, MNRAS 344, 1000). Good enough to look like a galaxy to a
quasar survey, not to measure an age with.
"""

from functools import lru_cache

import numpy as np
from scipy.special import expit

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.simulation.grid import LINE_SPREAD, N_WAVELENGTH, WAVELENGTH, WAVELENGTH_FIRST, WAVELENGTH_STEP
from astrolab.simulation.profiles import add_gaussians, add_templates

OLD, INTERMEDIATE, YOUNG = 0, 1, 2
TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP = np.log(800.0), 1.2e-4
_N_TEMPLATE = 22800

# continuum at (Å, flux per Å relative to 5100 Å)
_OLD_SHAPE = (
    (800, 0.01), (1500, 0.02), (2500, 0.06), (2900, 0.14), (3300, 0.26), (3700, 0.36), (3920, 0.42), (4030, 0.62),
    (4250, 0.70), (4400, 0.82), (4700, 0.94), (5100, 1.00), (5500, 1.05), (6000, 1.06), (7000, 1.02), (8000, 0.97),
    (9000, 0.88), (10000, 0.78), (12500, 0.60),
)  # fmt: skip
_INTERMEDIATE_SHAPE = (
    (800, 0.02), (1300, 0.10), (1700, 0.30), (2500, 0.55), (3000, 0.65), (3640, 0.75), (3740, 0.88), (3860, 1.25),
    (4050, 1.42), (4300, 1.36), (4700, 1.18), (5100, 1.00), (6000, 0.78), (7000, 0.60), (8000, 0.48), (10000, 0.32),
    (12500, 0.22),
)  # fmt: skip
# absorption: (rest vacuum wavelength in Å, depth, sigma in Å)
_METAL_LINES = (
    (3735, 0.12, 14), (3834, 0.22, 14), (3872, 0.16, 16), (3934.8, 0.50, 5.5), (3969.6, 0.46, 5.5), (4046, 0.08, 6),
    (4103, 0.08, 5), (4176, 0.08, 10), (4228, 0.18, 4), (4305.6, 0.26, 10), (4341.7, 0.08, 5), (4384, 0.18, 6),
    (4532, 0.08, 9), (4669, 0.08, 9), (4862.7, 0.12, 4.5), (4958, 0.05, 12), (5015, 0.10, 9), (5105, 0.06, 40),
    (5176, 0.22, 11), (5210, 0.10, 7), (5271, 0.13, 6), (5331, 0.11, 6), (5407, 0.06, 5), (5711, 0.04, 6),
    (5895.6, 0.26, 4.5), (6230, 0.05, 25), (6496, 0.05, 6), (6564.6, 0.08, 3.5), (7110, 0.06, 50), (7220, 0.05, 40),
    (8190, 0.06, 6), (8420, 0.05, 25), (8500.4, 0.18, 4), (8544.4, 0.34, 4.5), (8664.5, 0.28, 4.5),
)  # fmt: skip
# emission: (rest vacuum wavelength in Å, ratio to Hβ, group): 0 hydrogen, 1 [O II], 2 high ionisation, 3 low ionisation
NEBULAR_LINES = (
    (3727.09, 1.2, 1), (3729.88, 1.6, 1), (3869.85, 0.25, 2), (3889.9, 0.10, 0), (3971.2, 0.16, 0), (4102.89, 0.26, 0),
    (4341.68, 0.47, 0), (4862.68, 1.0, 0), (4960.30, 0.45, 2), (5008.24, 1.35, 2), (5877.25, 0.12, 0),
    (6302.05, 0.10, 3), (6549.85, 0.33, 3), (6564.61, 2.86, 0), (6585.27, 1.0, 3), (6718.29, 0.55, 3),
    (6732.67, 0.42, 3),
)  # fmt: skip


@lru_cache
def galaxy_templates():
    """Return the spectra of the three stellar populations.

    Returns
    -------
    numpy.ndarray, shape (3, n_rest), float32
        Old, intermediate, young; flux per Å relative to 5100 Å, on a grid uniform in ln(rest wavelength).
    """
    wavelength = np.exp(TEMPLATE_LOG_FIRST + TEMPLATE_LOG_STEP * np.arange(_N_TEMPLATE))
    old = _smooth_shape(wavelength, _OLD_SHAPE) * _metal_absorption(wavelength)
    intermediate = _smooth_shape(wavelength, _INTERMEDIATE_SHAPE) * balmer_absorption(wavelength, 0.45, 9.0)
    young = (wavelength / 5100) ** -1.5 * balmer_absorption(wavelength, 0.12, 5.0)
    young *= 1 - 0.12 * expit((3680 - wavelength) / 20)
    young[wavelength < 911.8] = 0
    templates = np.stack([old, intermediate, young])
    templates /= templates[:, [np.searchsorted(wavelength, 5080)]]
    templates = templates.astype("float32")
    templates.flags.writeable = False
    return templates


def balmer_absorption(wavelength, depth, sigma, last_level=16):
    """Return the transmission of a stellar Balmer series: a Gaussian core and a Lorentzian wing in each line.

    Parameters
    ----------
    wavelength : numpy.ndarray
        Rest vacuum wavelength, Å.
    depth : float
        Depth of Hβ, 0 to 1.
    sigma : float
        Width of Hβ, Å.
    last_level : int, optional
        Upper level of the last line: high ones dissolve in dense atmospheres (white dwarfs).

    Returns
    -------
    numpy.ndarray
        Between 0 and 1.
    """
    optical_depth = np.zeros_like(wavelength)
    for level in range(3, last_level + 1):
        centre = 3647.05 * level**2 / (level**2 - 4)
        strength = depth * (0.75 if level == 3 else 1.1) * (1 - ((level - 3) / (last_level - 2)) ** 2)
        x = (wavelength - centre) / sigma
        optical_depth += strength * (0.6 * np.exp(-0.5 * x**2) + 0.4 / (1 + (x / 1.8) ** 2))
    return np.exp(-optical_depth * 1.3)


def add_galaxy(out, redshift, weights):
    """Add redshifted starlight to every spectrum, in place.

    Parameters
    ----------
    out : numpy.ndarray, shape (n_object, n_wavelength), float32
        On the simulator's grid, observed frame.
    redshift : numpy.ndarray, shape (n_object,)
        Redshift.
    weights : numpy.ndarray, shape (n_object, 3)
        Flux at 5100 Å (rest) of old, intermediate and young stars, in the unit of `out`.
    """
    add_templates(
        out, np.log(WAVELENGTH), galaxy_templates(), TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, np.log1p(redshift), weights
    )


def galaxy_flux(redshift, rng):
    """Return noiseless galaxy spectra: a mix of populations, and nebular lines where there are young stars.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Redshift.
    rng : numpy.random.Generator
        Source of the mix and of the line strengths.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Flux per Å on the simulator's grid, about 1 at 5100 Å (rest).
    """
    n = len(redshift)
    young = np.where(rng.random(n) < 0.45, rng.uniform(0, 0.04, n), rng.uniform(0.1, 0.7, n))
    middle = rng.uniform(0, 0.6, n) * (1 - young)
    weights = np.stack([1 - young - middle, middle, young], axis=1)
    flux = np.zeros((n, N_WAVELENGTH), "float32")
    add_galaxy(flux, redshift, weights)
    wavelength, ratio, group = np.transpose(NEBULAR_LINES)
    scale = np.ones((n, 4))
    scale[:, 1] = 10 ** rng.normal(0, 0.15, n)
    scale[:, 2] = 10 ** rng.normal(0, 0.3, n)
    scale[:, 3] = 10 ** rng.normal(0, 0.15, n)
    power = 16 * young * 10 ** rng.normal(0, 0.2, n)  # Å of Hβ over the light at 5100 Å
    velocity_sigma = rng.uniform(50, 160, n)
    stretch = (1 + redshift)[:, None]
    sigma = np.hypot(wavelength * stretch * velocity_sigma[:, None] / SPEED_OF_LIGHT, LINE_SPREAD)
    total = power[:, None] * ratio * scale[:, group.astype(int)] * stretch
    peak = total / (np.sqrt(2 * np.pi) * sigma)
    add_gaussians(flux, WAVELENGTH_FIRST, WAVELENGTH_STEP, wavelength * stretch, sigma, peak)
    return flux


def _smooth_shape(wavelength, points):
    place, value = np.transpose(points)
    return np.exp(np.interp(np.log(wavelength), np.log(place), np.log(value)))


def _metal_absorption(wavelength):
    optical_depth = np.zeros_like(wavelength)
    # hundreds of weak iron lines are the texture between the strong features
    weak = np.random.default_rng(1989)
    centres, depths = weak.uniform(3200, 7000, 500), weak.exponential(0.03, 500)
    lines = [*_METAL_LINES, *zip(centres, depths * (4300 / centres) ** 4, np.full(500, 4.0), strict=True)]
    for centre, depth, sigma in lines:
        near = slice(*np.searchsorted(wavelength, (centre - 6 * sigma, centre + 6 * sigma)))
        optical_depth[near] += depth * np.exp(-0.5 * ((wavelength[near] - centre) / sigma) ** 2)
    return np.exp(-optical_depth)
