"""Refinement of the scan's minima on the full grid, in float64, one spectrum and one minimum at a time (numba)."""

from functools import lru_cache

import numpy as np
from numba import njit
from scipy.interpolate import CubicSpline

from astrolab.redshift.scan import _MIN_SIGNIFICANCE, _RIDGE, LOG_BIN

# columns of what `refine_minima` gives
REDSHIFT, REDSHIFT_ERR, CHI2, MEAN_MODEL, IS_MINIMUM = range(5)
_FINE_STEP = 2.5e-5  # of log10 wavelength: 17 km/s
_LN10 = np.log(10.0)
_GROUP = 1.25e-4  # of log10 wavelength, a stride: pixels of DESI and SDSS go by four for broad lines, alone for narrow
_WIDEST = 2e-3  # of log10 wavelength: a minimum that no parabola up to this half width (1400 km/s) shows is none


def refine_minima(flux, weight, log_wavelength, one, redshift, limits, *, n_turns=5, approached=None, n_group=None):
    """Refine one minimum of each spectrum under one template set.

    By the parabola through three points half a step of the scan apart, and then through three an eighth apart. For sets
    of broad lines (stride 2) pixels count in groups narrower than 290 km/s, at their weighted mean flux and wavelength:
    the spread inside a group is the same for every smooth model.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `clean_spectra` gives them.
    log_wavelength : numpy.ndarray, shape (n_wavelength,)
        log10 of the observed wavelengths in Å.
    one : TemplateSet
        The set.
    redshift : numpy.ndarray, shape (n_object,)
        Where the scan had its minimum; NaN for none.
    limits : tuple of float
        Lowest and highest redshift of the scan, where the refinement stops.
    n_turns : int or numpy.ndarray, shape (n_object,), optional
        Parabolas to draw, at most: 0 only takes χ² at the redshift, 1 draws the first.
    approached : numpy.ndarray, shape (n_object, 5), optional
        What this function gave with one parabola, to go on from there instead of from `redshift`.
    n_group : int, optional
        Pixels that count as one, in place of what the set and the grid ask for.

    Returns
    -------
    numpy.ndarray, shape (n_object, 5), float64
        Redshift; its error (where χ² is 1 above the minimum); -2 ln evidence (χ² for free amplitudes); mean of the
        model over the weights; and 1 where the χ² curve has a minimum there.
    """
    out = np.full((len(flux), 5), np.nan)
    if n_group is None:
        n_group = max(1, int((one.scan_stride - 1) * 4 * _GROUP / np.diff(log_wavelength).max()))
    vectors, log_step = _fine_vectors(one)
    n_turns = np.broadcast_to(n_turns, len(flux))
    bend = np.zeros(len(flux))
    if approached is not None:
        redshift = approached[:, REDSHIFT]
        bend = np.nan_to_num((_LN10 * (1 + redshift) / approached[:, REDSHIFT_ERR]) ** 2)
    prior = np.asarray(one.prior_err, "float64")
    step = LOG_BIN * one.scan_stride / 2
    low, high = (np.log10(1 + limit) for limit in limits)
    _refine(
        np.ascontiguousarray(flux), np.ascontiguousarray(weight), log_wavelength, vectors, prior, one.log_first,
        log_step, np.log10(1 + redshift), low, high, step, n_turns, approached is not None, bend, n_group,
        1 / one.redshift_sigma, out,
    )  # fmt: skip
    return out


@lru_cache(maxsize=64)
def _fine_vectors(one):
    """Return the vectors on a finer grid, by splines: between close points, straight lines leave χ² smooth."""
    n_finer = max(1, round(one.log_step / _FINE_STEP))
    place = np.arange((one.vectors.shape[1] - 1) * n_finer + 1) / n_finer
    spline = CubicSpline(np.arange(one.vectors.shape[1]), one.vectors, axis=1)
    return np.ascontiguousarray(spline(place)), one.log_step / n_finer


@njit(nogil=True, cache=True)
def evidence(flux, root, log_wavelength, vectors, prior, log_first, log_step, log_shift, buffer, before, after):
    """Return Σ w f² less -2 ln evidence of one spectrum at one redshift, and the mean of the model.

    `flux` (in sigma), `root` (the root of the weight) and `log_wavelength` hold the good pixels only; `vectors` has
    shape (n_vector, n_rest); `buffer`, `before` and `after` are room for (n_vector, n_pixel) and twice n_pixel.
    """
    n, n_rest = vectors.shape
    for p in range(len(flux)):
        place = (log_wavelength[p] - log_shift - log_first) / log_step
        place = min(max(place, 0.0), n_rest - 1.000001)
        before[p] = int(place)
        after[p] = root[p] * (place - before[p])
    for k in range(n):
        own = vectors[k]
        for p in range(len(flux)):
            i = before[p]
            buffer[k, p] = root[p] * own[i] + after[p] * (own[i + 1] - own[i])
    normal = np.dot(buffer, buffer.T)
    amplitude = np.dot(buffer, flux)
    is_forbidden = amplitude[0] <= 0 and np.isfinite(prior).any()
    gain = _add_priors(normal, amplitude[0], prior)
    gain += _solve(normal, amplitude, np.isfinite(prior).any())
    if is_forbidden:
        return 0.0, -1.0
    return gain, np.dot(amplitude, np.dot(buffer, root)) / np.dot(root, root)


@njit(nogil=True, cache=True)
def _add_priors(normal, first, prior):
    """Add the precision of the priors to the normal matrix, in place; return the sum of its logarithms."""
    scale = max(normal[0, 0], 1e-30)
    amplitude2 = max(first / scale, _MIN_SIGNIFICANCE / np.sqrt(scale)) ** 2
    total = 0.0
    for k in range(len(prior)):
        normal[k, k] = normal[k, k] * (1 + _RIDGE) + 1e-20
        if prior[k] < np.inf:
            precision = 1 / (amplitude2 * prior[k] ** 2)
            normal[k, k] += precision
            total += np.log(precision)
    return total


@njit(nogil=True, cache=True)
def _solve(normal, right, with_volume):
    """Solve by Cholesky's method: `right` becomes the solution; return what it explains, less ln of the determinant."""
    n = len(right)
    gain = 0.0
    for i in range(n):
        for j in range(i):
            for k in range(j):
                normal[i, j] -= normal[i, k] * normal[j, k]
            normal[i, j] /= normal[j, j]
            normal[i, i] -= normal[i, j] ** 2
            right[i] -= normal[i, j] * right[j]
        pivot = max(normal[i, i], 1e-30)
        if with_volume:
            gain -= np.log(pivot)
        normal[i, i] = np.sqrt(pivot)
        right[i] /= normal[i, i]
        gain += right[i] ** 2
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            right[i] -= normal[k, i] * right[k]
        right[i] /= normal[i, i]
    return gain


@njit(nogil=True, cache=True)
def _grouped(flux, weight, log_wavelength, n_group):
    """Return flux in sigma, root of the weight and log10 wavelength of groups of pixels with data; and Σ w f²."""
    n_most = -(-len(flux) // n_group)
    own_flux, root, own_log = np.empty(n_most), np.empty(n_most), np.empty(n_most)
    n, null = 0, 0.0
    for start in range(0, len(flux), n_group):
        w, wf, wl = 0.0, 0.0, 0.0
        for p in range(start, min(start + n_group, len(flux))):
            one = np.float64(weight[p])
            w += one
            wf += one * flux[p]
            wl += one * log_wavelength[p]
            null += one * flux[p] * flux[p]
        if w > 0:
            root[n] = np.sqrt(w)
            own_flux[n], own_log[n] = wf / root[n], wl / w
            n += 1
    return own_flux[:n], root[:n], own_log[:n], null


@njit(nogil=True, cache=True)
def _refine(
    flux, weight, log_wavelength, vectors, prior, log_first, log_step, start, low, high, step, n_turns, is_begun, bends,
    n_group, pull, out,
):  # fmt: skip
    for i in range(len(flux)):
        if not np.isfinite(start[i]):
            continue
        own_flux, root, own_log, null = _grouped(flux[i], weight[i], log_wavelength, n_group)
        n = len(root)
        if n == 0:
            continue
        room = np.empty((len(vectors), n)), np.empty(n, np.int64), np.empty(n)
        shift, err, is_minimum = start[i], np.nan, 1.0
        if low < high and n_turns[i] > 0:
            turns = 1 if is_begun else 0, n_turns[i]
            shift, bend = _minimum(
                own_flux, root, own_log, vectors, prior, log_first, log_step, shift, low, high, step, turns, bends[i],
                pull, room,
            )  # fmt: skip
            is_minimum = 1.0 if bend > 0 else 0.0
            # χ² is 1 above its minimum where bend x² = 1
            err = 10**shift * _LN10 / np.sqrt(bend) if bend > 0 else np.nan
        gain, mean = evidence(own_flux, root, own_log, vectors, prior, log_first, log_step, shift, *room)
        out[i, 0], out[i, 1], out[i, 2] = 10**shift - 1, err, null - gain + _penalty(shift, pull)
        out[i, 3], out[i, 4] = mean, is_minimum


@njit(nogil=True, cache=True)
def _penalty(shift, pull):
    """Return -2 ln of the prior on redshift, whose sigma is 1 / pull."""
    return ((10**shift - 1) * pull) ** 2


@njit(nogil=True, cache=True)
def _minimum(
    flux, root, log_wavelength, vectors, prior, log_first, log_step, start, low, high, step, turns, wide, pull, room
):
    """Find the best log10(1 + redshift), and half the curvature there: parabolas through three points, ever finer."""
    gains = np.empty(3)
    centre, bend = start, wide
    for turn in range(turns[0], turns[1]):
        width = step if turn == 0 else step / 4
        centre = min(max(centre, low + width), high - width)
        for k in range(3):
            shift = centre + (k - 1) * width
            gains[k] = evidence(flux, root, log_wavelength, vectors, prior, log_first, log_step, shift, *room)[0]
            gains[k] -= _penalty(shift, pull)
        bend = (2 * gains[1] - gains[0] - gains[2]) / (2 * width**2)
        move = (gains[2] - gains[0]) / (4 * width * bend) if bend > 0 else width * (np.argmax(gains) - 1)
        # a parabola says nothing far from its points
        move = min(max(move, -2 * width), 2 * width)
        centre += move
        if turn == 0:
            wide = bend
        elif abs(move) <= width:
            break
    # points closer than one sigma tell the ripples of χ², and not its curvature
    if wide > 0 and bend * width**2 < 1:
        bend = wide
    centre = min(max(centre, low), high)
    while bend <= 0 and step < high - low and step < _WIDEST:
        step *= 2
        for k in range(3):
            shift = centre + (k - 1) * step
            gains[k] = evidence(flux, root, log_wavelength, vectors, prior, log_first, log_step, shift, *room)[0]
            gains[k] -= _penalty(shift, pull)
        bend = (2 * gains[1] - gains[0] - gains[2]) / (2 * step**2)
    return centre, bend
