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
    """What fits one spectrum without a fault: vectors that the model could add, and how much of each is in the flux."""

    normal: np.ndarray  # their products under the weights, shape (n_vector, n_vector)
    root: np.ndarray  # takes vectors to orthonormal ones, shape (n_vector, n_vector)
    overlap: np.ndarray  # their products with the flux, shape (n_vector,)
    amplitude: np.ndarray  # their best amplitudes, shape (n_vector,)
    chi2: float  # of the flux without them


class _Sums(NamedTuple):
    """Running sums, each up to an edge, of the products with a box of the model's flux; shape (…, n_edge)."""

    plain: np.ndarray  # of the vectors, shape (n_vector, n_edge)
    shared: np.ndarray  # of orthonormal ones and, once it is found, the fault; then zeros up to a multiple of 4
    own: np.ndarray  # of the model's flux itself, float64 as what the fit leaves: small differences of large sums
    left: np.ndarray  # of what the fit leaves
    n_measured: np.ndarray  # the number of measured cells


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
    flux, weight, flux_model, directions, tilts, is_absorbed, widths, ranges, wavelength, redshift, columns
):
    """Fill the columns of each spectrum.

    Parameters
    ----------
    flux, weight, flux_model : numpy.ndarray, shape (object, n_wavelength), float32
        As for `astrolab.anomaly.faults.fault_evidence`.
    directions : numpy.ndarray, shape (n_direction, n_cell)
        In which the model's spectra differ.
    tilts : numpy.ndarray, shape (n_tilt, n_cell)
        Slow changes of the calibration, factors of the model.
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
        measured, masked = np.ascontiguousarray(cells[:, low:high]), is_absorbed[:, low:]
        is_known, weighted, fit = _fit_vectors(measured, directions, tilts, low, high)
        if not is_known:
            continue
        sums = _running_sums(measured, weighted, fit, n_beyond)
        _scan(sums, masked, widths, 0, best)
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
            without, _ = _fit_fault(sums, fit, first, last)
            _scan(without, masked, widths, 0, best)
            row[6] = _strongest_of_all(best)
        row[1] = wide_power
        if wide_power > IS_FAULT:
            without, chi2 = _fit_fault(sums, fit, wide_first, wide_last)
            _scan(without, masked, widths, _FIRST_RIVAL, best)
            n_good = sums.n_measured[-1]
            row[1], row[2] = _strongest_of_all(best), mean_chi2(fit.chi2, n_good) - mean_chi2(chi2, n_good)


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
def _fit_vectors(cells, directions, tilts, low, high):
    """Return whether anything is measured, the weighted vectors that the model could add, and their fit."""
    flux, weight, flux_model = cells[0], cells[1], cells[2]
    n_direction, n_vector, n = len(directions), len(directions) + len(tilts), len(flux)
    vectors, weighted = np.empty((n_vector, n)), np.empty((n_vector, n))
    for a in range(n_vector):
        own, factor = vectors[a], weighted[a]
        if a < n_direction:
            own[:] = directions[a][low:high]
        else:
            tilt = tilts[a - n_direction][low:high]
            for k in range(n):
                own[k] = flux_model[k] * tilt[k]
        for k in range(n):
            factor[k] = own[k] * weight[k]
    normal = np.dot(weighted, vectors.T)
    trace = np.trace(normal)
    is_known = n > n_vector and np.isfinite(trace)
    root = _inverse_root(normal, 1e-6 + 1e-10 * trace) if is_known else normal
    overlap = np.dot(weighted, flux)
    amplitude = np.dot(root.T, np.dot(root, overlap))
    chi2 = 0.0
    for k in range(n):
        chi2 += weight[k] * flux[k] * flux[k]
    chi2 += np.dot(amplitude, np.dot(normal, amplitude) - 2 * overlap)
    return is_known, weighted, _Fit(normal, root, overlap, amplitude, chi2)


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
def _running_sums(cells, weighted, fit, n_beyond):
    n_vector, n = weighted.shape
    n_edge = n + 1 + 2 * n_beyond
    plain, own, left = np.zeros((n_vector, n_edge)), np.zeros(n_edge), np.zeros(n_edge)
    n_measured = np.zeros(n_edge, np.float32)
    flux, weight, flux_model = cells[0], cells[1], cells[2]
    for a in range(n_vector):
        vector, sums, total = weighted[a], plain[a][n_beyond + 1 :], 0.0
        for k in range(n):
            total += vector[k] * flux_model[k]
            sums[k] = total
        sums[n:] = total
    total, of_flux, count = 0.0, 0.0, 0.0
    for k in range(n):
        product = weight[k] * flux_model[k]
        total += product * flux_model[k]
        of_flux += product * flux[k]
        count += weight[k] > 0
        at = n_beyond + 1 + k
        own[at], left[at], n_measured[at] = total, of_flux, count
    own[n_beyond + n :], left[n_beyond + n :], n_measured[n_beyond + n :] = total, of_flux, count
    left -= np.dot(fit.amplitude, plain)
    # one row for the fault, and as many as fill up fours
    root = np.zeros(((n_vector + 4) // 4 * 4, n_vector))
    root[:n_vector] = fit.root
    return _Sums(plain, np.dot(root, plain).astype(np.float32), own, left, n_measured)


@njit(nogil=True, cache=True, error_model="numpy")
def _fit_fault(sums, fit, first, last):
    """Return the sums once a fault between two edges is fitted too, and χ² then."""
    n_vector = len(fit.overlap)
    box = np.ascontiguousarray(sums.plain[:, last] - sums.plain[:, first])
    amplitude = np.dot(fit.root.T, np.dot(fit.root, box))
    fault = np.minimum(np.maximum(sums.own, sums.own[first]), sums.own[last]) - sums.own[first]
    fault -= np.dot(amplitude, sums.plain)
    norm2 = sums.own[last] - sums.own[first] + np.dot(amplitude, np.dot(fit.normal, amplitude) - 2 * box)
    fault /= np.sqrt(norm2)
    overlap = sums.left[last] - sums.left[first]
    overlap -= np.dot(amplitude, fit.overlap - np.dot(fit.normal, fit.amplitude))
    overlap /= np.sqrt(norm2)
    shared = sums.shared.copy()
    shared[n_vector] = fault
    left = sums.left - overlap * fault
    return _Sums(sums.plain, shared, sums.own, left, sums.n_measured), fit.chi2 - overlap * overlap


@njit(nogil=True, cache=True, error_model="numpy")
def _scan(sums, is_absorbed, widths, first_width, best):
    """Fill, for each width, the strongest loss that no gas explains, its limits; the strongest of gas; the excess."""
    n_beyond, n_edge = _beyond(widths[-1]), len(sums.own)
    signed = np.empty(n_edge, np.float32)
    best[:] = 0.0
    for q in range(first_width, len(widths)):
        width, stride = widths[q], max(widths[q] // 8, 1)
        begin = n_beyond - _beyond(width)
        n_start = max(n_edge - 2 * begin - width, 0)
        _window_powers(sums, begin, width, signed[:n_start])
        # as many windows of every width as say something of their own
        loss, of_gas, excess, at = _strongest_windows(signed[:n_start:stride], is_absorbed[q, begin::stride])
        best[q, 0], best[q, 3], best[q, 4] = np.sqrt(loss), np.sqrt(of_gas), np.sqrt(excess)
        best[q, 1], best[q, 2] = at * stride + begin, at * stride + begin + width


@njit(nogil=True, cache=True)
def _strongest_windows(signed, is_absorbed):
    """Return the largest where no gas absorbs, the largest where it does, the lowest, and where the first is.

    As in `astrolab.largest`: the bits of floats keep their order.
    """
    bits, sign = signed.view(np.int32), np.int32(-(2**31))
    loss = of_gas = excess = np.int32(0)
    for j in range(len(bits)):
        allowed, absorbed, flipped = bits[j] & ~is_absorbed[j], bits[j] & is_absorbed[j], bits[j] ^ sign
        loss, of_gas, excess = max(loss, allowed), max(of_gas, absorbed), max(excess, flipped)
    at = 0
    if loss > 0:
        while bits[at] & ~is_absorbed[at] != loss:
            at += 1
    found = np.array([loss, of_gas, excess], np.int32).view(np.float32)
    return found[0], found[1], found[2], at


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
