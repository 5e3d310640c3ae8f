"""Big-endian numbers, as FITS files hold them, taken in by compiled loops: checksums, and the arms of a coadd."""

import numpy as np
from numba import njit


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
def add_arm(raw_flux, raw_ivar, is_masked, rows, n_overlap, flux, ivar, places, n_bad):
    """Add an arm to spectra: weighted by inverse variance where another arm has seen, else copied.

    Parameters
    ----------
    raw_flux, raw_ivar : numpy.ndarray, shape (n_rows, n_wavelength), uint32
        The bits of big-endian float32 numbers, as they lie in the file.
    is_masked : numpy.ndarray, shape (n_rows, n_wavelength) or (n_rows, 0), bool
        Pixels that must not be used.
    rows : numpy.ndarray, shape (object,), int
        The rows to add.
    n_overlap : int
        Pixels, from the first on, that another arm has seen.
    flux, ivar : numpy.ndarray, shape (n_places, n_wavelength), float32
        Added to; flux is 0 where ivar is 0. What they hold where no other arm has seen does not matter.
    places : numpy.ndarray, shape (object,), int
        The row of `flux` and `ivar` for each of `rows`.
    n_bad : numpy.ndarray, shape (object, 2), int
        Filled with the number of pixels whose ivar is negative or not finite, and of the others with ivar above 0 whose
        flux is not finite.
    """
    n_wavelength = raw_flux.shape[1]
    flux_bits, ivar_bits = np.empty(n_wavelength, np.uint32), np.empty(n_wavelength, np.uint32)
    own_flux, own_ivar = flux_bits.view(np.float32), ivar_bits.view(np.float32)
    for i in range(len(rows)):
        row, place = rows[i], places[i]
        for k in range(n_wavelength):
            flux_bits[k], ivar_bits[k] = _swapped(raw_flux[row, k]), _swapped(raw_ivar[row, k])
        for k in range(is_masked.shape[1]):
            ivar_bits[k] = np.uint32(0) if is_masked[row, k] else ivar_bits[k]
        n_bad[i, 0], n_bad[i, 1] = _blank(own_flux, own_ivar)
        for k in range(n_overlap):
            first, second = np.float64(ivar[place, k]), np.float64(own_ivar[k])
            total, weight = first * flux[place, k] + second * own_flux[k], first + second
            flux[place, k], ivar[place, k] = total / weight if weight > 0 else 0.0, weight
        flux[place, n_overlap:], ivar[place, n_overlap:] = own_flux[n_overlap:], own_ivar[n_overlap:]


@njit(nogil=True, cache=True)
def _blank(flux, ivar):
    """Set flux to 0 where ivar is 0, and all of an arm with an impossible ivar; return how many pixels were bad."""
    n_bad_ivar, n_bad_flux = np.int32(0), np.int32(0)
    for k in range(len(ivar)):
        n_bad_ivar = np.int32(n_bad_ivar + (not ((ivar[k] >= 0) & (ivar[k] < np.inf))))
    if n_bad_ivar:
        ivar[:] = 0
    for k in range(len(ivar)):
        flux[k] = np.float32(0) if ivar[k] == 0 else flux[k]
        n_bad_flux = np.int32(n_bad_flux + (not (np.abs(flux[k]) < np.inf)))
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
