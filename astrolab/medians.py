"""Medians of the good pixels of spectra: exact, found by counting, which a processor does for many pixels at once."""

import numpy as np
from numba import njit

_LAST = np.int32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def good_median(values, ivar, keys):
    """Return the median of the good pixels of one spectrum.

    The bits of floats, as whole numbers, keep their order, and between whole numbers the median is found by halving:
    at most 32 times the pixels below a number are counted.

    Parameters
    ----------
    values : numpy.ndarray, shape (n_wavelength,), float32
        Anything that has a value a pixel.
    ivar : numpy.ndarray, shape (n_wavelength,), float32
        Pixels with ``ivar == 0`` do not count.
    keys : numpy.ndarray, shape (n_wavelength,), int32
        Overwritten.

    Returns
    -------
    numpy.float32
        0 without a good pixel.
    """
    bits, n_good = values.view(np.int32), np.int32(0)
    for k in range(len(bits)):
        is_good = ivar[k] > 0
        keys[k] = np.int32(bits[k] ^ ((bits[k] >> 31) & _LAST)) if is_good else _LAST
        n_good = np.int32(n_good + is_good)
    if n_good == 0:
        return np.float32(0)
    low, high = -(1 << 31), (1 << 31) - 1
    while low < high:
        middle = (low + high) >> 1
        if _n_up_to(keys, np.int32(middle)) > (n_good - 1) // 2:
            high = middle
        else:
            low = middle + 1
    other = low if _n_up_to(keys, np.int32(low)) > n_good // 2 else _next(keys, np.int32(low))
    return np.float32(0.5) * (_value(low) + _value(other))


@njit(nogil=True, cache=True)
def _n_up_to(keys, limit):
    n = np.int32(0)
    for k in range(len(keys)):
        n = np.int32(n + (keys[k] <= limit))
    return n


@njit(nogil=True, cache=True)
def _next(keys, limit):
    """Return the smallest key above a limit."""
    smallest = _LAST
    for k in range(len(keys)):
        key = keys[k] if keys[k] > limit else _LAST
        smallest = key if key < smallest else smallest
    return smallest


@njit(nogil=True, cache=True)
def _value(key):
    """Return the number whose key this is."""
    bits = np.array([key], np.int64).astype(np.int32)
    bits[0] ^= (bits[0] >> 31) & _LAST
    return bits.view(np.float32)[0]
