"""Medians of the good pixels of spectra: exact, found by counting, which a processor does for many pixels at once."""

import numpy as np
from numba import njit

_LAST = np.int32(0x7FFFFFFF)
_LAST_TOP = np.int16(0x7FFF)


def median_snr(flux, ivar):
    """Return the median S/N of the good pixels of each spectrum.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength), float32
        Flux density and its inverse variance; pixels with ``ivar == 0`` do not count.

    Returns
    -------
    numpy.ndarray, shape (n_object,), float32
        Median of ``flux * sqrt(ivar)``; 0 for a spectrum without a good pixel.

    Examples
    --------
    >>> median_snr(np.float32([[1, 2, 9, 4]]), np.float32([[4, 4, 0, 4]]))
    array([4.], dtype=float32)
    """
    medians = np.zeros(len(flux), np.float32)
    _median_snr(*(np.ascontiguousarray(part, np.float32) for part in (flux, ivar)), medians)
    return medians


@njit(nogil=True, cache=True)
def good_median(values, ivar, tops):
    """Return the median of the good pixels of one spectrum.

    The bits of floats, as whole numbers, keep their order. The upper 16 of the median's are found by halving: 16 times
    the pixels below a number are counted. Few pixels have these same upper bits, and only those are sorted.

    Parameters
    ----------
    values : numpy.ndarray, shape (n_wavelength,), float32
        Anything that has a value a pixel.
    ivar : numpy.ndarray, shape (n_wavelength,), float32
        Pixels with ``ivar == 0`` do not count.
    tops : numpy.ndarray, shape (n_wavelength,), int16
        Overwritten.

    Returns
    -------
    numpy.float32
        0 without a good pixel.
    """
    bits, n_good = values.view(np.int32), np.int32(0)
    for k in range(len(bits)):
        is_good = ivar[k] > 0
        tops[k] = np.int16(_key(bits[k]) >> 16) if is_good else _LAST_TOP
        n_good = np.int32(n_good + is_good)
    if n_good == 0:
        return np.float32(0)
    low, high = -(1 << 15), (1 << 15) - 1
    while low < high:
        middle = (low + high) >> 1
        if _n_up_to(tops, np.int16(middle)) > (n_good - 1) // 2:
            high = middle
        else:
            low = middle + 1
    n_below = _n_up_to(tops, np.int16(low - 1)) if low > -(1 << 15) else 0
    keys = np.sort(_keys_from(bits, tops, np.int16(low)))
    one, other = (n_good - 1) // 2 - n_below, n_good // 2 - n_below
    above = keys[other] if other < len(keys) else _first_above(bits, tops, np.int16(low))
    return np.float32(0.5) * (_value(keys[one]) + _value(above))


@njit(nogil=True, cache=True)
def _median_snr(flux, ivar, medians):
    snr, tops = np.empty(flux.shape[1], np.float32), np.empty(flux.shape[1], np.int16)
    for i in range(len(flux)):
        for k in range(flux.shape[1]):
            snr[k] = flux[i, k] * np.sqrt(ivar[i, k])
        medians[i] = good_median(snr, ivar[i], tops)


@njit(inline="always")
def _key(bits):
    return np.int32(bits ^ ((bits >> 31) & _LAST))


@njit(nogil=True, cache=True)
def _n_up_to(tops, limit):
    n, piece = 0, 1 << 14  # whole numbers of 16 bits count no farther
    for first in range(0, len(tops), piece):
        n += _n_up_to_few(tops[first : first + piece], limit)
    return n


@njit(nogil=True, cache=True)
def _n_up_to_few(tops, limit):
    n = np.int16(0)
    for k in range(len(tops)):
        n = np.int16(n + (tops[k] <= limit))
    return n


@njit(nogil=True, cache=True)
def _keys_from(bits, tops, top):
    keys, n = np.empty(len(bits), np.int32), 0
    for k in range(len(bits)):
        if tops[k] == top:
            keys[n] = _key(bits[k])
            n += 1
    return keys[:n]


@njit(nogil=True, cache=True)
def _first_above(bits, tops, top):
    smallest = _LAST
    for k in range(len(bits)):
        if tops[k] > top and tops[k] < _LAST_TOP:
            smallest = min(smallest, _key(bits[k]))
    return smallest


@njit(nogil=True, cache=True)
def _value(key):
    """Return the number whose key this is."""
    bits = np.empty(1, np.int32)
    bits[0] = _key(np.int32(key))
    return bits.view(np.float32)[0]
