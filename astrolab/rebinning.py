"""Rebin spectra from one grid onto another: each output pixel is the mean of the input pixels that it overlaps."""

import numpy as np
from numba import njit

# an output pixel counts when good input pixels cover at least this part of it
_COVERAGE_MIN = 0.5


@njit(nogil=True, cache=True, error_model="numpy")
def rebin(flux, ivar, redshift, edges_in, edges_out, flux_out, ivar_out):
    """Rebin every spectrum from its observed frame to the rest frame, flux conserved.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_in), float32
        Observed; pixels with ``ivar == 0`` count for nothing.
    redshift : numpy.ndarray, shape (object,), float64
        Of each; where it is NaN or not above -1 nothing is filled.
    edges_in, edges_out : numpy.ndarray, shape (n_in + 1,), (n_out + 1,), float64
        Between pixels, Å: observed, and rest frame.
    flux_out, ivar_out : numpy.ndarray, shape (object, n_out), float32
        Zeros, which are filled where good pixels cover at least half of an output pixel.
    """
    n_in, n_out = len(edges_in) - 1, len(edges_out) - 1
    edges = np.append(edges_in, np.array([np.inf, np.inf]))  # no output pixel reaches beyond these
    size = np.append(np.diff(edges_in), 1.0).astype(np.float32)
    density = 1.0 / size
    width, light, noise = np.zeros(n_in + 1, np.float32), np.zeros(n_in + 1, np.float32), np.zeros(n_in + 1, np.float32)
    for i in range(len(flux)):
        stretch = 1.0 + redshift[i]
        if not (stretch > 0.0 and stretch < np.inf):
            continue
        _weigh(flux[i], ivar[i], size, width, light, noise)
        start, n_inner = 0, 0
        for k in range(n_out):
            low, high = edges_out[k] * stretch, edges_out[k + 1] * stretch
            if high <= edges[0] or low >= edges[n_in]:
                continue
            while edges[start + 1] <= low:
                start += 1
            last = _last_pixel(edges, n_in, start, n_inner, high)
            if last > start + 2 + n_inner or last < start + 1 + n_inner:
                n_inner = max(last - start - 1, 0)
            of_width, of_light, of_noise = _add_up(width, light, noise, edges, density, start, last, n_inner, low, high)
            if of_width > 0.0 and of_width >= _COVERAGE_MIN * (high - low):
                flux_out[i, k] = stretch * of_light / of_width
                ivar_out[i, k] = of_width * of_width / (of_noise * stretch * stretch)
            start = last


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh(flux, ivar, size, width, light, noise):
    """Fill what each pixel has to give as a whole: its width, flux times width, variance times width squared."""
    for j in range(len(flux)):
        is_good = ivar[j] > 0
        width[j] = size[j] if is_good else np.float32(0)
        light[j] = size[j] * flux[j] if is_good else np.float32(0)
        noise[j] = size[j] * size[j] / ivar[j] if is_good else np.float32(0)


@njit(inline="always")
def _last_pixel(edges, n_in, start, n_inner, high):
    """Return the last pixel that begins below `high`: as a rule `n_inner` lie between it and `start`, or one more.

    A loop that ends each time elsewhere makes the processor guess wrong, which costs more than all else in it.
    """
    last = min(start + 1 + n_inner, n_in)
    last += edges[last + 1] < high
    if edges[last] < high and edges[last + 1] >= high:
        return last
    last = start
    while edges[last + 1] < high:
        last += 1
    return last


@njit(inline="always")
def _add_up(width, light, noise, edges, density, start, last, n_inner, low, high):
    """Return the sums from `low` to `high`: a part of `start`, `n_inner` pixels or one more, and a part of `last`."""
    part = (min(high, edges[start + 1]) - max(low, edges[start])) * density[start]
    inner_width = inner_light = inner_noise = np.float32(0)
    one_more = min(start + 1 + n_inner, last)
    for j in range(start + 1, one_more):
        inner_width += width[j]
        inner_light += light[j]
        inner_noise += noise[j]
    # numbers 0 and 1 instead of branches, for the same reason
    is_inner, is_other = np.float32(one_more < last), np.float32(last > start)
    end = is_other * (min(high, edges[last + 1]) - edges[last]) * density[last]
    return (
        part * width[start] + inner_width + is_inner * width[one_more] + end * width[last],
        part * light[start] + inner_light + is_inner * light[one_more] + end * light[last],
        part * part * noise[start] + inner_noise + is_inner * noise[one_more] + end * end * noise[last],
    )
