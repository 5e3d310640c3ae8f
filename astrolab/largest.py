"""Where the largest of many numbers is: compiled, by vector instructions."""

import numpy as np
from numba import njit

EITHER_SIGN = (np.int32(0x7FFFFFFF), np.int32(0))
NEGATIVE = (np.int32(-1), np.int32(-(2**31)))
POSITIVE = (np.int32(-1), np.int32(0))


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
