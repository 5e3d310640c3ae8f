"""The search for faults, spectrum by spectrum, from sums along it: compiled loops that become vector instructions.

What a window holds, and how much of it the model could have changed, are differences of running sums at its two edges;
they are taken for all windows of a width at once. A running sum has a column for each edge between cells, and on either
side some more that repeat the outermost: a window may reach beyond what was measured.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from astrolab.anomaly.classes import mean_chi2

# below this, in sigma, nothing is looked for any further, and a fault explains nothing
IS_FAULT = 3.0
FAINT = 0.1  # of the normalised flux: a fraction of no light has no meaning
N_NARROW = 3  # the first widths are those of dips

_FIRST_RIVAL = 2  # the narrowest feature that competes with a missing amplifier
_MEASURED_SHARE = 0.6
_N_EDGE = 10  # cells that must be measured on either side of where cameras meet
# a window of which less than this share differs from what the model could do says nothing; a camera's edge is known
_OWN_SHARE, _OWN_SHARE_OF_CAMERA = 0.05, 0.002
# a factor is never known better than this, however bright the spectrum: its model is not
_SYSTEMATIC = 0.07


class _Fit(NamedTuple):
    """What fits one spectrum without a fault, cell by cell over the sigma of each."""

    box: np.ndarray  # the model's flux, which a fault takes a part of, shape (n_cell,)
    left: np.ndarray  # what the fit leaves, shape (n_cell,)
    orthonormal: np.ndarray  # vectors that the model could add, shape (n_cell, n_vector)


class _Sums(NamedTuple):
    """Running sums, each up to an edge, of the products with a box of the model's flux.

    Those of the flux are float64: what a window holds is a small difference of large ones.
    """

    shared: np.ndarray  # of orthonormal vectors that the model could add, shape (n_vector, n_edge), float32
    own: np.ndarray  # of the model's flux itself, shape (n_edge,)
    left: np.ndarray  # of what the fit leaves, shape (n_edge,)
    n_measured: np.ndarray  # the number of measured cells, shape (n_edge,), float32


def fill_up(vectors):
    """Return vectors side by side, and after them zeros: one for a fault, and as many as fill up fours.

    Parameters
    ----------
    vectors : numpy.ndarray, shape (n_vector, n_cell)

    Returns
    -------
    numpy.ndarray, shape (n_cell, n_filled), float64
    """
    filled = np.zeros((vectors.shape[1], (len(vectors) + 4) // 4 * 4))
    filled[:, : len(vectors)] = vectors.T
    return filled


def reach(widths):
    """Return how many cells windows may reach beyond what was measured.

    Parameters
    ----------
    widths : numpy.ndarray, shape (n_width,)
        Cells of a window, ascending.

    Returns
    -------
    int
    """
    return _beyond(int(widths[-1]))


@njit(nogil=True, cache=True, error_model="numpy")
def search_rows(
    flux, weight, flux_model, vectors, first_tilt, n_vector, is_absorbed, widths, ranges, wavelength, redshift, columns
):
    """Fill the columns of each spectrum.

    Parameters
    ----------
    flux, weight, flux_model : numpy.ndarray, shape (object, n_wavelength), float32
        As for `astrolab.anomaly.faults.fault_evidence`.
    vectors : numpy.ndarray, shape (n_cell, n_filled), float64
        From `fill_up`: the directions in which the model's spectra differ, then slow changes of the calibration,
        which are factors of the model.
    first_tilt, n_vector : int
        How many are directions; how many there are before the zeros.
    is_absorbed : numpy.ndarray, shape (n_width, n_start), int32
        -1 where gas or dust may explain a loss in the windows of a width, else 0; the first begins `reach` before the
        grid.
    widths : numpy.ndarray, shape (n_width,)
        Cells of a window, ascending.
    ranges : numpy.ndarray, shape (object, n_range, 2)
        First and one-past-last cell of what one camera saw.
    wavelength : numpy.ndarray, shape (n_cell,)
        Rest wavelength of each cell, Å.
    redshift : numpy.ndarray, shape (object,)
        Of each spectrum.
    columns : numpy.ndarray, shape (object, 8), float32
        Filled as ``FAULT_COLUMNS`` says; rows of which too little is measured are left alone.
    """
    n_beyond = _beyond(widths[-1])
    cells, best = np.zeros((3, len(wavelength))), np.zeros((len(widths), 5))
    for i in range(len(flux)):
        row, stretch = columns[i], 1 + redshift[i]
        low, high = _put_in_cells(flux[i], weight[i], flux_model[i], cells)
        measured = np.ascontiguousarray(cells[:, low:high])
        is_known, fit = _fit_vectors(measured, vectors[low:high], first_tilt, n_vector)
        if not is_known:
            continue
        sums = _add_up(fit, measured[1], n_beyond)
        _scan(sums, is_absorbed, low, widths, 0, best)
        power, first, last = _strongest(best, 0, N_NARROW)
        start, end = _measured_cells(first, last, low, high, n_beyond)
        row[5], row[7] = power, np.sqrt(wavelength[start] * wavelength[end]) * stretch
        wide_power, wide_first, wide_last = _strongest(best, N_NARROW, len(widths))
        cameras = np.clip(ranges[i] - low, 0, high - low) + n_beyond
        wide_power, wide_first, wide_last = _one_camera(sums, cameras, wide_power, wide_first, wide_last)
        start, end = _measured_cells(wide_first, wide_last, low, high, n_beyond)
        row[0], row[3], row[4] = wide_power, wavelength[start] * stretch, wavelength[end] * stretch
        row[6] = power
        if power > IS_FAULT:
            without, _ = _take_out(sums, fit, n_vector, first, last)
            _scan(without, is_absorbed, low, widths, 0, best)
            row[6] = _strongest_of_all(best)
        row[1] = wide_power
        if wide_power > IS_FAULT:
            without, gain = _take_out(sums, fit, n_vector, wide_first, wide_last)
            _scan(without, is_absorbed, low, widths, _FIRST_RIVAL, best)
            chi2, n_good = np.dot(fit.left, fit.left), sums.n_measured[-1]
            row[1], row[2] = _strongest_of_all(best), mean_chi2(chi2, n_good) - mean_chi2(chi2 - gain, n_good)


@njit(nogil=True, cache=True)
def _measured_cells(first, last, low, high, n_beyond):
    """Return the first and the last measured cell between two edges; one cell where nothing was found."""
    start = max(first - n_beyond, 0)
    end = max(min(last - n_beyond, high - low), start + 1)
    return low + start, low + end - 1


@njit(nogil=True, cache=True)
def _strongest_of_all(best):
    return max(best[:, 0].max(), best[:, 3].max(), best[:, 4].max())


@njit(nogil=True, cache=True)
def _beyond(width):
    return int((1 - _MEASURED_SHARE) * width)


@njit(nogil=True, cache=True, error_model="numpy")
def _put_in_cells(flux, weight, flux_model, cells):
    """Fill means of flux and model over cells, and between them the sums of weights; return the range measured."""
    n_cell = cells.shape[1]
    low, high = n_cell, 0
    n_pixel = len(flux) // n_cell
    for k in range(n_cell):
        of_flux, total, of_model = 0.0, 0.0, 0.0
        for j in range(k * n_pixel, (k + 1) * n_pixel):
            if weight[j] > 0:
                of_flux += weight[j] * flux[j]
                of_model += weight[j] * flux_model[j]
                total += weight[j]
        cells[0, k] = of_flux / total if total > 0 else 0.0
        cells[1, k] = total
        cells[2, k] = max(of_model / total, FAINT) if total > 0 else FAINT
        if total > 0:
            low, high = min(low, k), k + 1
    return min(low, high), high


@njit(nogil=True, cache=True, error_model="numpy")
def _fit_vectors(cells, vectors, first_tilt, n_vector):
    """Fit what the model could have changed; return whether anything is measured, and the fit."""
    flux, weight, flux_model = cells[0], cells[1], cells[2]
    scaled, left, box = np.empty_like(vectors), np.empty(len(flux)), np.empty(len(flux))
    for k in range(len(flux)):
        per_sigma = np.sqrt(weight[k])
        box[k], left[k] = per_sigma * flux_model[k], per_sigma * flux[k]
        for a in range(vectors.shape[1]):
            scaled[k, a] = vectors[k, a] * (per_sigma if a < first_tilt else box[k])
    normal = np.dot(scaled.T, scaled)
    trace = np.trace(normal)
    is_known = len(flux) > n_vector and np.isfinite(trace)
    root = _inverse_root(normal, 1e-6 + 1e-10 * trace) if is_known else normal
    left -= np.dot(scaled, np.dot(root.T, np.dot(root, np.dot(left, scaled))))
    return is_known, _Fit(box, left, np.dot(scaled, np.ascontiguousarray(root.T)))


@njit(nogil=True, cache=True, error_model="numpy")
def _inverse_root(normal, ridge):
    """Return the inverse of the Cholesky root; the ridge holds vectors that the measured cells cannot tell apart."""
    n = len(normal)
    root, inverse = np.zeros((n, n)), np.zeros((n, n))
    for a in range(n):
        for b in range(a + 1):
            value = normal[a, b] + (ridge if a == b else 0.0)
            for c in range(b):
                value -= root[a, c] * root[b, c]
            root[a, b] = np.sqrt(value) if a == b else value / root[b, b]
    for a in range(n):
        inverse[a, a] = 1 / root[a, a]
        for b in range(a):
            value = 0.0
            for c in range(b, a):
                value -= root[a, c] * inverse[c, b]
            inverse[a, b] = value * inverse[a, a]
    return inverse


@njit(nogil=True, cache=True, error_model="numpy")
def _add_up(fit, weight, n_beyond):
    """Return the running sums of a fit."""
    box, left, orthonormal = fit.box, fit.left, fit.orthonormal
    n, n_vector = orthonormal.shape
    n_edge, first, last = n + 1 + 2 * n_beyond, n_beyond + 1, n_beyond + 1 + n
    shared, n_measured = np.zeros((n_vector, n_edge), np.float32), np.zeros(n_edge, np.float32)
    of_box, of_left = np.zeros(n_edge), np.zeros(n_edge)
    totals, side_by_side = np.zeros(n_vector), np.empty((n, n_vector), np.float32)
    own, missing, count = 0.0, 0.0, np.float32(0)
    for k in range(n):
        own += box[k] * box[k]
        missing += box[k] * left[k]
        count += np.float32(weight[k] > 0)
        of_box[first + k], of_left[first + k], n_measured[first + k] = own, missing, count
        for a in range(n_vector):  # side by side, since each sum waits for the one before it
            totals[a] += orthonormal[k, a] * box[k]
            side_by_side[k, a] = totals[a]
    of_box[last:], of_left[last:], n_measured[last:] = own, missing, count
    for a in range(n_vector):
        row = shared[a][first:]
        for k in range(n):
            row[k] = side_by_side[k, a]
        row[n:] = totals[a]
    return _Sums(shared, of_box, of_left, n_measured)


@njit(nogil=True, cache=True, error_model="numpy")
def _take_out(sums, fit, n_vector, first, last):
    """Return the sums once a fault between two edges is fitted too, and by how much χ² falls then."""
    n = len(fit.box)
    n_beyond = (len(sums.own) - n - 1) // 2
    start, end = max(first - n_beyond, 0), min(last - n_beyond, n)
    fault = np.zeros(n)
    fault[start:end] = fit.box[start:end]
    fault -= np.dot(fit.orthonormal, np.dot(fault, fit.orthonormal))
    fault /= np.sqrt(np.dot(fault, fault))
    amplitude = np.dot(fit.left, fault)
    total, of_fault = 0.0, np.zeros(len(sums.own))
    for k in range(n):
        total += fit.box[k] * fault[k]
        of_fault[n_beyond + 1 + k] = total
    of_fault[n_beyond + 1 + n :] = total
    shared = sums.shared.copy()
    shared[n_vector] = of_fault
    return _Sums(shared, sums.own, sums.left - amplitude * of_fault, sums.n_measured), amplitude * amplitude


@njit(nogil=True, cache=True, error_model="numpy")
def _scan(sums, is_absorbed, low, widths, first_width, best):
    """Fill, for each width, the strongest loss that no gas explains, its limits; the strongest of gas; the excess."""
    n_beyond, n_edge = _beyond(widths[-1]), len(sums.own)
    signed, keys = np.empty(n_edge, np.float32), np.empty(3, np.int32)
    found = keys.view(np.float32)
    best[:] = 0.0
    for q in range(first_width, len(widths)):
        width, stride = widths[q], max(widths[q] // 8, 1)
        begin = n_beyond - _beyond(width)
        n_start = max(n_edge - 2 * begin - width, 0)
        _window_powers(sums, begin, width, signed[:n_start])
        powers, masks = signed[:n_start], is_absorbed[q][low + begin :]
        # of wide windows, no more than say something of their own
        if stride > 1:
            at = _strongest_windows(powers[::stride], masks[::stride], keys)
        else:  # side by side in memory, and so by vector instructions
            at = _strongest_windows(powers, masks, keys)
        best[q, 0], best[q, 3], best[q, 4] = np.sqrt(found[0]), np.sqrt(found[1]), np.sqrt(found[2])
        best[q, 1], best[q, 2] = at * stride + begin, at * stride + begin + width


@njit(nogil=True, cache=True)
def _strongest_windows(powers, is_absorbed, keys):
    """Return where the strongest loss is that no gas explains; fill it, the strongest of gas, and the excess.

    The bits of floats keep their order, as in `astrolab.largest`.
    """
    bits, sign = powers.view(np.int32), np.int32(-(2**31))
    loss = of_gas = excess = np.int32(0)
    for j in range(len(bits)):
        own, of_absorber, flipped = bits[j] & ~is_absorbed[j], bits[j] & is_absorbed[j], bits[j] ^ sign
        loss = own if own > loss else loss
        of_gas = of_absorber if of_absorber > of_gas else of_gas
        excess = flipped if flipped > excess else excess
    keys[0], keys[1], keys[2] = loss, of_gas, excess
    at = 0
    if loss > 0:
        while bits[at] & ~is_absorbed[at] != loss:
            at += 1
    return at


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _window_powers(sums, begin, width, signed):
    """Fill the squared significance of the light missing in windows of a width, negative where there is too much."""
    n = len(signed)
    shared2, end = np.zeros(n, np.float32), begin + width
    for a in range(0, len(sums.shared), 4):
        row0, row1, row2, row3 = sums.shared[a], sums.shared[a + 1], sums.shared[a + 2], sums.shared[a + 3]
        low0, low1, low2, low3 = row0[begin:], row1[begin:], row2[begin:], row3[begin:]
        high0, high1, high2, high3 = row0[end:], row1[end:], row2[end:], row3[end:]
        for j in range(n):
            part0, part1, part2, part3 = high0[j] - low0[j], high1[j] - low1[j], high2[j] - low2[j], high3[j] - low3[j]
            shared2[j] += part0 * part0 + part1 * part1 + part2 * part2 + part3 * part3
    own, own_end = sums.own[begin:], sums.own[end:]
    left, left_end = sums.left[begin:], sums.left[end:]
    count, count_end = sums.n_measured[begin:], sums.n_measured[end:]
    enough, one = np.float32(_MEASURED_SHARE * width), np.float32(1)
    systematic2, own_share = np.float32(_SYSTEMATIC**2), np.float32(_OWN_SHARE)
    for j in range(n):
        total, missing = np.float32(own_end[j] - own[j]), np.float32(left[j] - left_end[j])
        information = total - shared2[j]
        power = missing * np.abs(missing) / (information * (one + information * systematic2))
        is_enough = (count_end[j] - count[j] >= enough) & (information > own_share * total)
        signed[j] = power if is_enough else np.float32(0)


@njit(nogil=True, cache=True)
def _strongest(best, start, end):
    """Return significance, first and last edge of the strongest loss of widths from `start` on."""
    chosen = start + np.argmax(best[start:end, 0])
    return best[chosen, 0], int(best[chosen, 1]), int(best[chosen, 2])


@njit(nogil=True, cache=True, error_model="numpy")
def _one_camera(sums, ranges, power, first, last):
    """Return the range of a camera whose factor is off, to either side, if that explains more than the loss given."""
    missing, own = _fit_factor(sums, first, last, _OWN_SHARE)
    explained = missing * missing / own if power > 0 else 0.0
    for j in range(len(ranges)):
        low, high = ranges[j]
        inside = sums.n_measured[high] - sums.n_measured[low]
        if inside < _N_EDGE or sums.n_measured[-1] - inside < _N_EDGE:
            continue
        missing, own = _fit_factor(sums, low, high, _OWN_SHARE_OF_CAMERA)
        if missing * missing / own > explained:
            explained = missing * missing / own
            power = np.abs(missing) / np.sqrt(own * (1 + own * _SYSTEMATIC * _SYSTEMATIC))
            first, last = low, high
    return power, first, last


@njit(nogil=True, cache=True, error_model="numpy")
def _fit_factor(sums, low, high, own_share):
    """Return the light missing between two edges, and the information on it; 0 if too little.

    The share of light that is missing is the ratio of both, and its variance without what is systematic 1 / own.
    """
    shared = sums.shared[:, high] - sums.shared[:, low]
    total = sums.own[high] - sums.own[low]
    own = total - np.sum(shared * shared)
    if own <= own_share * total:
        return 0.0, 1.0
    return sums.left[low] - sums.left[high], own
