"""Artefacts: what in a residual belongs to the instrument or the night, not to the object.

Everything is looked for in the observed frame, where an instrument's faults stay put while objects shift.
"""

import numpy as np
import pandas as pd
from numba import njit

from astrolab.anomaly.windows import NEGATIVE, first_largest, running_sums, window_powers
from astrolab.lines import SPEED_OF_LIGHT, spectral_lines
from astrolab.simulation.sky import AIRGLOW

# evidence of one kind each, in sigma above peers once calibrated
ARTEFACT_SCORES = ("artefact_spike", "artefact_sky", "artefact_step", "artefact_loss")
SHARED_SCORES = ("artefact_shared_trough", "artefact_shared_spike")
ARTEFACT_COLUMNS = (*ARTEFACT_SCORES, "spike_at", "step_at", "loss_at", "loss_width")

# where cameras and detectors meet, observed Å: DESI (Abareshi et al. 2022), SDSS and BOSS (Smee et al. 2013)
ARM_EDGES = (5780.0, 6030.0, 7570.0)

_BRIGHT_AIRGLOW = np.array(sorted(wavelength for wavelength, power in AIRGLOW if power > 50))
_FIRST_AIRGLOW = 5500.0  # bluewards there is next to none
_LINE_REACH = 1_500.0  # km/s: a narrow feature this close to a line may be the object's own
_STEP_SPAN = 4_800.0  # km/s on either side of an edge
# a squared residual counts as this at most, so that many pixels must agree and one strange feature says nothing
_MUCH = 4.0
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
        Columns ``ARTEFACT_COLUMNS``: a spike as narrow as a pixel away from every line (ln(1 + sigma)); ln of the mean
        square residual on airglow lines over that beside them; the step where cameras meet, less those in its
        neighbourhood (ln(1 + sigma)); the strongest missing flux where no gas absorbs (ln(1 + sigma)). Then observed
        wavelengths, Å, of the spike, the step and the loss, and the width of the loss in pixels.
    """
    columns = np.zeros((len(residual), len(ARTEFACT_COLUMNS)), "float32")
    is_near_line, is_absorbed = rest_masks(wavelength)
    pixel = SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0])  # km/s
    step_span = max(round(_STEP_SPAN / pixel), 3)
    loss_widths = np.maximum(np.round(np.array(_LOSS_WIDTHS) / pixel).astype(int), 3)
    _measure_rows(
        np.ascontiguousarray(residual, "float32"),
        np.ascontiguousarray(weight, "float32"),
        np.asarray(wavelength, "float64"),
        np.asarray(redshift, "float64"),
        is_near_line,
        np.concatenate([[0], np.cumsum(is_absorbed)]),
        _BRIGHT_AIRGLOW,
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
        One row an object with ``ARTEFACT_SCORES`` (sigma above peers), ``SHARED_SCORES``, the other
        ``ARTEFACT_COLUMNS`` and ``shared_trough_at``.

    Returns
    -------
    numpy.ndarray, shape (object,), str
        The strongest evidence of at least 2 sigma; empty where there is none.
    """

    def at(column):
        return table[column].map("{:.0f} Å observed".format)

    words = {
        "artefact_spike": "spike of a pixel at " + at("spike_at") + ", at no line",
        "artefact_sky": pd.Series("residuals on airglow lines", index=table.index),
        "artefact_step": "step where cameras meet, at " + at("step_at"),
        "artefact_loss": "light missing at " + at("loss_at") + ", where nothing absorbs",
        "artefact_shared_trough": "missing flux where many others miss it, at " + at("shared_trough_at"),
        "artefact_shared_spike": "spike where many others have one, at " + at("spike_at"),
    }
    scores = table[list(words)].to_numpy("float64")
    strongest = scores.argmax(axis=1)
    text = np.stack([column.to_numpy(dtype=object) for column in words.values()], axis=1)
    rows = np.arange(len(table))
    sigma = pd.Series(scores[rows, strongest]).map(" ({:.1f}σ)".format).to_numpy(dtype=object)
    return np.where(scores.max(axis=1) < 2, "", text[rows, strongest] + sigma).astype(str)


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_rows(
    residual, weight, wavelength, redshift, is_near_line, n_absorbed, airglow, step_span, loss_widths, columns
):
    n_object, n_wavelength = residual.shape
    sigma = np.zeros(n_wavelength)
    weighted, total, count = np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1)
    for i in range(n_object):
        for k in range(n_wavelength):
            sigma[k] = residual[i, k] * np.sqrt(weight[i, k])
        running_sums(residual[i], weight[i], weighted, total, count)
        stretch = 1 + redshift[i]
        # where the whole spectrum is misfit, one more misfit is no evidence
        power, n = 0.0, 0
        for k in range(n_wavelength):
            if weight[i, k] > 0:
                power, n = power + min(sigma[k] * sigma[k], 25.0), n + 1
        ordinary = max(np.sqrt(power / max(n, 1)), 0.3)
        _spike(sigma, weight[i], is_near_line, wavelength, stretch, columns[i])
        _sky(sigma, weight[i], wavelength, stretch, airglow, columns[i])
        _step(weighted, total, count, step_span, wavelength, stretch, columns[i])
        _loss(weighted, total, count, n_absorbed, loss_widths, wavelength, stretch, columns[i])
        for j in (0, 2, 3):
            columns[i, j] = np.log1p(np.expm1(columns[i, j]) / ordinary)


@njit(nogil=True, cache=True, error_model="numpy")
def _spike(sigma, weight, is_near_line, wavelength, stretch, row):
    """Find the pixel that stands highest over twice the pixels two away from it."""
    best, at = 0.0, 0
    for k in range(2, len(sigma) - 2):
        if weight[k] > 0 and weight[k - 2] > 0 and weight[k + 2] > 0 and not is_near_line[k]:
            # what is wider than a pixel or two is no spike, however high
            height = sigma[k] - 2 * max(np.abs(sigma[k - 2]), np.abs(sigma[k + 2]))
            if height > best:
                best, at = height, k
    row[0], row[4] = np.log1p(best), wavelength[at] * stretch


@njit(nogil=True, cache=True, error_model="numpy")
def _sky(sigma, weight, wavelength, stretch, airglow, row):
    """Compare residuals on bright airglow lines with those beside them."""
    on, off, n_on, n_off, line = 0.0, 0.0, 0, 0, 0
    for k in range(1, len(sigma) - 1):
        observed = wavelength[k] * stretch
        if observed < _FIRST_AIRGLOW or weight[k] <= 0:
            continue
        low, high = 0.5 * (wavelength[k - 1] * stretch + observed), 0.5 * (wavelength[k + 1] * stretch + observed)
        while line < len(airglow) and airglow[line] < low:
            line += 1
        power = min(sigma[k] * sigma[k], _MUCH)
        if line < len(airglow) and airglow[line] < high:
            on, n_on = on + power, n_on + 1
        else:
            off, n_off = off + power, n_off + 1
    if n_on >= 5 and n_off >= 5:
        row[1] = np.log((on / n_on + 0.3) / (off / n_off + 0.3))


@njit(nogil=True, cache=True, error_model="numpy")
def _contrast2(weighted, total, count, span, k):
    """Return how far the mean residual redwards of pixel k differs from that bluewards of it, in sigma, squared."""
    left, right = max(k - span, 0), min(k + span, len(count) - 1)
    if count[k] - count[left] < 0.6 * span or count[right] - count[k] < 0.6 * span:
        return 0.0
    below, above = total[k] - total[left], total[right] - total[k]
    difference = (weighted[right] - weighted[k]) * below - (weighted[k] - weighted[left]) * above
    return difference * difference / (below * above * (below + above))


@njit(nogil=True, cache=True, error_model="numpy")
def _step(weighted, total, count, span, wavelength, stretch, row):
    """Measure by how much the step where cameras meet exceeds every step in its neighbourhood, in sigma."""
    best, at = 0.0, 0.0
    for edge in ARM_EDGES:
        middle = np.searchsorted(wavelength, edge / stretch)
        if middle < span or middle >= len(wavelength) - span:
            continue
        here, beside = 0.0, 0.0
        for k in range(max(middle - 2 * span, span), min(middle + 2 * span, len(wavelength) - span)):
            if abs(k - middle) <= 1:  # a pixel may straddle the edge
                here = max(here, _contrast2(weighted, total, count, span, k))
            elif abs(k - middle) > span // 2:
                beside = max(beside, _contrast2(weighted, total, count, span, k))
        excess = np.sqrt(here) - np.sqrt(beside)
        if excess > best:
            best, at = excess, edge
    row[2], row[5] = np.log1p(best), at


@njit(nogil=True, cache=True, error_model="numpy")
def _loss(weighted, total, count, n_absorbed, widths, wavelength, stretch, row):
    """Find the most significant missing flux where neither forest nor outflow can be the reason."""
    best, found, span = 0.0, 0, 1
    power = np.zeros(len(wavelength), "float32")
    for width in widths:
        windows = power[: len(wavelength) - width + 1]
        window_powers(weighted, total, count, width, 0.6, windows)
        low, high, n_most = n_absorbed[: len(windows)], n_absorbed[width:], int(0.1 * width)
        for k in range(len(windows)):
            windows[k] = windows[k] if high[k] - low[k] <= n_most else np.float32(0)
        at = first_largest(windows, NEGATIVE)
        if -windows[at] > best:
            best, found, span = -windows[at], at, width
    row[3], row[6], row[7] = np.log1p(np.sqrt(best)), wavelength[found + span // 2] * stretch, span
