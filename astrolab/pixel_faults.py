"""Faults that only observed pixels show: once a spectrum is on a rest grid, several of them are one.

A spectrograph spreads light over two pixels and more. What is narrower was never light: a cosmic ray, a hot pixel. And
what the subtraction of the sky left lies on the airglow's lines, to the pixel.
"""

from functools import lru_cache

import numpy as np
from numba import njit

from astrolab.airglow import AIRGLOW
from astrolab.largest import POSITIVE, first_largest
from astrolab.lines import SPEED_OF_LIGHT

PIXEL_COLUMNS = ("pixel_spike", "pixel_spike_at", "pixel_airglow")

# of the height of an unresolved line, each neighbour of its pixel has at least about this, less a little: the line
# spread of DESI and SDSS is 2.2 pixels and more (Abareshi et al. 2022; Smee et al. 2013)
_NEIGHBOUR = 2.2 / 4
_WIDEST = 80.0  # km/s; in wider pixels a line may be as narrow as a spike
_BESIDE = 4  # the pixels three and four away on either side say what lies below

_FIRST_AIRGLOW = 5500.0  # Å; bluewards there is next to none
_BRIGHT = 50  # as in AIRGLOW
_ON, _OFF = 1.5, 3.0  # pixels from the middle of a line: on it, and beside every line
_N_MIN = 20
# a squared deviation counts as this at most, so that many pixels must agree and one spike says nothing
_MUCH = np.float32(9)


def find_pixel_faults(flux, ivar, wavelength):
    """Look in observed spectra for pixels sharper than the line spread, and for residuals on airglow lines.

    Every pixel is compared with the mean of those three and four pixels away on either side.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Flux density and inverse variance; pixels with ``ivar == 0`` count for nothing.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.

    Returns
    -------
    numpy.ndarray, shape (object, 3), float32
        Columns ``PIXEL_COLUMNS``: by how many sigma the sharpest pixel, bright or dark, exceeds what an unresolved line
        with such neighbours would have at most (0 where pixels are wider than 80 km/s), and its observed wavelength, Å;
        ln of the ratio of the mean squared deviations, in sigma, on bright airglow lines and beside all of them (0
        where fewer than 20 pixels of either kind are measured).

    Examples
    --------
    >>> wavelength = np.arange(5000.0, 5100.0)
    >>> flux = np.ones((1, 100))
    >>> flux[0, 30] = 3.0
    >>> find_pixel_faults(flux, np.full((1, 100), 100.0), wavelength).round(1)
    array([[  11.7, 5030. ,    0. ]], dtype=float32)
    """
    flux, ivar = (np.ascontiguousarray(part, "float32") for part in (flux, ivar))
    columns = np.zeros((len(flux), len(PIXEL_COLUMNS)), "float32")
    if flux.shape[1] > 2 * _BESIDE:
        wavelength = np.ascontiguousarray(wavelength, "float64")
        _search_rows(flux, ivar, wavelength, *_where_to_look(wavelength.tobytes()), columns)
    return columns


@lru_cache(maxsize=8)
def _where_to_look(wavelength):
    """Return which pixels are narrow enough for spikes; which of the red ones lie on bright lines, which beside all."""
    wavelength = np.frombuffer(wavelength)
    width, lines, power = np.gradient(wavelength), *np.transpose(sorted(AIRGLOW))
    is_inside = np.ones(len(wavelength), bool)
    is_inside[:_BESIDE] = is_inside[-_BESIDE:] = False
    is_on = is_inside & (_nearest(wavelength, lines[power > _BRIGHT]) < _ON * width)
    is_off = is_inside & (_nearest(wavelength, lines) > _OFF * width)
    red = wavelength > _FIRST_AIRGLOW
    return SPEED_OF_LIGHT * width < _WIDEST * wavelength, is_on[red].astype("float32"), is_off[red].astype("float32")


def _nearest(wavelength, lines):
    """Return how far the nearest of some lines is from each pixel, Å."""
    next_line = np.clip(np.searchsorted(lines, wavelength), 1, len(lines) - 1)
    return np.minimum(np.abs(wavelength - lines[next_line - 1]), np.abs(wavelength - lines[next_line]))


@njit(nogil=True, cache=True, error_model="numpy")
def _search_rows(flux, ivar, wavelength, is_narrow, is_on, is_off, columns):
    n, red = flux.shape[1], flux.shape[1] - len(is_on)
    values, variance = np.empty(n, np.float32), np.empty(n, np.float32)
    sides, sharpness = np.zeros((2, n), np.float32), np.zeros(n, np.float32)  # of pixels at the ends nothing is known
    for i in range(len(flux)):
        for k in range(n):
            is_good = ivar[i, k] > 0
            values[k] = flux[i, k] if is_good else np.float32(0)
            variance[k] = np.float32(1) / ivar[i, k] if is_good else np.float32(np.inf)
        _measure_sides(values, sides[0, _BESIDE:])
        _measure_sides(variance, sides[1, _BESIDE:])
        _measure_sharpness(values, variance, sides, is_narrow, sharpness)
        sharpest = first_largest(sharpness, POSITIVE)
        columns[i, 0], columns[i, 1] = sharpness[sharpest], wavelength[sharpest]
        on_lines, n_on, beside, n_off = _sum_squares(
            values[red:], variance[red:], sides[0, red:], sides[1, red:], is_on, is_off
        )
        if n_on >= _N_MIN and n_off >= _N_MIN:
            columns[i, 2] = np.log((on_lines / n_on + 0.3) / (beside / n_off + 0.3))


# rows that begin elsewhere, in place of one row and sums of places: the compiler makes vector instructions of these
@njit(nogil=True, cache=True)
def _measure_sides(values, sides):
    """Fill the mean of the pixels three and four away on either side; the first is that of the fifth pixel."""
    first, second, third, last = values, values[1:], values[7:], values[8:]
    for k in range(len(last)):
        sides[k] = np.float32(0.25) * (first[k] + second[k] + third[k] + last[k])


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_sharpness(values, variance, sides, is_narrow, sharpness):
    """Fill by how many sigma each pixel exceeds what its neighbours allow; 0 where one of all these is not measured."""
    n, per_light, quarter = len(values) - 2 * _BESIDE, np.float32(0.5 / _NEIGHBOUR), np.float32(0.25)
    left, middle, right = values[_BESIDE - 1 :], values[_BESIDE:], values[_BESIDE + 1 :]
    left_variance, own_variance, right_variance = (
        variance[_BESIDE - 1 :],
        variance[_BESIDE:],
        variance[_BESIDE + 1 :],
    )
    below, of_below, narrow, filled = sides[0, _BESIDE:], sides[1, _BESIDE:], is_narrow[_BESIDE:], sharpness[_BESIDE:]
    zero = np.float32(0)
    for k in range(n):
        bluer, own, redder = left[k] - below[k], middle[k] - below[k], right[k] - below[k]
        sign = np.float32(1) if own > 0 else np.float32(-1)
        bluer, redder = sign * bluer, sign * redder
        allowed = per_light * ((bluer if bluer > 0 else zero) + (redder if redder > 0 else zero))
        noise = own_variance[k] + per_light * per_light * (left_variance[k] + right_variance[k]) + quarter * of_below[k]
        excess = (sign * own - allowed) / np.sqrt(noise)
        filled[k] = excess if (excess > 0) & narrow[k] else zero


# sums of these may be taken in any order, and so of many pixels at a time
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _sum_squares(values, variance, below, of_below, is_on, is_off):
    """Return the sum of squared deviations, in sigma, on bright lines, the number of pixels; both beside all lines."""
    quarter, limit = np.float32(0.25), np.float32(np.inf)
    on_lines = beside = n_on = n_off = np.float32(0)
    for k in range(len(is_on)):
        deviation, noise = values[k] - below[k], variance[k] + quarter * of_below[k]
        square = deviation * deviation / noise  # 0 where the noise is infinite: not measured
        square = square if square < _MUCH else _MUCH
        is_known = np.float32(1) if noise < limit else np.float32(0)
        on_lines += is_on[k] * square
        beside += is_off[k] * square
        n_on += is_on[k] * is_known
        n_off += is_off[k] * is_known
    return on_lines, n_on, beside, n_off
