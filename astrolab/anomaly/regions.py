"""Regions of a spectrum: windows that may have made it strange, and what an astronomer calls them."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from astrolab.anomaly.shape import CONTINUUM_WINDOWS, LINE_WINDOWS
from astrolab.lines import SPEED_OF_LIGHT, spectral_lines

# km/s over which residuals are averaged before runs of one sign are looked for: narrow lines to broad troughs
_SCALES = (400.0, 1_000.0, 2_500.0, 6_000.0, 15_000.0)
_N_RUNS = 3  # of each scale
_WIDEST = 30_000.0  # km/s, the widest troughs known
_SHARE_MAX = 0.25  # of the good pixels: a region must say where
_N_PARTS = 8
_NOTABLE = 1.0  # sigma above peers: a score that may have made the whole
_WEAK = -1.0  # sigma: a line this far below the survey's

# the lines whose broad absorption lies to their blue, and how far (Weymann et al. 1991)
_OUTFLOWS = ("Lyα", "N V", "Si IV", "C IV", "Al III", "Mg II")
_OUTFLOW = 25_000.0  # km/s
_LINE_REACH = 4_000.0  # km/s, of a major line
_AT_LINE = 1_500.0  # km/s
_TROUGH_WIDTH = 2_000.0  # km/s: narrower absorption is no broad trough


class Window(NamedTuple):
    """A contiguous window of pixels.

    Attributes
    ----------
    first, last : int
        Its pixels are ``first`` to ``last - 1``.
    kind : str
        ``"feature"`` of the residuals or of the attribution, ``"line"``, ``"continuum"`` between lines, or ``"part"``
        of the covered range.
    line : str
        The emission line whose window it is.
    """

    first: int
    last: int
    kind: str = "feature"
    line: str = ""


class Place(NamedTuple):
    """Where a region is, in an astronomer's words.

    Attributes
    ----------
    what : str
        ``"trough"``, ``"absorption"``, ``"missing flux"``, ``"excess"``, ``"weak line"``, ``"continuum"``, ``"part"``.
    line : str
        Name of the line it is measured from; empty where none is near.
    velocity, velocity_err : float
        Of the centroid of the residual flux from that line, km/s, negative blueward; NaN without a line.
    """

    what: str
    line: str
    velocity: float
    velocity_err: float


def find_windows(residual, weight, attribution, scores, wavelength):
    """Propose windows that may have made an object strange.

    Runs of residuals of one sign, averaged over 400 to 15,000 km/s; runs of the strongest attribution; windows of
    emission lines weaker than the survey's and windows of continuum, where these scores are above the peers'; and the
    covered range in eight equal parts, for what is strange and nowhere in particular. Each has at least one good pixel,
    a run at most a quarter of them and 30,000 km/s.

    Parameters
    ----------
    residual, weight : numpy.ndarray, shape (n_wavelength,)
        ``flux - flux_model`` and its inverse variance; both 0 where not measured.
    attribution : numpy.ndarray, shape (n_wavelength,)
        From `attribute_pixels`.
    scores : dict of str to float
        The object's row of `place_on_scale`.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å, equally spaced in velocity.

    Returns
    -------
    list of Window
        No two cover the same pixels.
    """
    pixel = SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0])
    widths = sorted({max(1, round(scale / pixel)) for scale in _SCALES})
    windows = []
    for width in widths:
        windows += _runs(residual * weight, weight, width)
        windows += _runs(np.maximum(attribution, 0), np.where(weight > 0, np.mean(np.abs(attribution)), 0), width, 2.0)
    is_good = weight > 0
    n_good = np.concatenate([[0], np.cumsum(is_good)])
    windows = [
        window
        for window in windows
        if n_good[window.last] - n_good[window.first] <= _SHARE_MAX * n_good[-1]
        and window.last - window.first <= max(_WIDEST / pixel, 3)
    ]
    windows += _shape_windows(scores, wavelength) + _parts(is_good)
    unique = {(window.first, window.last): window for window in windows if n_good[window.last] > n_good[window.first]}
    return list(unique.values())


def name_region(window, residual, weight, scores, wavelength):
    """Say where a window is: near which line, at which velocity.

    Parameters
    ----------
    window : Window
        From `find_windows`.
    residual, weight, scores, wavelength
        As for `find_windows`.

    Returns
    -------
    Place
        The velocity is that of the centroid of the residual flux. Its error is propagated from the weights (noise, and
        the scatter of ordinary spectra about the model), with that of the pixels' finite width. Missing flux within
        1,500 km/s of an emission line that the survey has stronger is a weak line, not absorption.
    """
    if window.kind in ("continuum", "part"):
        return Place(window.kind, "", np.nan, np.nan)
    centre, centre_err = _centroid(window, residual, weight, wavelength)
    inside = slice(window.first, window.last)
    is_missing = (residual[inside] * weight[inside]).sum() < 0
    line = _nearest_line(centre, is_missing)
    if window.kind == "line":
        line = next(known for known in spectral_lines() if known.name.startswith(window.line))
    if line is None:
        return Place("missing flux" if is_missing else "excess", "", np.nan, np.nan)
    velocity = SPEED_OF_LIGHT * (centre / line.wavelength - 1)
    what = "excess"
    if window.kind == "line" or (is_missing and abs(velocity) < _AT_LINE and _is_weak(line.name, scores)):
        what = "weak line"
    elif is_missing and line.name in _OUTFLOWS and velocity < -_AT_LINE:
        width = SPEED_OF_LIGHT * np.log(wavelength[window.last - 1] / wavelength[window.first])
        what = "trough" if width >= _TROUGH_WIDTH else "absorption"
    elif is_missing:
        what = "missing flux"
    return Place(what, line.name, velocity, SPEED_OF_LIGHT * centre_err / line.wavelength)


def _runs(weighted, weight, width, least=0.0):
    """Return the most significant runs of one sign of the mean over `width` pixels, where that is above `least`."""
    total, norm = _running_sum(weighted, width), _running_sum(weight, width)
    mean = np.divide(total, norm, out=np.zeros(len(total)), where=norm > 0)
    if least:
        sign = np.where(mean > least, 1, 0)
    else:
        # a run ends where the mean is within its noise, not where noise changes its sign
        sign = np.where(np.abs(total) > np.sqrt(norm), np.sign(mean), 0).astype(int)
    edges = np.flatnonzero(np.diff(sign)) + 1
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [len(sign)]])
    sums = [np.add.reduceat(values, firsts) for values in (weighted, weight)]
    power = np.where(sign[firsts] != 0, sums[0] ** 2 / np.maximum(sums[1], 1e-12), 0)
    best = np.argsort(-power, kind="stable")[:_N_RUNS]
    return [Window(int(firsts[i]), int(lasts[i])) for i in best if power[i] > 0]


def _running_sum(values, width):
    sums = np.concatenate([[0], np.cumsum(values, dtype="float64")])
    middle = np.arange(len(values))
    low, high = np.maximum(middle - width // 2, 0), np.minimum(middle + (width + 1) // 2, len(values))
    return sums[high] - sums[low]


def _shape_windows(scores, wavelength):
    """Return windows of weak lines and of continuum, where they are part of the score."""
    lines = [name for name in LINE_WINDOWS if _is_weak(name, scores)] if scores["score_lines"] > _NOTABLE else []
    continuum = CONTINUUM_WINDOWS if scores["score_continuum"] > _NOTABLE else ()
    places = [(LINE_WINDOWS[name][:2], "line", name) for name in lines]
    places += [(edges, "continuum", "") for edges in continuum]
    return [Window(*np.searchsorted(wavelength, edges).tolist(), kind, line) for edges, kind, line in places]


def _is_weak(line, scores):
    return scores.get(f"z_{line}", np.nan) < _WEAK


def _parts(is_good):
    good = np.flatnonzero(is_good)
    edges = np.append(good[np.linspace(0, len(good), _N_PARTS + 1)[:-1].astype(int)], good[-1] + 1)
    return [Window(int(first), int(last), "part") for first, last in pairwise(edges)]


def _centroid(window, residual, weight, wavelength):
    """Return the centroid of the residual flux in a window and its error, Å."""
    inside = slice(window.first, window.last)
    x, flux, weight = np.log(wavelength[inside]), residual[inside].astype("float64"), weight[inside]
    variance = np.divide(1, weight, out=np.zeros(len(x)), where=weight > 0)
    pixel = np.log(wavelength[1] / wavelength[0])
    total, total_err = flux.sum(), np.sqrt(variance.sum())
    if np.abs(total) < 2 * total_err:  # residuals of both signs have no centroid: it is somewhere in the window
        return np.exp(x.mean()), np.exp(x.mean()) * np.hypot(x[-1] - x[0], pixel) / np.sqrt(12)
    centre = np.clip((flux * x).sum() / total, x[0], x[-1])
    error = np.sqrt((variance * (x - centre) ** 2).sum()) / np.abs(total)
    return np.exp(centre), np.exp(centre) * np.hypot(error, pixel / np.sqrt(12 * len(x)))


def _nearest_line(centre, is_missing):
    """Return the line that a feature is measured from: of missing flux the one it may flow out from, else one close by.

    None where there is none.
    """
    velocity = {line: SPEED_OF_LIGHT * (centre / line.wavelength - 1) for line in spectral_lines()}
    near = [line for line, v in velocity.items() if abs(v) < (_LINE_REACH if line.is_major else _AT_LINE)]
    if is_missing:
        outflows = [line for line, v in velocity.items() if line.name in _OUTFLOWS and -_OUTFLOW < v < _AT_LINE]
        near = outflows or near
    return min(near, key=lambda line: abs(velocity[line]), default=None)
