"""Artefacts: what in a residual belongs to the instrument or the night, not to the object.

Everything is looked for in the observed frame, where an instrument's faults stay put while objects shift.
"""

import numpy as np
import pandas as pd
from numba import njit

from astrolab.anomaly.windows import measured_range, running_sums, window_powers, windows_inside
from astrolab.largest import NEGATIVE, POSITIVE, first_largest
from astrolab.lines import SPEED_OF_LIGHT, spectral_lines

# evidence of one kind each, in sigma above peers once calibrated
ARTEFACT_SCORES = ("artefact_spike", "artefact_step", "artefact_loss")
SHARED_SCORES = ("artefact_shared_trough", "artefact_shared_spike", "artefact_shared_dip")
FAULT_SCORE = "artefact_fault"
ARTEFACT_COLUMNS = (*ARTEFACT_SCORES, "spike_at", "step_at", "loss_at", "loss_width")

# where cameras and detectors meet, observed Å: DESI (Abareshi et al. 2022), SDSS and BOSS (Smee et al. 2013)
ARM_EDGES = (5780.0, 6000.0, 7570.0)

_LINE_REACH = 1_500.0  # km/s: a narrow feature this close to a line may be the object's own
_STEP_SPAN = 4_800.0  # km/s on either side of an edge
_LOSS_WIDTHS = (3_200.0, 6_400.0, 12_800.0, 25_600.0)  # km/s

# where an object's own gas can take light away, rest Å: everything bluewards of Lyα, the troughs to the blue of broad
# lines (Weymann et al. 1991) and of the iron of FeLoBALs (Hall et al. 2002)
_ABSORBED = ((0, 1260), (1285, 1400), (1420, 1555), (1700, 1865), (2250, 2810))


def rest_masks(wavelength):
    """Return where, on a rest grid, features may be an object's own.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å.

    Returns
    -------
    is_near_line, is_absorbed : numpy.ndarray, shape (n_wavelength,), bool
    """
    lines = np.array([line.wavelength for line in spectral_lines()])
    velocity = SPEED_OF_LIGHT * np.abs(wavelength[:, None] / lines - 1)
    is_absorbed = np.any([(wavelength > low) & (wavelength < high) for low, high in _ABSORBED], axis=0)
    return (velocity < _LINE_REACH).any(axis=1), is_absorbed


def artefact_evidence(residual, weight, wavelength, redshift):
    """Measure what looks like an artefact in the residuals of each spectrum.

    Parameters
    ----------
    residual : numpy.ndarray, shape (object, n_wavelength), float32
        ``flux - flux_model``; 0 where not measured.
    weight : numpy.ndarray, shape (object, n_wavelength), float32
        Its inverse variance with the scatter of ordinary spectra; 0 where not measured.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å.
    redshift : numpy.ndarray, shape (object,)
        Redshift that the spectra were brought to the rest frame with.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns ``ARTEFACT_COLUMNS``: a spike as narrow as a pixel of the grid away from every line; the step where
        cameras meet, less those in its neighbourhood; the strongest missing flux where no gas absorbs; each as
        ln(1 + sigma). Then observed wavelengths, Å, of these, and the width of the loss in pixels.
    """
    columns = np.zeros((len(residual), len(ARTEFACT_COLUMNS)), "float32")
    is_near_line, is_absorbed = rest_masks(wavelength)
    pixel = SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0])  # km/s
    step_span = max(round(_STEP_SPAN / pixel), 3)
    loss_widths = np.maximum(np.round(np.array(_LOSS_WIDTHS) / pixel).astype(int), 3)
    n_absorbed = np.concatenate([[0], np.cumsum(is_absorbed)])
    is_open = np.zeros((len(loss_widths), len(wavelength)), bool)
    for width, row in zip(loss_widths, is_open, strict=True):
        row[: len(wavelength) - width + 1] = n_absorbed[width:] - n_absorbed[:-width] <= int(0.1 * width)
    _measure_rows(
        np.ascontiguousarray(residual, "float32"),
        np.ascontiguousarray(weight, "float32"),
        np.asarray(wavelength, "float64"),
        np.asarray(redshift, "float64"),
        ~is_near_line,
        is_open,
        step_span,
        loss_widths,
        columns,
    )
    return columns


def describe_artefacts(table):
    """Say in words which evidence speaks for an artefact.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an object with ``ARTEFACT_SCORES`` (sigma above peers), ``SHARED_SCORES``, ``PIXEL_SCORES``,
        ``FAULT_SCORE``, the other ``ARTEFACT_COLUMNS``, ``pixel_spike_at``, ``shared_trough_at``, ``dip_at``,
        ``fault_first`` and ``fault_last``.

    Returns
    -------
    numpy.ndarray, shape (object,), object
        The strongest evidence of at least 2 sigma; empty where there is none.
    """
    scores = table[list(_WORDS)].to_numpy("float64")
    strongest, text = scores.argmax(axis=1), np.full(len(table), "", dtype=object)
    for column, (name, words) in enumerate(_WORDS.items()):
        rows = np.flatnonzero((strongest == column) & (scores[:, column] >= 2))
        if len(rows):
            own = table[[name, *_PLACES]].iloc[rows]
            text[rows] = words(own) + own[name].map(" ({:.1f}σ)".format)
    return text


def _at(column, before="", after=""):
    return lambda table: before + table[column].map("{:.0f} Å observed".format) + after


def _always(words):
    return lambda table: pd.Series(words, index=table.index)


def _between_limits(table):
    return "light off by one factor from " + table["fault_first"].map("{:.0f} to ".format) + _at("fault_last")(table)


_PLACES = (
    "pixel_spike_at",
    "spike_at",
    "step_at",
    "loss_at",
    "shared_trough_at",
    "dip_at",
    "fault_first",
    "fault_last",
)
_WORDS = {
    "artefact_cosmic_ray": _at("pixel_spike_at", "pixel sharper than the line spread, at "),
    "artefact_sky": _always("residuals on airglow lines"),
    "artefact_spike": _at("spike_at", "spike of a pixel at ", ", at no line"),
    "artefact_step": _at("step_at", "step where cameras meet, at "),
    "artefact_loss": _at("loss_at", "light missing at ", ", where nothing absorbs"),
    "artefact_shared_trough": _at("shared_trough_at", "missing flux where many others miss it, at "),
    "artefact_shared_spike": _at("spike_at", "spike where many others have one, at "),
    "artefact_shared_dip": _at("dip_at", "dip where many others have one, at "),
    FAULT_SCORE: _between_limits,
}


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_rows(residual, weight, wavelength, redshift, is_away, is_open, step_span, loss_widths, columns):
    n_object, n_wavelength = residual.shape
    sigma, power = np.zeros(n_wavelength, np.float32), np.zeros(n_wavelength, np.float32)
    weighted, total, count = np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1)
    for i in range(n_object):
        low, high = measured_range(weight[i])
        for k in range(low, high):
            sigma[k] = residual[i, k] * np.sqrt(weight[i, k])
        running_sums(residual[i], weight[i], low, high, weighted, total, count)
        stretch = 1 + redshift[i]
        # where the whole spectrum is misfit, one more misfit is no evidence
        square, n = _capped_power(sigma[low:high], weight[i, low:high], np.float32(25))
        ordinary = max(np.sqrt(square / max(n, 1)), 0.3)
        _spike(sigma, weight[i], is_away, low, high, power, wavelength, stretch, columns[i])
        _step(weighted, total, count, step_span, wavelength, stretch, columns[i])
        _loss(weighted, total, count, low, high, is_open, loss_widths, power, wavelength, stretch, columns[i])
        for j in range(3):
            columns[i, j] = np.log1p(np.expm1(columns[i, j]) / ordinary)


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _capped_power(sigma, weight, most):
    """Return the sum of the squares, each of which counts as `most` at most, and the number of measured pixels."""
    power, n = 0.0, np.int32(0)
    for k in range(len(sigma)):
        square = sigma[k] * sigma[k]
        square = square if square < most else most
        power += square if weight[k] > 0 else np.float32(0)
        n = np.int32(n + (weight[k] > 0))
    return power, n


@njit(nogil=True, cache=True, error_model="numpy")
def _spike(sigma, weight, is_away, low, high, height, wavelength, stretch, row):
    """Find the pixel that stands highest over twice the pixels two away from it."""
    sigma, weight, is_away = sigma[low:high], weight[low:high], is_away[low:high]
    height = height[: max(high - low - 4, 1)]
    height[0] = 0.0
    for k in range(high - low - 4):
        # what is wider than a pixel or two is no spike, however high
        left, right = np.abs(sigma[k]), np.abs(sigma[k + 4])
        above = sigma[k + 2] - np.float32(2) * (left if left > right else right)
        is_measured = (weight[k] > 0) & (weight[k + 2] > 0) & (weight[k + 4] > 0)
        height[k] = above if is_measured & is_away[k + 2] else np.float32(0)
    at = first_largest(height, POSITIVE)
    best = max(height[at], np.float32(0))
    row[0], row[3] = np.log1p(best), wavelength[low + at + 2 if best > 0 else 0] * stretch


@njit(nogil=True, cache=True, error_model="numpy")
def _contrasts(weighted, total, count, span, contrast):
    """Fill how far the mean residual redwards of a pixel differs from that bluewards of it, in sigma, squared.

    The first value is that of the pixel `span` from the beginning.
    """
    for k in range(len(contrast)):
        left, middle, right = count[k], count[k + span], count[k + 2 * span]
        is_measured = (middle - left >= 0.6 * span) & (right - middle >= 0.6 * span)
        below, above = total[k + span] - total[k], total[k + 2 * span] - total[k + span]
        difference = (weighted[k + 2 * span] - weighted[k + span]) * below - (weighted[k + span] - weighted[k]) * above
        square = difference * difference / (below * above * (below + above))
        contrast[k] = square if is_measured else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _step(weighted, total, count, span, wavelength, stretch, row):
    """Measure by how much the step where cameras meet exceeds every step in its neighbourhood, in sigma."""
    best, at, contrast = 0.0, 0.0, np.empty(4 * span)
    for edge in ARM_EDGES:
        middle = np.searchsorted(wavelength, edge / stretch)
        if middle < span or middle >= len(wavelength) - span:
            continue
        low, high = max(middle - 2 * span, span), min(middle + 2 * span, len(wavelength) - span)
        inside = slice(low - span, high + span)
        _contrasts(weighted[inside], total[inside], count[inside], span, contrast[: high - low])
        here, beside = 0.0, 0.0
        for k in range(low, high):
            if abs(k - middle) <= 1:  # a pixel may straddle the edge
                here = max(here, contrast[k - low])
            elif abs(k - middle) > span // 2:
                beside = max(beside, contrast[k - low])
        excess = np.sqrt(here) - np.sqrt(beside)
        if excess > best:
            best, at = excess, edge
    row[1], row[4] = np.log1p(best), at


@njit(nogil=True, cache=True, error_model="numpy")
def _loss(weighted, total, count, low, high, is_open, widths, power, wavelength, stretch, row):
    """Find the most significant missing flux where neither forest nor outflow can be the reason."""
    best, found, span = np.float32(0), 0, 1
    for j in range(len(widths)):
        first, last = windows_inside(low, high, widths[j], len(wavelength))
        windows, may_lose = power[: last - first], is_open[j, first:last]
        window_powers(weighted[first:], total[first:], count[first:], widths[j], 0.6, windows)
        for k in range(len(windows)):
            windows[k] = windows[k] if may_lose[k] else np.float32(0)
        at = first_largest(windows, NEGATIVE)
        if last > first and -windows[at] > best:
            best, found, span = -windows[at], first + at, widths[j]
    row[2], row[5], row[6] = np.log1p(np.sqrt(best)), wavelength[found + span // 2] * stretch, span
