"""Faults of a camera: light that is off by one factor between two observed wavelengths.

A model of spectra bends towards a fault: it takes missing light of a whole amplifier for a bluer continuum and a weaker
line, and what it leaves then looks like astrophysics. So a fault is fitted together with everything that the model
could have changed: its amplitude is that of a box times the model, beside the directions in which the model's spectra
differ and a slow change of the calibration. A fault is one only if it explains most of what is strange: `left` is what
the strongest feature still has once the fault is taken out.
"""

import numpy as np
import torch
from numba import njit

from astrolab.anomaly.artefacts import ARM_EDGES, rest_masks
from astrolab.anomaly.classes import mean_chi2
from astrolab.lines import SPEED_OF_LIGHT

FAULT_COLUMNS = (
    "fault_power",
    "fault_left",
    "fault_gain",
    "fault_first",
    "fault_last",
    "dip_power",
    "dip_left",
    "dip_at",
)

# widths in km/s, and the share of a window in which gas may absorb: a dip must lie where nothing does; the light of an
# amplifier or a camera is missing over more than any trough
_WIDTHS = (2_500, 4_500, 9_000, 18_000, 28_000, 38_000, 52_000)
_ABSORBED_SHARE = np.array([0.1, 0.1, 0.1, 0.2, 0.6, 0.75, 0.75])
# the bump of dust absorbs over as much (Fitzpatrick & Massa 1986, ApJ 307, 286), rest Å
_DUST = (1_950.0, 2_420.0)
_CELL = 800.0  # km/s, that pixels are put together in
_N_NARROW = 3  # the first widths are those of dips
_FIRST_RIVAL = 2  # the narrowest feature that competes with a missing amplifier
_MEASURED_SHARE = 0.6
_N_EDGE = 10  # pixels that must be measured on either side of where cameras meet
# a window of which less than this share differs from what the model could do says nothing; a camera's edge is known
_OWN_SHARE, _OWN_SHARE_OF_CAMERA = 0.05, 0.002
# a factor is never known better than this, however bright the spectrum: its model is not
_SYSTEMATIC = 0.07
# below this nothing is looked for any further, and a fault explains nothing
IS_FAULT = 3.0

_FAINT = 0.1  # of the normalised flux: a fraction of no light has no meaning
_N_VECTORS, _N_TILTS, _N_DRAWS = 10, 3, 512


def model_directions(models):
    """Return the mean spectrum of models and the directions in which their spectra differ most.

    Parameters
    ----------
    models : list of torch.nn.Module
        With ``decode(latent)`` and the number of latent dimensions in ``config``; a model without is passed over.

    Returns
    -------
    numpy.ndarray, shape (n_vector, n_wavelength), float64
        Of spectra of latent vectors drawn from the prior, each in units of its median: their mean and principal
        components. No vector where no model decodes.
    """
    shapes = []
    for model in (model for model in models if hasattr(model, "decode")):
        draws = np.random.default_rng(0).standard_normal((_N_DRAWS, model.config["n_latent"]))
        with torch.inference_mode():
            shape = model.decode(torch.from_numpy(draws.astype("float32"))).numpy().astype("float64")
        shapes.append(shape / np.maximum(np.median(shape, axis=1, keepdims=True), _FAINT))
    if not shapes:
        return np.empty((0, models[0].config["n_wavelength"]))
    shapes = np.concatenate(shapes)
    mean = shapes.mean(axis=0)
    return np.concatenate([mean[None], np.linalg.svd(shapes - mean, full_matrices=False)[2][:_N_VECTORS]])


def fault_evidence(flux, weight, flux_model, directions, wavelength, redshift):
    """Look for light that is off by one factor over a stretch of each spectrum.

    Parameters
    ----------
    flux : numpy.ndarray, shape (object, n_wavelength), float32
        Normalised flux, rest frame; 0 where not measured.
    weight : numpy.ndarray, shape (object, n_wavelength), float32
        From `class_weights`; 0 where not measured.
    flux_model : numpy.ndarray, shape (object, n_wavelength), float32
        What the model makes of each spectrum.
    directions : numpy.ndarray, shape (n_vector, n_wavelength)
        From `model_directions`.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å, uniform in its logarithm.
    redshift : numpy.ndarray, shape (object,)
        Redshift that the spectra were brought to the rest frame with.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns ``FAULT_COLUMNS``: of the fault as wide as an amplifier or a camera, the significance of its factor
        (sigma, with 7 % of the flux as systematic error), that of the strongest feature left without it, ln of the
        ratio of χ² without and with it, and its limits (observed Å); of the dip where nothing absorbs, the same
        significances and its middle (observed Å). What is below 3 sigma explains nothing, and leaves itself.
    """
    pixel = SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0])  # km/s
    n_pixel = max(round(_CELL / pixel), 1)
    n_cell = len(wavelength) // n_pixel  # pixels that fill no whole cell at the red end are left out
    wavelength = wavelength[: n_cell * n_pixel].reshape(n_cell, n_pixel).mean(axis=1)
    directions = directions[:, : n_cell * n_pixel].reshape(len(directions), n_cell, n_pixel).mean(axis=2)
    tilts = np.linspace(-1, 1, n_cell) ** np.arange(_N_TILTS)[:, None]
    columns = np.zeros((len(flux), len(FAULT_COLUMNS)), "float32")
    _measure_rows(
        np.ascontiguousarray(flux, "float32"),
        np.ascontiguousarray(weight, "float32"),
        np.ascontiguousarray(flux_model, "float32"),
        directions,
        tilts,
        _count_absorbed(wavelength),
        np.maximum(np.round(np.array(_WIDTHS) / (n_pixel * pixel)).astype(int), 2),
        _camera_ranges(wavelength, redshift),
        np.asarray(wavelength, "float64"),
        np.asarray(redshift, "float64"),
        columns,
    )
    return columns


def _count_absorbed(wavelength):
    """Return the pixels up to each pixel's edge where gas absorbs, and where gas or dust does."""
    of_gas = rest_masks(wavelength)[1]
    of_both = of_gas | ((wavelength > _DUST[0]) & (wavelength < _DUST[1]))
    return np.pad(np.cumsum([of_gas, of_both], axis=1), ((0, 0), (1, 0)))


def _camera_ranges(wavelength, redshift):
    """Return first and one-past-last pixel of what one camera saw, shape (object, n_range, 2)."""
    known = np.where(np.isfinite(redshift) & (redshift > -1), redshift, 0)
    first, second, third = (np.searchsorted(wavelength, edge / (1 + known)) for edge in ARM_EDGES)
    start, end = np.zeros_like(first), np.full_like(first, len(wavelength))
    ranges = [(start, first), (start, second), (third, end), (first, third)]
    return np.stack([np.stack(one, axis=1) for one in ranges], axis=1)


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_rows(
    flux, weight, flux_model, directions, tilts, n_absorbed, widths, ranges, wavelength, redshift, columns
):
    every, best = np.zeros((3, len(wavelength))), np.zeros((len(widths), 5))
    for i in range(len(flux)):
        row, stretch = columns[i], 1 + redshift[i]
        low, high = _put_in_cells(flux[i], weight[i], flux_model[i], every)
        cells, rest = every[:, low:high].copy(), wavelength[low:high]
        cameras = np.clip(ranges[i] - low, 0, high - low)
        is_known, basis, residual = _whiten(cells, directions[:, low:high], tilts[:, low:high])
        if not is_known:
            continue
        sums = _running_sums(cells, residual, basis)
        _scan(sums, n_absorbed, low, widths, best)
        spectrum = cells, residual, basis, n_absorbed, low, widths
        power, first, last = _strongest(best, 0, _N_NARROW)
        row[5], row[7] = power, np.sqrt(rest[first] * rest[last - 1]) * stretch
        row[6] = _without(*spectrum, first, last, 0)[0] if power > IS_FAULT else power
        power, first, last = _strongest(best, _N_NARROW, len(widths))
        power, first, last = _one_camera(sums, cameras, power, first, last)
        row[0], row[3], row[4] = power, rest[first] * stretch, rest[last - 1] * stretch
        row[1], row[2] = _without(*spectrum, first, last, _FIRST_RIVAL) if power > IS_FAULT else (power, 0.0)


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
        cells[2, k] = max(of_model / total, _FAINT) if total > 0 else _FAINT
        if total > 0:
            low, high = min(low, k), k + 1
    return min(low, high), high


@njit(nogil=True, cache=True, error_model="numpy")
def _whiten(cells, directions, tilts):
    """Return whether anything is measured, a basis orthonormal under the weights, and what it leaves of the flux.

    The basis has one vector more, of zeros, for the fault itself once it is found.
    """
    n_direction, n_basis, n = len(directions), len(directions) + len(tilts), cells.shape[1]
    basis, residual = np.zeros((n_basis + 1, n)), np.zeros(n)
    flux, weight, flux_model = cells
    vectors = np.empty((n_basis, n))
    vectors[:n_direction] = directions
    for a in range(n_direction, n_basis):
        vectors[a] = flux_model * tilts[a - n_direction]
    normal = np.dot(vectors * weight, vectors.T)
    trace = np.trace(normal)
    if n <= n_basis or not np.isfinite(trace):
        return False, basis, residual
    for a in range(n_basis):
        normal[a, a] += 1e-6 + 1e-10 * trace  # holds directions that the measured pixels cannot tell apart
    basis[:n_basis] = np.dot(np.linalg.inv(np.linalg.cholesky(normal)), vectors)
    residual[:] = flux - np.dot(np.dot(basis[:n_basis], weight * flux), basis[:n_basis])
    return True, basis, residual


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _weighted_dot(weight, left, right):
    total = 0.0
    for k in range(len(weight)):
        total += weight[k] * left[k] * right[k]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _running_sums(cells, residual, basis):
    """Return the sums, up to each cell's edge, of w m basis, of w m², of w m residual, and of the measured cells."""
    n_basis, n = basis.shape
    sums = np.zeros((n + 1, n_basis + 3))
    weight, flux_model = cells[1], cells[2]
    for k in range(n):
        weighted = weight[k] * flux_model[k]
        for a in range(n_basis):
            sums[k + 1, a] = sums[k, a] + weighted * basis[a, k]
        sums[k + 1, n_basis] = sums[k, n_basis] + weighted * flux_model[k]
        sums[k + 1, n_basis + 1] = sums[k, n_basis + 1] + weighted * residual[k]
        sums[k + 1, n_basis + 2] = sums[k, n_basis + 2] + (weight[k] > 0)
    return sums


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _fit_factor(low, high, own_share):
    """Return, from the sums at two edges, the light missing between them, and the information on it; 0 if too little.

    The share of light that is missing is the ratio of both, and its variance without what is systematic 1 / own.
    """
    n_basis = len(low) - 3
    shared2 = 0.0
    for a in range(n_basis):
        shared = high[a] - low[a]
        shared2 += shared * shared
    total = high[n_basis] - low[n_basis]
    own = total - shared2
    if own <= own_share * total:
        return 0.0, 1.0
    return low[n_basis + 1] - high[n_basis + 1], own


@njit(nogil=True, cache=True, error_model="numpy")
def _significance(missing, own):
    return missing / np.sqrt(own * (1 + own * _SYSTEMATIC * _SYSTEMATIC))


@njit(nogil=True, cache=True, error_model="numpy")
def _scan(sums, n_absorbed, offset, widths, best):
    """Fill, for each width, the strongest loss that no gas explains, its limits; the strongest of gas; the excess."""
    n = len(sums) - 1
    for q in range(len(widths)):
        width, stride = widths[q], max(widths[q] // 8, 1)
        absorbed = n_absorbed[0 if q < _N_NARROW else 1]
        best[q] = 0.0
        beyond = int((1 - _MEASURED_SHARE) * width)  # a window may reach beyond what was measured
        for start in range(-beyond, n - width + beyond + 1, stride):
            first, last = max(start, 0), min(start + width, n)
            low, high = sums[first], sums[last]
            if high[-1] - low[-1] < _MEASURED_SHARE * width:
                continue
            power = _significance(*_fit_factor(low, high, _OWN_SHARE))
            edges = max(start + offset, 0), min(start + offset + width, len(absorbed) - 1)
            if power < 0:
                best[q, 4] = max(best[q, 4], -power)
            elif absorbed[edges[1]] - absorbed[edges[0]] > _ABSORBED_SHARE[q] * width:
                best[q, 3] = max(best[q, 3], power)
            elif power > best[q, 0]:
                best[q, 0], best[q, 1], best[q, 2] = power, first, last


@njit(nogil=True, cache=True)
def _strongest(best, start, end):
    """Return significance, first and one-past-last pixel of the strongest loss of widths from `start` on."""
    chosen = start + np.argmax(best[start:end, 0])
    return best[chosen, 0], int(best[chosen, 1]), max(int(best[chosen, 2]), 1)


@njit(nogil=True, cache=True, error_model="numpy")
def _one_camera(sums, ranges, power, first, last):
    """Return the range of a camera whose factor is off, to either side, if that explains more than the loss given."""
    missing, own = _fit_factor(sums[first], sums[last], _OWN_SHARE)
    explained = missing * missing / own if power > 0 else 0.0
    for j in range(len(ranges)):
        low, high = ranges[j]
        inside = sums[high, -1] - sums[low, -1]
        if inside < _N_EDGE or sums[-1, -1] - inside < _N_EDGE:
            continue
        missing, own = _fit_factor(sums[low], sums[high], _OWN_SHARE_OF_CAMERA)
        if missing * missing / own > explained:
            explained = missing * missing / own
            power, first, last = np.abs(_significance(missing, own)), low, high
    return power, first, last


@njit(nogil=True, cache=True, error_model="numpy")
def _without(cells, residual, basis, n_absorbed, offset, widths, first, last, first_rival):
    """Return the significance of the strongest feature once a fault is fitted too, and ln of the χ² that it takes."""
    n_basis = len(basis) - 1
    weight, flux_model = cells[1], cells[2]
    own, fault = basis[:n_basis], basis[n_basis]
    fault[first:last] = flux_model[first:last]
    fault -= np.dot(np.dot(own, weight * fault), own)
    fault /= np.sqrt(_weighted_dot(weight, fault, fault))
    overlap, chi2 = _weighted_dot(weight, fault, residual), _weighted_dot(weight, residual, residual)
    remaining = residual - overlap * fault
    sums, best = _running_sums(cells, remaining, basis), np.zeros((len(widths), 5))
    _scan(sums, n_absorbed, offset, widths, best)
    fault[:] = 0.0
    left = 0.0
    for q in range(first_rival, len(widths)):
        left = max(left, best[q, 0], best[q, 3], best[q, 4])
    n_good = sums[-1, -1]
    return left, mean_chi2(chi2, n_good) - mean_chi2(chi2 - overlap * overlap, n_good)
