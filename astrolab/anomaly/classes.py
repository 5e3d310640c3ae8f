"""Would a spectrum be ordinary as something else? Stars, galaxies and smooth light fitted beside the model of quasars.

Peers cannot answer that: what is no quasar often lies at redshifts of its own, and is its own peer there. So the
comparison is absolute: how much better does a spectrum of another class explain the pixels than the survey's model?
The spectra of other classes are the simulator's analytic ones; nothing in them was learned from any survey. A survey of
which a tenth is stars teaches its model what stars look like, and then nothing explains them better: so the model that
ships with AstroLab is asked too (`astrolab.anomaly.members`), where the spectra are on its grid.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.polynomial import Legendre
from scipy.ndimage import gaussian_filter1d

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.simulation import galaxies, stars

CLASSES = (*(f"star of class {name}" for name in stars.STAR_CLASSES), "galaxy", "featureless light")
CLASS_COLUMNS = ("log_chi2_class", "class_index")

# no pixel counts for more than S/N 20: beyond that a spectrum differs from every template
_SYSTEMATIC, _FAINT = 0.05, 0.2
# what a perfect fit still leaves, so that a ratio of χ² stays finite
_LEFT = 0.02
# unit of the score: a χ² that is larger by a third
CLASS_UNIT = 0.3
# a class whose templates reach fewer than this share of the pixels is not compared
_REACH = 0.5
_TILTS = 3  # constant, slope and curvature: the calibration of flux is seldom better known
_NARROW_LINE = 250.0  # km/s, sigma


@njit(nogil=True, cache=True, error_model="numpy")
def class_weights(flux, ivar):
    """Return the weight of each pixel in the comparison of classes.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance.

    Returns
    -------
    numpy.ndarray, shape (object, n_wavelength), float32
        Inverse variance with an error of 5 % of the flux added; 0 where not measured.
    """
    weight = np.zeros(flux.shape, np.float32)
    for i in range(flux.shape[0]):
        for k in range(flux.shape[1]):
            if ivar[i, k] > 0:
                systematic = _SYSTEMATIC * max(flux[i, k], _FAINT)
                weight[i, k] = ivar[i, k] / (1 + ivar[i, k] * systematic * systematic)
    return weight


@njit(nogil=True, cache=True)
def mean_chi2(chi2, n_good):
    """Return ln of χ² a pixel, finite for a perfect fit."""
    return np.log(np.maximum(chi2, 0) / n_good + _LEFT)


def fit_classes(flux, weight, wavelength, redshift):
    """Fit every other class to each spectrum, and say which fits best.

    Stars are taken at rest, whatever redshift is claimed; galaxies at the redshift claimed, with starlight of three
    ages and the emission lines of their gas free; smooth light is a parabola in ln wavelength. Amplitude, slope and
    curvature of a star are free; a star of negative light is none.

    Parameters
    ----------
    flux : numpy.ndarray, shape (object, n_wavelength), float32
        Normalised flux, rest frame.
    weight : numpy.ndarray, shape (object, n_wavelength), float32
        From `class_weights`.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å, uniform in its logarithm.
    redshift : numpy.ndarray, shape (object,)
        Redshift that the spectra were brought to the rest frame with.

    Returns
    -------
    numpy.ndarray, shape (object, 2), float32
        Columns ``CLASS_COLUMNS``: ln of the smallest χ² a pixel, and whose it is, a place in ``CLASSES``.
    """
    templates = _templates(tuple(wavelength[[0, -1]]), len(wavelength))
    weighted, total, n_good = _weighted(flux, weight)
    n_good = np.maximum(n_good, 1)
    chi2 = [total - _explained(basis, weight, weighted)[0] for basis in (templates.galaxy, templates.smooth)]
    chi2 = np.concatenate([_star_chi2(templates, flux, weight, n_good, redshift), *chi2], axis=1)
    best = chi2.argmin(axis=1)
    return np.column_stack([mean_chi2(chi2[np.arange(len(best)), best], n_good[:, 0]), best]).astype("float32")


def class_score(log_chi2_model, log_chi2_class):
    """Return by how much another class explains a spectrum better than the model of the survey, in units of 30 %.

    Parameters
    ----------
    log_chi2_model, log_chi2_class : array-like, shape (object,)
        ln of χ² a pixel, of the model and of the best other class, with the same weights.

    Returns
    -------
    numpy.ndarray, shape (object,)
        ``ln(χ²_model / χ²_class) / 0.3``; negative where the model explains it better.
    """
    return (np.asarray(log_chi2_model, "float64") - np.asarray(log_chi2_class, "float64")) / CLASS_UNIT


class _Basis(NamedTuple):
    """Vectors of some classes (n_class, n_vector, n) and the products of each pair (n, n_class * n_pair), float32."""

    vectors: np.ndarray
    pairs: np.ndarray


class _Templates(NamedTuple):
    galaxy: _Basis
    smooth: _Basis
    stars: _Basis
    first: int  # of the stars' pixels, counted on the rest grid as it lies in the observed frame
    step: float  # of the grid, in ln wavelength


@lru_cache(maxsize=4)
def _templates(limits, n_wavelength):
    """Bring the spectra of every class onto a rest grid."""
    log = np.linspace(*np.log(limits), n_wavelength)
    step = log[1] - log[0]
    tilts = np.array([Legendre.basis(degree)(np.linspace(-1, 1, n_wavelength)) for degree in range(_TILTS)])
    light = _resampled(galaxies.galaxy_templates(), galaxies.TEMPLATE_LOG_FIRST, galaxies.TEMPLATE_LOG_STEP, log)
    of_galaxy = np.concatenate([light, _gas(log, step)])
    # stars, on the pixels that the rest grid would have where it was observed
    star_last = stars.TEMPLATE_LOG_FIRST + stars.TEMPLATE_LOG_STEP * (stars.star_templates().shape[1] - 1)
    first = int(np.ceil((stars.TEMPLATE_LOG_FIRST - log[0]) / step))
    own = log[0] + step * np.arange(first, int((star_last - log[0]) / step))
    star_tilts = np.array([Legendre.basis(degree)(np.linspace(-1, 1, len(own))) for degree in range(_TILTS)])
    of_stars = _resampled(stars.star_templates(), stars.TEMPLATE_LOG_FIRST, stars.TEMPLATE_LOG_STEP, own)
    return _Templates(_basis(of_galaxy[None]), _basis(tilts[None]), _basis(of_stars[:, None] * star_tilts), first, step)


def _basis(vectors):
    one, other = np.triu_indices(vectors.shape[1])
    pairs = (vectors[:, one] * vectors[:, other]).reshape(-1, vectors.shape[2])
    return _Basis(vectors.astype("float32"), np.ascontiguousarray(pairs.T, "float32"))


def _resampled(templates, log_first, log_step, log):
    """Interpolate templates on ln wavelength, smoothed to the pixels of the grid; 0 where they do not reach."""
    own = log_first + log_step * np.arange(templates.shape[1])
    width = (log[1] - log[0]) / log_step / np.sqrt(12)  # the scatter within a pixel
    smooth = gaussian_filter1d(templates.astype("float64"), width, axis=1, mode="nearest")
    return np.array([np.interp(log, own, template, left=0, right=0) for template in smooth])


def _gas(log, step):
    """Return the emission lines of a galaxy's gas, one spectrum for each group of lines that vary together."""
    sigma = np.hypot(step / np.sqrt(12), _NARROW_LINE / SPEED_OF_LIGHT)
    wavelength, ratio, group = np.transpose(galaxies.NEBULAR_LINES)
    profiles = ratio[:, None] * np.exp(-0.5 * ((log - np.log(wavelength)[:, None]) / sigma) ** 2)
    return np.array([profiles[group == one].sum(axis=0) for one in np.unique(group)])


def _star_chi2(templates, flux, weight, n_good, redshift):
    """Return χ² of each class of stars: the rest grid is slid to where its pixels were observed."""
    # an object without a redshift is not ranked, and must not disturb the others
    known = np.where(np.isfinite(redshift) & (redshift > -1), redshift, 0)
    shift = templates.first - np.round(np.log1p(known) / templates.step).astype(int)
    n_star = templates.stars.vectors.shape[2]
    flux, weight = (_slid(part, shift, n_star) for part in (flux, weight))
    weighted, total, n_inside = _weighted(flux, weight)
    explained, amplitude = _explained(templates.stars, weight, weighted)
    is_star = (amplitude > 0) & (n_inside > _REACH * n_good)
    # beyond the star's template a pixel is taken to fit as well as noise lets it
    return np.where(is_star, total - explained + n_good - n_inside, np.inf)


@njit(nogil=True, cache=True)
def _slid(values, first, n):
    """Return n values of each row from its first on; 0 beyond its ends."""
    result = np.zeros((len(values), n), values.dtype)
    for i in range(len(values)):
        low, high = max(first[i], 0), min(first[i] + n, values.shape[1])
        if low < high:
            result[i, low - first[i] : high - first[i]] = values[i, low:high]
    return result


@njit(nogil=True, cache=True)
def _weighted(flux, weight):
    """Return w f, and of each row Σ w f² and the number of its good pixels."""
    weighted, total, n_good = np.empty_like(flux), np.zeros((len(flux), 1)), np.zeros((len(flux), 1))
    for i in range(len(flux)):
        total[i, 0], n_good[i, 0] = _weigh(flux[i], weight[i], weighted[i])
    return weighted, total, n_good


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _weigh(flux, weight, weighted):
    """Fill w f; the sums may be taken in any order, and so of many pixels at a time."""
    total, n_good = 0.0, np.int32(0)
    for k in range(len(flux)):
        value = flux[k] if weight[k] > 0 else np.float32(0)
        weighted[k] = weight[k] * value
        total += weighted[k] * value
        n_good = np.int32(n_good + (weight[k] > 0))
    return total, n_good


def _explained(basis, weight, weighted):
    """Return what the best amplitudes of each class take off Σ w f², and the amplitude of its first vector."""
    n_class, n_vector, n = basis.vectors.shape
    explained, amplitude = np.empty((len(weight), n_class)), np.empty((len(weight), n_class))
    _fit(weight @ basis.pairs, weighted @ basis.vectors.reshape(-1, n).T, n_vector, explained, amplitude)
    return explained, amplitude


@njit(nogil=True, cache=True, error_model="numpy")
def _fit(normal, right, n_vector, explained, amplitude):
    """Solve the normal equations of each spectrum and class, a little stiffened, by Cholesky's square root."""
    n_pair, root, solution = n_vector * (n_vector + 1) // 2, np.empty((n_vector, n_vector)), np.empty(n_vector)
    for i in range(explained.shape[0]):
        for j in range(explained.shape[1]):
            of_class, sums = normal[i, j * n_pair :], right[i, j * n_vector :]
            stiffness = _take_root(of_class, n_vector, root)
            for a in range(n_vector):
                solution[a] = sums[a]
                for b in range(a):
                    solution[a] -= root[a, b] * solution[b]
                solution[a] /= root[a, a]
            for a in range(n_vector - 1, -1, -1):
                for b in range(a + 1, n_vector):
                    solution[a] -= root[b, a] * solution[b]
                solution[a] /= root[a, a]
            explained[i, j], amplitude[i, j] = 0, solution[0]
            for a in range(n_vector):
                explained[i, j] += solution[a] * (sums[a] + stiffness * solution[a])


@njit(nogil=True, cache=True, error_model="numpy")
def _take_root(pairs, n_vector, root):
    """Fill the lower root of a symmetric matrix given by its upper triangle; return what was added to its diagonal."""
    place, trace = 0, 0.0
    for a in range(n_vector):
        trace += pairs[place]
        for b in range(a, n_vector):
            root[b, a] = pairs[place]
            place += 1
    stiffness = 1e-6 * trace / n_vector + 1e-9
    for a in range(n_vector):
        root[a, a] += stiffness
        for b in range(a):
            root[a, a] -= root[a, b] * root[a, b]
        # rounding of float32 sums can leave nothing of it
        root[a, a] = np.sqrt(max(root[a, a], stiffness))
        for b in range(a + 1, n_vector):
            for c in range(a):
                root[b, a] -= root[b, c] * root[a, c]
            root[b, a] /= root[a, a]
    return stiffness
