"""Sums over windows of a spectrum, all windows of a width at once: compiled loops that become vector instructions."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def measured_range(weight):
    """Return the first measured pixel and one past the last; both 0 where nothing is measured.

    Parameters
    ----------
    weight : numpy.ndarray, shape (n_wavelength,), float32
        0 where not measured.

    Returns
    -------
    low, high : int
    """
    low, high = 0, len(weight)
    while high > 0 and not weight[high - 1] > 0:
        high -= 1
    while low < high and not weight[low] > 0:
        low += 1
    return low, high


@njit(nogil=True, cache=True)
def windows_inside(low, high, width, n_wavelength):
    """Return the first window of a width that holds a measured pixel, and one past the last.

    Parameters
    ----------
    low, high : int
        From `measured_range`.
    width, n_wavelength : int
        Pixels of a window, and of the grid.

    Returns
    -------
    first, last : int
    """
    last = max(min(high, n_wavelength - width + 1), 0)
    return min(max(low - width + 1, 0), last), last


@njit(nogil=True, cache=True)
def running_sums(residual, weight, low, high, weighted, total, count):
    """Fill the sums of what lies bluewards of each pixel's edge.

    Parameters
    ----------
    residual, weight : numpy.ndarray, shape (n_wavelength,), float32
        ``flux - flux_model`` and its inverse variance; both 0 where not measured.
    low, high : int
        From `measured_range`; outside nothing is added.
    weighted, total, count : numpy.ndarray, shape (n_wavelength + 1,), float64
        Filled with the sums of ``residual * weight``, of ``weight``, and of the measured pixels; the first is 0.
    """
    of_residual, of_weight, n = 0.0, 0.0, 0.0
    weighted[: low + 1], total[: low + 1], count[: low + 1] = 0.0, 0.0, 0.0
    for k in range(low, high):
        of_residual += residual[k] * weight[k]
        of_weight += weight[k]
        n += weight[k] > 0
        weighted[k + 1], total[k + 1], count[k + 1] = of_residual, of_weight, n
    weighted[high + 1 :], total[high + 1 :], count[high + 1 :] = of_residual, of_weight, n


@njit(nogil=True, cache=True, error_model="numpy")
def window_powers(weighted, total, count, width, share, power):
    """Fill the squared significance of each window of a width, with the sign of its flux.

    Parameters
    ----------
    weighted, total, count : numpy.ndarray, shape (n_wavelength + 1,), float64
        From `running_sums`.
    width : int
        Pixels of a window.
    share : float
        More than this share of a window must be measured, else its power is 0.
    power : numpy.ndarray, shape (n_wavelength - width + 1,), float32
        Filled.
    """
    n = len(power)
    low_weighted, high_weighted = weighted[:n], weighted[width:]
    low_total, high_total = total[:n], total[width:]
    low_count, high_count = count[:n], count[width:]
    for k in range(n):
        inside = high_weighted[k] - low_weighted[k]
        signed = np.float32(inside * np.abs(inside)) / np.float32(high_total[k] - low_total[k])
        power[k] = signed if high_count[k] - low_count[k] > share * width else np.float32(0)
