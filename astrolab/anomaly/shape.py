"""The shape of a spectrum without any model: emission lines over their sides, and the continuum between lines."""

import numpy as np
import pandas as pd
from numba import njit

# the line's window, then the two windows of continuum it is compared with, rest frame, Å
LINE_WINDOWS = {
    "Lyα": (1200, 1255, 1160, 1180, 1275, 1290),
    "C IV": (1515, 1580, 1440, 1470, 1690, 1720),
    "C III]": (1860, 1945, 1780, 1820, 1990, 2020),
    "Mg II": (2750, 2850, 2660, 2700, 2900, 2940),
    "Hγ": (4300, 4380, 4200, 4240, 4430, 4460),
    "Hβ": (4800, 4920, 4740, 4780, 5080, 5120),
    "[O III]": (4985, 5025, 4930, 4945, 5050, 5080),
    "Hα": (6480, 6650, 6380, 6430, 6760, 6800),
}
# windows with little line emission (Vanden Berk et al. 2001), rest frame, Å
CONTINUUM_WINDOWS = (
    (1290, 1350),
    (1440, 1470),
    (1690, 1720),
    (2160, 2230),
    (2900, 2950),
    (3500, 3600),
    (4200, 4250),
    (5080, 5120),
    (5600, 5700),
    (6100, 6180),
    (6900, 7100),
)
LINE_COLUMNS = tuple(f"line_{name}" for name in LINE_WINDOWS)
CONTINUUM_COLUMNS = tuple(f"continuum_{(low + high) // 2}" for low, high in CONTINUUM_WINDOWS)
SHAPE_COLUMNS = tuple(
    f"{name}{what}" for columns in (LINE_COLUMNS, CONTINUUM_COLUMNS) for name in columns for what in ("", "_err")
)

# a window with fewer good pixels than this share is not measured
_GOOD_SHARE = 0.6
# an absorbed line and a line six times the ordinary stay finite
_FLOOR, _OFFSET = 0.2, 1.2
# what of a spectrum's shape a slope does not take away, in ln flux
_CURVATURE = 0.15
_Z_MAX = 15.0


def measure_shape(flux, ivar, wavelength):
    """Measure lines over their continuum, and the continuum.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance, rest frame; pixels with ``ivar == 0`` count for nothing.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns ``SHAPE_COLUMNS``: for each line ln(1.2 + (mean flux in its window / continuum there - 1)) and its
        error, then for each window of continuum ln of the mean flux and its error. NaN where it was not measured.
    """
    windows = _WindowMeans(flux, ivar, wavelength)
    pairs = [_line_contrast(windows, *edges) for edges in LINE_WINDOWS.values()]
    pairs += [_log_flux(*windows.mean(*edges)) for edges in CONTINUUM_WINDOWS]
    return np.column_stack([column for pair in pairs for column in pair]).astype("float32")


def fit_shape(table):
    """Return what is ordinary: the median and the scatter of each line, the median shape of the continuum.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns ``SHAPE_COLUMNS``, one row an object.

    Returns
    -------
    dict of str to numpy.ndarray
        ``line_median``, ``line_scatter`` (intrinsic), ``continuum_median``; NaN where no object shows it.
    """
    lines, lines_err = _values(table, LINE_COLUMNS), _values(table, LINE_COLUMNS, "_err")
    median = _nanmedian(lines)
    scatter = np.maximum(1.4826 * _nanmedian(np.abs(lines - median)), 0.02)
    intrinsic = np.sqrt(np.maximum(scatter**2 - _nanmedian(lines_err) ** 2, (0.3 * scatter) ** 2))
    log_flux = _values(table, CONTINUUM_COLUMNS)
    brightness = np.zeros(len(log_flux))
    for _ in range(5):  # objects cover different windows: their brightness and the median shape in turn
        shape = _nanmedian(log_flux - brightness[:, None])
        brightness = np.nan_to_num(_nanmedian((log_flux - shape).T))
    return {"line_median": median, "line_scatter": intrinsic, "continuum_median": shape}


def shape_scores(table, ordinary):
    """Score missing emission lines and a bent continuum.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns ``SHAPE_COLUMNS``.
    ordinary : dict
        As `fit_shape` gives it.

    Returns
    -------
    pandas.DataFrame
        ``weak_lines``: how far the lines fall short of the ordinary, in sigma, summed over √n; ``bent_continuum``: ln
        of the mean square by which the continuum differs from the ordinary one tilted at will (a power law more or
        less); ``z_<line>``: each line's own deviation in sigma (NaN where not measured).
    """
    lines, lines_err = _values(table, LINE_COLUMNS), _values(table, LINE_COLUMNS, "_err")
    z = np.clip((lines - ordinary["line_median"]) / np.hypot(ordinary["line_scatter"], lines_err), -_Z_MAX, _Z_MAX)
    n_lines = np.maximum(np.isfinite(z).sum(axis=1), 1)
    scores = pd.DataFrame({"weak_lines": -np.nansum(z, axis=1) / np.sqrt(n_lines)}, index=table.index)
    scores["bent_continuum"] = _bend(
        _values(table, CONTINUUM_COLUMNS) - ordinary["continuum_median"], _values(table, CONTINUUM_COLUMNS, "_err")
    )
    return scores.join(pd.DataFrame(z, columns=[f"z_{name}" for name in LINE_WINDOWS], index=table.index))


def _bend(difference, error):
    """Fit a straight line in ln wavelength to the difference in ln flux; return ln of what it leaves, in _CURVATURE."""
    is_measured = np.isfinite(difference)
    weight = np.where(is_measured, 1 / (_CURVATURE**2 + np.nan_to_num(error) ** 2), 0)
    difference = np.where(is_measured, difference, 0)
    middle = np.log([(low + high) / 2 for low, high in CONTINUUM_WINDOWS]) - np.log(3000)
    total = weight.sum(axis=1, keepdims=True) + 1e-9
    x = middle - (weight * middle).sum(axis=1, keepdims=True) / total
    y = difference - (weight * difference).sum(axis=1, keepdims=True) / total
    slope = (weight * x * y).sum(axis=1, keepdims=True) / ((weight * x * x).sum(axis=1, keepdims=True) + 1e-9)
    n_free = np.maximum(is_measured.sum(axis=1) - 2, 1)
    return np.log((weight * (y - slope * x) ** 2).sum(axis=1) / n_free + 0.1)


class _WindowMeans:
    """Means over windows of wavelength."""

    def __init__(self, flux, ivar, wavelength):
        self._flux, self._ivar, self._wavelength = np.asarray(flux), np.asarray(ivar), wavelength

    def mean(self, low, high):
        """Return the mean flux in a window and its error; NaN where too little of it was measured."""
        first, last = np.searchsorted(self._wavelength, [low, high])
        n_pixels = last - first
        # the grid must hold the window, not only reach into it
        is_inside = n_pixels > 0 and self._wavelength[0] <= low * 1.01 and self._wavelength[-1] >= high * 0.99
        total, count, variance = _window_sums(self._flux, self._ivar, first, last if is_inside else first)
        is_measured = is_inside & (count > _GOOD_SHARE * n_pixels)
        count = np.where(is_measured, np.maximum(count, 1), np.nan)
        return total / count, np.sqrt(variance) / count


@njit(nogil=True, cache=True)
def _window_sums(flux, ivar, first, last):
    """Add up flux, number and variance of the good pixels from first to last of each spectrum."""
    sums = np.zeros((3, len(flux)))
    for i in range(len(flux)):
        total, count, variance = 0.0, 0, 0.0
        for k in range(first, last):
            if ivar[i, k] > 0:
                total += flux[i, k]
                count += 1
                variance += 1.0 / ivar[i, k]
        sums[0, i], sums[1, i], sums[2, i] = total, count, variance
    return sums


def _line_contrast(windows, low, high, *sides):
    mean, mean_err = windows.mean(low, high)
    (left, left_err), (right, right_err) = windows.mean(*sides[:2]), windows.mean(*sides[2:])
    centre, share = (low + high) / 2, np.array([sides[0] + sides[1], sides[2] + sides[3]]) / 2
    share = (centre - share[0]) / (share[1] - share[0])
    continuum = (1 - share) * left + share * right
    continuum_err = np.hypot((1 - share) * left_err, share * right_err)
    is_measured = continuum > 2 * continuum_err  # there is a continuum to compare with
    continuum = np.where(is_measured, continuum, np.nan)
    ratio = mean / continuum
    error = np.hypot(mean_err, continuum_err * ratio) / continuum
    value = np.maximum(_OFFSET + ratio - 1, _FLOOR)
    return np.log(value), error / value


def _log_flux(mean, mean_err):
    is_measured = mean > 2 * mean_err
    mean = np.where(is_measured, mean, np.nan)
    return np.log(mean), mean_err / mean


def _values(table, names, suffix=""):
    return table[[name + suffix for name in names]].to_numpy("float64")


def _nanmedian(values):
    """Return the medians of the columns; NaN, and no warning, for a column without a number."""
    result = np.full(values.shape[1], np.nan)
    has_any = np.isfinite(values).any(axis=0)
    result[has_any] = np.nanmedian(values[:, has_any], axis=0)
    return result
