"""Big-endian numbers, as FITS files hold them, taken in by compiled loops: checksums, and the arms of a coadd."""

import numpy as np
from numba import njit

_INFINITY, _NO_SIGN = np.uint32(0x7F800000), np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def sum_words(words):
    """Return the sum of big-endian words.

    Parameters
    ----------
    words : numpy.ndarray, shape (n,), uint32
        As they lie in the file, seen as the little-endian numbers of this machine.

    Returns
    -------
    int
        Their sum as big-endian numbers; exact for up to 2³² words.
    """
    total = np.uint64(0)
    for k in range(len(words)):
        total += np.uint64(_swapped(words[k]))
    return total


def find_flags(raw, zero):
    """Find the numbers of bit masks in which a bit is set.

    Parameters
    ----------
    raw : numpy.ndarray, any shape, big-endian integers
        As they lie in the file.
    zero : int
        The number that stands for no bit: 0, or the lowest one where unsigned numbers are stored.

    Returns
    -------
    is_set : numpy.ndarray of bool
    has_negative : bool
        A number is less than `zero`.
    """
    lowest = np.iinfo(raw.dtype).min
    if raw.itemsize != 4 or zero not in (0, lowest):
        return raw != zero, raw.size > 0 and zero > lowest and raw.min() < zero
    is_set = np.empty(raw.shape, bool)
    unset = np.array(zero, raw.dtype).view(np.uint32)[()]
    has_sign = _find_flags(raw.view(np.uint32).reshape(-1), unset, is_set.reshape(-1))
    return is_set, has_sign and zero == 0


@njit(nogil=True, cache=True, error_model="numpy")
def add_arm(raw_flux, raw_ivar, is_masked, rows, first, n_overlap, flux, ivar, places, n_bad):
    """Add an arm to spectra: weighted by inverse variance where another arm has seen, else copied.

    Parameters
    ----------
    raw_flux, raw_ivar : numpy.ndarray, shape (n_rows, n_arm), uint32
        The bits of big-endian float32 numbers, as they lie in the file.
    is_masked : numpy.ndarray, shape (n_rows, n_arm) or (n_rows, 0), bool
        Pixels that must not be used.
    rows : numpy.ndarray, shape (object,), int
        The rows to add.
    first : int
        Where on the grid of wavelengths the arm begins.
    n_overlap : int
        Pixels, from the arm's first on, that another arm has seen.
    flux, ivar : numpy.ndarray, shape (n_places, n_wavelength), float32
        Added to; flux is 0 where ivar is 0. What they hold where no other arm has seen does not matter.
    places : numpy.ndarray, shape (object,), int
        The row of `flux` and `ivar` for each of `rows`.
    n_bad : numpy.ndarray, shape (object, 2), int
        Filled with the number of pixels whose ivar is negative or not finite, and of the others with ivar above 0 whose
        flux is not finite; where there is one of the former, nothing of the arm is used.
    """
    n_arm = raw_flux.shape[1]
    own = np.empty((2, n_arm), np.float32)
    bits, own_flux, own_ivar = own.view(np.uint32), own[0], own[1]
    unmasked = np.zeros(n_arm, np.bool_)
    for i in range(len(rows)):
        masked = is_masked[rows[i]] if is_masked.shape[1] else unmasked
        n_bad[i, 0], n_bad[i, 1] = _take(raw_flux[rows[i]], raw_ivar[rows[i]], masked, bits[0], bits[1])
        if n_bad[i, 0]:
            own[:], n_bad[i, 1] = 0, 0
        all_flux, all_ivar = flux[places[i], first : first + n_arm], ivar[places[i], first : first + n_arm]
        for k in range(n_overlap):
            before, weight = np.float64(all_ivar[k]), np.float64(all_ivar[k]) + np.float64(own_ivar[k])
            total = before * all_flux[k] + np.float64(own_ivar[k]) * own_flux[k]
            all_flux[k], all_ivar[k] = total / weight if weight > 0 else 0.0, weight
        for k in range(n_overlap, n_arm):
            all_flux[k], all_ivar[k] = own_flux[k], own_ivar[k]


@njit(nogil=True, cache=True)
def _take(raw_flux, raw_ivar, masked, flux, ivar):
    """Put the bits of big-endian floats where they belong; return how many ivar are impossible, and how many flux.

    The bits of a float, without its sign, are those of infinity or more where it is not finite.
    """
    n_bad_ivar, n_bad_flux = np.int32(0), np.int32(0)
    for k in range(len(flux)):
        weight = np.uint32(0) if masked[k] else _swapped(raw_ivar[k])
        size = weight & _NO_SIGN
        value = np.uint32(0) if size == 0 else _swapped(raw_flux[k])
        n_bad_ivar = np.int32(n_bad_ivar + ((weight >= _INFINITY) & (size != 0)))
        n_bad_flux = np.int32(n_bad_flux + ((value & _NO_SIGN) >= _INFINITY))
        flux[k], ivar[k] = value, weight
    return n_bad_ivar, n_bad_flux


@njit(nogil=True, cache=True, inline="always")
def _swapped(word):
    return np.uint32(
        (word >> np.uint32(24))
        | ((word >> np.uint32(8)) & np.uint32(0xFF00))
        | ((word << np.uint32(8)) & np.uint32(0xFF0000))
        | (word << np.uint32(24))
    )


@njit(nogil=True, cache=True)
def _find_flags(words, unset, is_set):
    """Fill in which words differ, and return whether one has its sign bit set."""
    signs = np.uint32(0)
    for k in range(len(words)):
        is_set[k] = words[k] != unset
        signs |= words[k]
    return (signs & np.uint32(0x80)) != 0  # the first byte of a big-endian word is the last one here
