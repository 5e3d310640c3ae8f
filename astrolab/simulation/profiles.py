"""Compiled kernels that add line profiles and templates to whole arrays of spectra.

A Gaussian on a uniform grid obeys a two-term recurrence, so that a pixel costs two products and no exponential; the
kernels walk only the pixels a line reaches. They release the GIL, so that Dask's threads run side by side.
"""

import math

import numpy as np
from numba import njit

_REACH = 6.0  # sigmas: a Gaussian is 1.5e-8 of its peak there


@njit(nogil=True, cache=True)
def add_gaussians(out, first, step, centre, sigma, amplitude):
    """Add Gaussian lines to every spectrum, in place.

    Parameters
    ----------
    out : numpy.ndarray, shape (n_object, n_wavelength), float32
        What the lines are added to (flux, or optical depth).
    first, step : float
        The uniform wavelength grid, Å, in the frame of `centre`.
    centre, sigma, amplitude : numpy.ndarray, shape (n_object, n_line), float64
        Centre and sigma in Å, and peak in the unit of `out`; a line with amplitude 0 costs nothing.
    """
    n_object, n_wavelength = out.shape
    for i in range(n_object):
        for j in range(centre.shape[1]):
            peak = amplitude[i, j]
            if peak == 0.0:
                continue
            width = sigma[i, j]
            low = max(0, math.ceil((centre[i, j] - _REACH * width - first) / step))
            high = min(n_wavelength, math.floor((centre[i, j] + _REACH * width - first) / step) + 1)
            if low >= high:
                continue
            x = (first + step * low - centre[i, j]) / width
            dx = step / width
            value = peak * math.exp(-0.5 * x * x)
            ratio = math.exp(-dx * (x + 0.5 * dx))
            decay = math.exp(-dx * dx)
            for k in range(low, high):
                out[i, k] += np.float32(value)
                value *= ratio
                ratio *= decay


@njit(nogil=True, cache=True)
def add_templates(out, log_wavelength, templates, log_first, log_step, log_shift, coefficients):
    """Add redshifted linear combinations of templates to every spectrum, in place.

    Parameters
    ----------
    out : numpy.ndarray, shape (n_object, n_wavelength), float32
        What the templates are added to.
    log_wavelength : numpy.ndarray, shape (n_wavelength,), float64
        Natural logarithm of the observed wavelength in Å.
    templates : numpy.ndarray, shape (n_template, n_rest), float32
        Templates on a grid uniform in ln(rest wavelength).
    log_first, log_step : float
        That grid: ln(Å) of its first point, and its step.
    log_shift : numpy.ndarray, shape (n_object,), float64
        ``ln(1 + redshift)``.
    coefficients : numpy.ndarray, shape (n_object, n_template), float64
        Weights. A pixel outside the templates gets nothing.
    """
    n_object, n_wavelength = out.shape
    n_template, n_rest = templates.shape
    for i in range(n_object):
        for t in range(n_template):
            weight = coefficients[i, t]
            if weight == 0.0:
                continue
            for k in range(n_wavelength):
                place = (log_wavelength[k] - log_shift[i] - log_first) / log_step
                cell = math.floor(place)
                if cell < 0 or cell + 1 >= n_rest:
                    continue
                part = place - cell
                out[i, k] += np.float32(weight * ((1 - part) * templates[t, cell] + part * templates[t, cell + 1]))


@njit(nogil=True, cache=True)
def add_camera_ivar(ivar, flux, first, gain, sky, efficiency, n_exposures, read_variance):
    """Add the inverse variance of one camera to that of its part of the grid, in place.

    Parameters
    ----------
    ivar : numpy.ndarray, shape (n_object, n_wavelength), float32
        What is added to, the whole grid.
    flux : numpy.ndarray, shape (n_object, n_wavelength), float32
        Noiseless flux on the whole grid; negative flux makes no photons.
    first : int
        The camera's first pixel on the grid.
    gain, sky : numpy.ndarray, shape (n_wavelength of the camera,), float64
        Electrons an exposure for a flux of 1, and brightness of the sky in the unit of flux.
    efficiency, n_exposures : numpy.ndarray, shape (n_object,), float64
        Relative throughput, and number of exposures.
    read_variance : float
        Electrons squared in one pixel and exposure.
    """
    for i in range(flux.shape[0]):
        exposure = efficiency[i] * n_exposures[i]
        read = read_variance * n_exposures[i]
        for k in range(gain.size):
            electrons = gain[k] * exposure
            light = max(float(flux[i, first + k]), 0.0) + sky[k]
            ivar[i, first + k] += np.float32(electrons * electrons / (electrons * light + read))


@njit(nogil=True, cache=True)
def add_noise(flux, ivar, noise):
    """Add noise of unit variance, scaled to the inverse variance, in place; pixels with ivar 0 become 0.

    Parameters
    ----------
    flux, ivar, noise : numpy.ndarray, shape (n_object, n_wavelength), float32
        Flux, its inverse variance, and numbers of zero mean and unit variance.
    """
    for i in range(flux.shape[0]):
        for k in range(flux.shape[1]):
            if ivar[i, k] > 0:
                flux[i, k] += np.float32(noise[i, k] / math.sqrt(ivar[i, k]))
            else:
                flux[i, k] = np.float32(0)
