"""What is measured of one emission line, and of a continuum: the numerics, one spectrum at a time (numba)."""

import numpy as np
from numba import njit

from astrolab.lines import SPEED_OF_LIGHT

# columns of what `measure_line` gives; each but the last is followed by its error
EW, FWHM, VELOCITY, W80, FLAG = 0, 2, 4, 6, 8
N_COLUMN = 9
NOT_VISIBLE, NO_LINE, NO_FIT, NO_CONTINUUM = 1, 2, 4, 8
_COVER_LINE, _COVER_SIDE = 0.8, 0.5  # parts of the windows that good pixels must cover
_SIGNIFICANT = 5.0  # sigma of the equivalent width, for the line to have a width
_TO_FWHM = 2.3548200450309493
_N_TURNS = 60


@njit(nogil=True, cache=True)
def measure_line(wavelength, step, flux, ivar, line, low, high, sides, out):
    """Measure one line of one spectrum in the rest frame; fills `out`, NaN where nothing is measured.

    `wavelength`, `step` (pixel widths), `flux`, `ivar`: rest frame, any flux unit; `low`, `high`: the line's window;
    `sides`: (2, 2), the windows of the continuum; all in Å.
    """
    out[:FLAG] = np.nan
    inside, covered = _pixels(wavelength, step, ivar, low, high)
    blue, covered_blue = _pixels(wavelength, step, ivar, sides[0, 0], sides[0, 1])
    red, covered_red = _pixels(wavelength, step, ivar, sides[1, 0], sides[1, 1])
    if covered < _COVER_LINE or covered_blue < _COVER_SIDE or covered_red < _COVER_SIDE:
        out[FLAG] = NOT_VISIBLE
        return
    place = (wavelength - line) / (high - low)
    level, tilt, covariance = _straight_line(place, flux, ivar, blue, red)
    continuum = level + tilt * place[inside]
    if continuum.min() <= 0 or level < 3 * np.sqrt(covariance[0, 0]):
        out[FLAG] = NO_CONTINUUM
        return
    excess, width = flux[inside] - continuum, step[inside]
    variance = 1 / ivar[inside]
    own = place[inside]
    # Σ (f / c - 1) Δλ, and how it changes with level and tilt of the continuum
    ew = np.sum(excess / continuum * width)
    slope = -flux[inside] / continuum**2 * width
    by_level, by_tilt = np.sum(slope), np.sum(slope * own)
    error2 = np.sum(variance * (width / continuum) ** 2) + _quadratic(covariance, by_level, by_tilt)
    out[EW], out[EW + 1] = ew, np.sqrt(error2)
    out[FLAG] = 0
    if ew < _SIGNIFICANT * np.sqrt(error2):
        out[FLAG] = NO_LINE
        return
    velocity = SPEED_OF_LIGHT * np.log(wavelength[inside] / line)
    _percentiles(velocity, excess * width, variance * width**2, width, own, covariance, out)
    _gaussian(velocity, excess, ivar[inside], out)


@njit(nogil=True, cache=True)
def _pixels(wavelength, step, ivar, low, high):
    """Good pixels of a window, and the part of it that they cover."""
    first, last = np.searchsorted(wavelength, low), np.searchsorted(wavelength, high)
    good = np.flatnonzero(ivar[first:last] > 0) + first
    return good, np.sum(step[good]) / (high - low)


@njit(nogil=True, cache=True)
def _straight_line(place, flux, ivar, blue, red):
    """Weighted straight line through two windows: value at 0, slope, and their covariance (2, 2)."""
    s0, s1, s2, r0, r1 = 0.0, 0.0, 0.0, 0.0, 0.0
    for side in (blue, red):
        # both windows weigh the same: a better measured one must not tilt the line to its own details
        for p in side:
            w, x = ivar[p], place[p]
            s0, s1, s2 = s0 + w, s1 + w * x, s2 + w * x * x
            r0, r1 = r0 + w * flux[p], r1 + w * x * flux[p]
    determinant = s0 * s2 - s1 * s1
    covariance = np.array([[s2, -s1], [-s1, s0]]) / determinant
    return (s2 * r0 - s1 * r1) / determinant, (s0 * r1 - s1 * r0) / determinant, covariance


@njit(nogil=True, cache=True)
def _quadratic(covariance, a, b):
    return covariance[0, 0] * a * a + 2 * covariance[0, 1] * a * b + covariance[1, 1] * b * b


@njit(nogil=True, cache=True)
def _percentiles(velocity, light, variance, width, place, covariance, out):
    """Median velocity and W80 from the cumulative light, with the noise of pixels and continuum propagated."""
    total = np.sum(light)
    cumulative = np.cumsum(light) / total
    shares = (0.1, 0.5, 0.9)
    at, steep, until = np.empty(3), np.empty(3), np.empty(3, np.int64)
    for k in range(3):
        at[k], until[k] = _crossing(velocity, cumulative, shares[k])
        above, _ = _crossing(velocity, cumulative, shares[k] + 0.05)
        below, _ = _crossing(velocity, cumulative, shares[k] - 0.05)
        steep[k] = 0.1 * total / max(above - below, 1.0)
    out[VELOCITY], out[W80] = at[1], at[2] - at[0]
    for column, signs in ((VELOCITY, (0.0, 1.0, 0.0)), (W80, (-1.0, 0.0, 1.0))):
        part = np.zeros(len(light))
        for k in range(3):
            if signs[k] != 0:
                part += signs[k] * ((np.arange(len(light)) <= until[k]) - shares[k]) / steep[k]
        by_level, by_tilt = np.sum(part * width), np.sum(part * width * place)
        out[column + 1] = np.sqrt(np.sum(part**2 * variance) + _quadratic(covariance, by_level, by_tilt))


@njit(nogil=True, cache=True)
def _crossing(velocity, cumulative, share):
    """Where the cumulative light passes a share, going outward from its middle; and the last pixel before."""
    i = np.argmax(cumulative >= 0.5)
    if share < 0.5:
        while i > 0 and cumulative[i - 1] > share:
            i -= 1
    else:
        while i < len(cumulative) - 1 and cumulative[i] < share:
            i += 1
    before = cumulative[i - 1] if i > 0 else 0.0
    rise = cumulative[i] - before
    part = min(max((share - before) / rise, 0.0), 1.0) if rise > 0 else 0.5
    last = len(velocity) - 1
    low = velocity[0] - 0.5 * (velocity[1] - velocity[0]) if i == 0 else 0.5 * (velocity[i - 1] + velocity[i])
    high = (
        velocity[last] + 0.5 * (velocity[last] - velocity[last - 1])
        if i == last
        else 0.5 * (velocity[i] + velocity[i + 1])
    )
    return low + part * (high - low), i


@njit(nogil=True, cache=True)
def _gaussian(velocity, excess, ivar, out):
    """FWHM of one Gaussian over the continuum, by Levenberg and Marquardt's method, with the formal error."""
    centre, sigma = out[VELOCITY], max(out[W80] / 2.563, 50.0)
    peak = np.sum(excess) / max(np.sum(np.exp(-0.5 * ((velocity - centre) / sigma) ** 2)), 1e-30)
    values = np.array([peak, centre, sigma])
    damping = 1e-3
    chi2, normal, right = _gaussian_step(velocity, excess, ivar, values)
    for _ in range(_N_TURNS):
        trial = values + np.linalg.solve(normal + damping * np.diag(np.diag(normal)), right)
        if trial[2] < 20.0 or trial[2] > 2e4 or abs(trial[1]) > 2e4:
            damping *= 10
            if damping > 1e10:
                break
            continue
        chi2_trial, normal_trial, right_trial = _gaussian_step(velocity, excess, ivar, trial)
        if chi2_trial <= chi2:
            is_done = chi2 - chi2_trial < 1e-6
            values, chi2, normal, right, damping = trial, chi2_trial, normal_trial, right_trial, damping / 10
            if is_done:
                break
        else:
            damping *= 10
    covariance = np.linalg.inv(normal + 1e-12 * np.diag(np.diag(normal)))
    if values[0] <= 0 or not covariance[2, 2] > 0:
        out[FLAG] = NO_FIT
        return
    out[FWHM], out[FWHM + 1] = _TO_FWHM * values[2], _TO_FWHM * np.sqrt(covariance[2, 2])


@njit(nogil=True, cache=True)
def _gaussian_step(velocity, excess, ivar, values):
    """χ², normal matrix and right side of a Gaussian's peak, centre and sigma; each scaled by nothing."""
    place = (velocity - values[1]) / values[2]
    shape = np.exp(-0.5 * place**2)
    rest = excess - values[0] * shape
    slopes = np.empty((3, len(velocity)))
    slopes[0], slopes[1] = shape, values[0] * shape * place / values[2]
    slopes[2] = slopes[1] * place
    normal = (slopes * ivar) @ slopes.T
    for k in range(3):
        normal[k, k] += 1e-30
    return np.sum(ivar * rest**2), normal, (slopes * ivar) @ rest


@njit(nogil=True, cache=True)
def fit_power_law(wavelength, flux, ivar, windows, pivot, out):
    """Fit ``level (wavelength / pivot) ** slope`` to windows; fills `out`: level, slope, and their errors.

    NaN where good pixels cover fewer than two windows that are 15 per cent apart, or where the light is not positive.
    """
    out[:] = np.nan
    use = np.zeros(len(wavelength), np.bool_)
    lowest, highest = np.inf, 0.0
    for k in range(len(windows)):
        first, last = np.searchsorted(wavelength, windows[k, 0]), np.searchsorted(wavelength, windows[k, 1])
        if np.count_nonzero(ivar[first:last] > 0) >= 3:
            use[first:last] = ivar[first:last] > 0
            lowest, highest = min(lowest, windows[k, 0]), max(highest, windows[k, 1])
    if highest < 1.15 * lowest:
        return
    x, y, w = np.log(wavelength[use] / pivot), flux[use], ivar[use]
    level, slope = np.sum(w * y) / np.sum(w), 0.0
    if level <= 0:
        return
    log_level = np.log(level)
    for _ in range(_N_TURNS):
        model = np.exp(log_level + slope * x)
        g = w * model**2
        s0, s1, s2 = np.sum(g), np.sum(g * x), np.sum(g * x * x)
        rest = w * model * (y - model)
        r0, r1 = np.sum(rest), np.sum(rest * x)
        determinant = s0 * s2 - s1 * s1
        move, turn = (s2 * r0 - s1 * r1) / determinant, (s0 * r1 - s1 * r0) / determinant
        log_level += min(max(move, -1.0), 1.0)
        slope += min(max(turn, -1.0), 1.0)
        if abs(move) + abs(turn) < 1e-9:
            break
    if not (abs(slope) < 20 and determinant > 0):
        return
    level = np.exp(log_level)
    out[0], out[1] = level, slope
    out[2], out[3] = level * np.sqrt(s2 / determinant), np.sqrt(s0 / determinant)


@njit(nogil=True, cache=True)
def absorption_index(velocity, ratio, ratio_err, low, high, deepest, shortest, floor):
    """Integrate absorption in km/s over runs of pixels that stay below a level.

    `velocity` (km/s, increasing, outflow positive), `ratio` (flux over continuum). The integrand is
    ``1 - ratio / floor``; only runs below `deepest` that are longer than `shortest` km/s count, from `low` to `high`.
    For the balnicity index the first `shortest` km/s of a run do not count. Returns the index and its error.
    """
    is_balnicity = floor < 1
    total, variance = 0.0, 0.0
    start = -1
    for i in range(len(velocity) + 1):
        is_below = i < len(velocity) and low <= velocity[i] <= high and ratio[i] < deepest
        if is_below:
            start = i if start < 0 else start
            continue
        if start < 0:
            continue
        if velocity[i - 1] - velocity[start] >= shortest:
            for k in range(start, i):
                if is_balnicity and velocity[k] - velocity[start] < shortest:
                    continue
                left = velocity[k - 1] if k > 0 else velocity[k]
                right = velocity[k + 1] if k + 1 < len(velocity) else velocity[k]
                width = 0.5 * (right - left)
                total += (1 - ratio[k] / floor) * width
                variance += (ratio_err[k] / floor * width) ** 2
        start = -1
    return total, np.sqrt(variance)
