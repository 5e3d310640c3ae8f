"""Sums over windows of a spectrum, all windows of a width at once: compiled loops that become vector instructions."""

import numpy as np
from numba import njit

EITHER_SIGN = (np.int32(0x7FFFFFFF), np.int32(0))
NEGATIVE = (np.int32(-1), np.int32(-(2**31)))
POSITIVE = (np.int32(-1), np.int32(0))


@njit(nogil=True, cache=True)
def running_sums(residual, weight, weighted, total, count):
    """Fill the sums of what lies bluewards of each pixel's edge.

    Parameters
    ----------
    residual, weight : numpy.ndarray, shape (n_wavelength,), float32
        ``flux - flux_model`` and its inverse variance; both 0 where not measured.
    weighted, total, count : numpy.ndarray, shape (n_wavelength + 1,), float64
        Filled with the sums of ``residual * weight``, of ``weight``, and of the measured pixels; the first is 0.
    """
    of_residual, of_weight, n = 0.0, 0.0, 0.0
    for k in range(len(residual)):
        of_residual += residual[k] * weight[k]
        of_weight += weight[k]
        n += weight[k] > 0
        weighted[k + 1], total[k + 1], count[k + 1] = of_residual, of_weight, n


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


@njit(nogil=True, cache=True)
def first_largest(values, kind):
    """Return where the largest value is, the first of equal ones; 0 where there is none.

    The bits of floats, as whole numbers, keep their order; the largest of whole numbers is found by vector
    instructions, that of floats, because of NaN, is not.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,), float32
        Contiguous.
    kind : tuple
        ``EITHER_SIGN``: the farthest from 0; ``NEGATIVE`` and ``POSITIVE``: the farthest below 0, and above.

    Returns
    -------
    int
    """
    bits, kept, flipped = values.view(np.int32), kind[0], kind[1]
    largest = np.int32(0)
    for k in range(len(bits)):
        key = np.int32((bits[k] & kept) ^ flipped)
        largest = key if key > largest else largest
    at = 0
    if largest > 0:
        while np.int32((bits[at] & kept) ^ flipped) != largest:
            at += 1
    return at
