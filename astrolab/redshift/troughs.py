"""Broad absorption: where quasar templates stand above the spectrum, how much, and redshifts fitted without it."""

import numpy as np
from numba import njit
from scipy.ndimage import uniform_filter1d

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.line_fits import NOT_VISIBLE, absorption_index
from astrolab.redshift.refine import CHI2, REDSHIFT, _add_priors, _fine_vectors, _solve, refine_minima
from astrolab.redshift.templates import open_templates

C_IV = 1549.06
# lines whose outflow absorbs (Å), and how fast it may be
_ABSORBERS = (1033.8, 1215.67, 1240.14, 1396.76, 1549.06, 1857.4, 2798.75)
_FASTEST, _SLOWEST = 27_000.0, 500.0  # km/s, blueward
_DEPTH, _SIGMAS = 0.12, 3.0  # a trough is this deep, in part of the model and in sigma of the smoothed residual
_SMOOTH = 1000.0  # km/s over which residuals are averaged
_SHORTEST = 1500.0  # km/s
_MARGIN = 500.0  # km/s on either side of a trough, left out too
_N_TURNS = 5
_PIXEL_PRICE = 1.0  # of χ²
_TROUGH_PRICE = 20.0  # of χ²: what a trough must explain to be believed
_MOST = 0.5  # part of the good pixels that troughs may take
ABSORPTION = (
    ("balnicity", "balnicity index of C IV, 3,000 to 25,000 km/s (Weymann et al. 1991)"),
    ("absorption_index", "absorption index of C IV, 0 to 29,000 km/s (Trump et al. 2006)"),
)


def quasar_set(templates, redshift):
    """Return the set of ordinary quasars whose range holds a redshift deepest inside, or None."""
    own = [one for one in templates if one.spectype == "QSO" and one.subtype != "BAL"]
    room = [min(redshift - one.redshift_min, one.redshift_max - redshift) for one in own]
    return own[int(np.argmax(room))] if own and max(room) >= 0 else None


def fit_quasar(flux, weight, log_wavelength, one, redshift):
    """Fit templates to one spectrum at one redshift, leaving out what absorption troughs take away.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_wavelength,), float32
        As `astrolab.redshift.scan.clean_spectra` gives them.
    log_wavelength : numpy.ndarray, shape (n_wavelength,)
        log10 of the observed wavelengths in Å.
    one : TemplateSet
        The set.
    redshift : float
        Where.

    Returns
    -------
    flux_model : numpy.ndarray, shape (n_wavelength,)
        The quasar without troughs.
    is_trough : numpy.ndarray, shape (n_wavelength,), bool
        Pixels that were left out: runs of at least 1,500 km/s, 12 per cent deep and significant, blueward of the lines
        that absorb in outflows.
    """
    vectors, log_step = _fine_vectors(one)
    step = np.log(10) * SPEED_OF_LIGHT * np.median(np.diff(log_wavelength))
    return _fit(
        flux, weight, log_wavelength, np.log10(1 + redshift), vectors, np.asarray(one.prior_err, "float64"),
        one.log_first, log_step, step,
    )  # fmt: skip


def refit_quasar(flux, weight, log_wavelength, templates, redshift):
    """Refine the redshift of a quasar with its absorption troughs left out.

    Parameters
    ----------
    flux, weight, log_wavelength
        One spectrum, as for `fit_quasar`.
    templates : sequence of TemplateSet
        All sets.
    redshift : float
        Where to begin.

    Returns
    -------
    fit : numpy.ndarray, shape (5,)
        As `astrolab.redshift.refine.refine_minima` gives it, but its -2 ln evidence is of the pixels outside the
        troughs, plus a price for each pixel inside and each trough: so redshifts with other troughs can be compared.
        NaN where no set holds the redshift, where there are no troughs, and where they take more than half.
    """
    one = quasar_set(templates, redshift)
    nothing = np.full(5, np.nan)
    if one is None:
        return nothing
    limits = one.redshift_min, one.redshift_max
    for _ in range(2):
        _, is_trough = fit_quasar(flux, weight, log_wavelength, one, redshift)
        if not is_trough.any():
            return nothing
        kept = np.where(is_trough, 0, weight).astype("float32")
        fit = refine_minima(flux[None], kept[None], log_wavelength, one, np.array([redshift]), limits)[0]
        moved = SPEED_OF_LIGHT * abs(fit[REDSHIFT] - redshift) / (1 + redshift)
        redshift = fit[REDSHIFT]
        if not np.isfinite(redshift):
            return nothing
        if moved < _SMOOTH / 2:
            break
    n_masked = np.count_nonzero(is_trough & (weight > 0))
    if n_masked > _MOST * np.count_nonzero(weight > 0):
        return nothing
    n_troughs = np.count_nonzero(np.diff(is_trough.astype(int)) == 1) + is_trough[0]
    fit[CHI2] += _PIXEL_PRICE * n_masked + _TROUGH_PRICE * n_troughs
    return fit


def measure_absorption(flux, weight, ivar, wavelength, redshift):
    """Measure balnicity and absorption index of C IV.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `astrolab.redshift.scan.clean_spectra` gives them, to fit the quasar.
    ivar : numpy.ndarray, shape (n_object, n_wavelength)
        As observed, for the errors; 0 = do not use.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed frame, vacuum, Å.
    redshift : numpy.ndarray, shape (n_object,)
        Of each object.

    Returns
    -------
    numpy.ndarray, shape (n_object, 5), float64
        Balnicity and its error, absorption index and its error (km/s; noise only, not that of the fitted quasar), and
        the flag: NaN and 1 where C IV and the 25,000 km/s blueward are not covered.
    """
    templates, log_wavelength = open_templates(), np.log10(wavelength)
    out = np.full((len(flux), 5), np.nan)
    out[:, 4] = NOT_VISIBLE
    for i, z in enumerate(redshift):
        if not np.isfinite(z) or z <= -1:
            continue
        velocity = -SPEED_OF_LIGHT * np.log(wavelength / (C_IV * (1 + z)))
        good = (ivar[i] > 0) & (velocity > -3000) & (velocity < 29_000)
        one = quasar_set(templates, z)
        if one is None or velocity[0] < 25_000 or velocity[-1] > -1000 or np.count_nonzero(good) < 100:
            continue
        flux_model, _ = fit_quasar(flux[i], weight[i], log_wavelength, one, z)
        good &= flux_model > 0.05 * np.median(np.abs(flux_model))
        ratio = (flux[i] / np.where(good, flux_model, 1))[good][::-1].astype("float64")
        ratio_err = (1 / (np.sqrt(np.where(good, ivar[i], 1)) * np.where(good, flux_model, 1)))[good][::-1]
        smooth = uniform_filter1d(ratio, 5, mode="nearest")
        own = velocity[good][::-1]
        out[i, :2] = absorption_index(own, smooth, ratio_err, 3000.0, 25_000.0, 0.9, 2000.0, 0.9)
        out[i, 2:4] = absorption_index(own, smooth, ratio_err, 0.0, 29_000.0, 0.9, 1000.0, 1.0)
        out[i, 4] = 0
    return out


@njit(nogil=True, cache=True)
def _fit(flux, weight, log_wavelength, log_shift, vectors, prior, log_first, log_step, step):
    """Fit, find what lies below, and fit again without it, until nothing changes: `fit_quasar` of one spectrum."""
    (n, n_rest), n_pixel = vectors.shape, len(flux)
    basis, own = np.empty((n, n_pixel)), np.zeros(n_pixel)
    for p in range(n_pixel):
        place = (log_wavelength[p] - log_shift - log_first) / log_step
        if 0 <= place < n_rest - 1:
            own[p] = weight[p]
        place = min(max(place, 0.0), n_rest - 1.000001)
        before = int(place)
        for k in range(n):
            basis[k, p] = vectors[k, before] + (place - before) * (vectors[k, before + 1] - vectors[k, before])
    weighted = basis * own
    normal, right = np.dot(weighted, basis.T), np.dot(weighted, flux.astype(np.float64))
    may_absorb = _may_absorb(log_wavelength, log_shift)
    is_trough = np.zeros(n_pixel, np.bool_)
    flux_model = np.zeros(n_pixel)
    for _ in range(_N_TURNS):
        matrix, amplitude = normal.copy(), right.copy()
        for p in np.flatnonzero(is_trough):
            for k in range(n):
                amplitude[k] -= weighted[k, p] * flux[p]
                for j in range(n):
                    matrix[k, j] -= weighted[k, p] * basis[j, p]
        _add_priors(matrix, amplitude[0], prior)
        _solve(matrix, amplitude, False)
        flux_model = np.dot(amplitude, basis)
        found = _runs(flux, own, flux_model, may_absorb, step)
        if (found == is_trough).all():
            break
        is_trough = found
    return flux_model, is_trough


@njit(nogil=True, cache=True)
def _may_absorb(log_wavelength, log_shift):
    where = np.zeros(len(log_wavelength), np.bool_)
    for line in _ABSORBERS:
        slow = np.log10(line) + log_shift - _SLOWEST / SPEED_OF_LIGHT / np.log(10.0)
        fast = np.log10(line) + log_shift - _FASTEST / SPEED_OF_LIGHT / np.log(10.0)
        first, last = np.searchsorted(log_wavelength, fast, "right"), np.searchsorted(log_wavelength, slow)
        where[first:last] = True
    return where


@njit(nogil=True, cache=True)
def _runs(flux, weight, flux_model, may_absorb, step):
    """Return the runs of pixels in which the smoothed spectrum lies below the model, widened by a margin."""
    n = len(flux)
    width, margin = max(1, round(_SMOOTH / step)), max(1, round(_MARGIN / step))
    total, missing = np.zeros(n + 1), np.zeros(n + 1)
    for p in range(n):
        total[p + 1] = total[p] + weight[p]
        missing[p + 1] = missing[p] + weight[p] * (flux_model[p] - flux[p])
    out, start = np.zeros(n, np.bool_), -1
    for p in range(n + 1):
        is_low = False
        if p < n and may_absorb[p]:
            first, last = max(p - width // 2, 0), min(p - width // 2 + width, n)
            around = max(total[last] - total[first], 1e-30)
            deficit = (missing[last] - missing[first]) / around
            is_low = deficit > _DEPTH * abs(flux_model[p]) and deficit > _SIGMAS / np.sqrt(around)
        if is_low and start < 0:
            start = p
        elif start >= 0 and not is_low:
            if (p - start) * step >= _SHORTEST:
                out[max(start - margin, 0) : p + margin] = True
            start = -1
    return out
