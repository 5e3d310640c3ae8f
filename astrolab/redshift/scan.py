"""The coarse scan: χ² of every spectrum under every template set at every redshift, as matrix products.

All spectra share one grid, so on logarithmic bins a redshifted template is the template moved by whole bins, and what a
fit needs of all spectra at all redshifts is a few products of matrices: ``(w f) @ Tᵀ`` and ``w @ (T T)ᵀ``. They are
taken in float32; the small linear systems that follow are solved in float64, for all spectra and redshifts at once.

What is compared is not the bare χ² but -2 ln of the evidence of a Gaussian model: the amplitudes have priors
(`astrolab.redshift.templates`), and a set pays for the volume of spectra that it could have fitted and that were not
seen. For sets with free amplitudes (Redrock's) it is χ².
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numba import njit

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.templates import TemplateSet

LOG_BIN = 3e-4  # of log10 wavelength: 207 km/s
BATCH = 128  # spectra in a matrix product: fixed, so that a spectrum's result does not hang on its neighbours
_CELLS = 24_000  # linear systems that are solved together: they fit into the cache
_SAMPLES = 5  # points of a template that are averaged over a bin
_RIDGE = 1e-6  # relative, in the linear systems
_MIN_SIGNIFICANCE = 0.3  # an amplitude below this many sigma tells nothing about the scale of the priors
SYSTEMATIC = 0.03  # of the flux: no template is better than this, and no pixel counts for more than S/N 33
_SYSTEMATIC_WINDOW = 0.0075  # half width in log10 wavelength over which |flux| is averaged for it
_APART = 1500 / SPEED_OF_LIGHT / np.log(10)  # minima nearer than this are one
_FAINTEST, _BRIGHTEST = 1e-6, 1e6  # median flux in any unit; what lies beyond is scaled
_WIDEST_PIXEL = 1400.0  # km/s
_COVER_MIN = 0.95  # part of the grid that a set must cover at a redshift to be tried there


@dataclass(frozen=True, eq=False)
class Plan:
    """What the scan of one template set on one grid needs, made once.

    Attributes
    ----------
    vectors : torch.Tensor, shape (n_vector + n_pair, n), float32
        Vectors and their pair products on bins; the redshifts are windows on it.
    redshift : numpy.ndarray, shape (n_redshift,)
        Decreasing.
    stride : int
        Bins from one redshift to the next.
    prior_err : numpy.ndarray, shape (n_vector,)
        As in the set.
    penalty : torch.Tensor, shape (n_redshift,), float64
        -2 ln of the prior on redshift.
    """

    vectors: torch.Tensor
    redshift: np.ndarray
    stride: int
    prior_err: np.ndarray
    penalty: torch.Tensor


def bin_edges(wavelength):
    """Return the logarithmic bins of a grid.

    Parameters
    ----------
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed wavelengths, Å.

    Returns
    -------
    first : int
        Number of the first bin; bin k is centred on ``log10(wavelength) = k * LOG_BIN``.
    starts : numpy.ndarray, shape (n_bin + 1,), int64
        First pixel of each bin, and the number of pixels.
    """
    number = np.round(np.log10(wavelength) / LOG_BIN).astype("int64")
    return int(number[0]), np.searchsorted(number, np.arange(number[0], number[-1] + 2))


def clean_spectra(flux, ivar, wavelength):
    """Return the weights and the flux to fit: bad pixels out, a systematic error in.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        As observed.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Å.

    Returns
    -------
    flux, weight : numpy.ndarray, float32
        Weight is ``1 / (1 / ivar + (0.03 level)²)``, where the level is the mean absolute flux over 3.5 % of
        wavelength; both are 0 where ``ivar == 0`` and where flux is not finite or ivar negative or not finite. Spectra
        in units far from 1 (median below 1e-6 or above 1e6) are brought near it, by a power of 4.
    is_poor : numpy.ndarray, shape (n_object,), bool
        Whether there were pixels of the latter kind.
    """
    flux, ivar = in_range(flux, ivar)
    sane = np.isfinite(flux) & np.isfinite(ivar) & (ivar >= 0) & (np.abs(flux) < 1e15) & (ivar < 1e20)
    good = sane & (ivar > 0)
    flux = np.where(good, flux, 0).astype("float32")
    weight = np.where(good, ivar, 0).astype("float32")
    log_wavelength = np.log10(wavelength)
    low = np.searchsorted(log_wavelength, log_wavelength - _SYSTEMATIC_WINDOW)
    high = np.searchsorted(log_wavelength, log_wavelength + _SYSTEMATIC_WINDOW)
    _soften(flux, weight, low, high)
    return flux, weight, ~sane.all(axis=1)


def in_range(flux, ivar):
    """Bring spectra in other units, such as erg, to where float32 has room; others stay as they are, bit for bit.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        As observed.

    Returns
    -------
    flux, ivar : numpy.ndarray
        Of the same shape. Spectra whose median |flux| is below 1e-6 or above 1e6 are divided by a power of 4.
    """
    usable = np.isfinite(flux) & (ivar > 0)
    mean = np.abs(np.where(usable, flux, 0)).sum(axis=1, dtype="float64") / np.maximum(usable.sum(axis=1), 1)
    rows = np.flatnonzero((mean > 0) & ~((mean > _FAINTEST) & (mean < _BRIGHTEST)))
    if not rows.size:
        return flux, ivar
    flux, ivar = np.array(flux, "float64"), np.array(ivar, "float64")
    for i in rows:
        level = np.median(np.abs(flux[i, usable[i]]))  # one wild pixel is no unit
        if level > 0 and not _FAINTEST < level < _BRIGHTEST:
            exponent = 2 * int(np.round(np.log2(level) / 2))
            flux[i], ivar[i] = np.ldexp(flux[i], -exponent), np.ldexp(ivar[i], 2 * exponent)
    return flux, ivar


def plan_scan(one, wavelength):
    """Prepare the scan of one template set on one grid.

    Parameters
    ----------
    one : TemplateSet
        The set.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed wavelengths, Å.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If the set covers the grid at none of its redshifts.
    """
    first, starts = bin_edges(wavelength)
    n_bin = len(starts) - 1
    low = int(np.ceil(np.log10(1 + one.redshift_min) / LOG_BIN - 1e-9))
    high = int(np.floor(np.log10(1 + one.redshift_max) / LOG_BIN + 1e-9))
    shift = np.arange(low, high + 1)[::-1]
    own = one.log_wavelength
    reach = np.minimum((first + n_bin - shift) * LOG_BIN, own[-1]) - np.maximum((first - shift) * LOG_BIN, own[0])
    covered = shift[reach >= _COVER_MIN * n_bin * LOG_BIN]
    if not covered.size:
        raise ValueError(
            f"the template set {one.spectype or 'smooth'} {one.subtype} covers the grid {wavelength[0]:.0f}–"
            f"{wavelength[-1]:.0f} Å at none of its redshifts, expected {_COVER_MIN:.0%} of it; leave the set out."
        )
    bins = np.arange(first - covered[0], first + n_bin - covered[-1])
    inside = (np.arange(_SAMPLES) - (_SAMPLES - 1) / 2) / _SAMPLES
    at = (bins[:, None] + inside) * LOG_BIN
    vectors = np.stack([np.interp(at, own, vector).mean(axis=1) for vector in one.vectors])
    rows, columns = np.tril_indices(len(vectors))
    both = np.concatenate([vectors, vectors[rows] * vectors[columns]])
    redshift = 10 ** (LOG_BIN * covered[:: one.scan_stride]) - 1
    penalty = torch.from_numpy((redshift / one.redshift_sigma) ** 2)
    return Plan(torch.from_numpy(both.astype("float32")), redshift, one.scan_stride, one.prior_err, penalty)


@lru_cache(maxsize=64)
def _cached_plan(one, wavelength):
    return plan_scan(one, np.frombuffer(wavelength))


def plan_all(templates, wavelength):
    """Prepare the scan of all sets on one grid; what was prepared before is remembered.

    Raises
    ------
    ValueError
        If the grid is too coarse to see lines on, or a set covers it at no redshift.
    """
    if not templates or not all(isinstance(one, TemplateSet) for one in templates):
        raise ValueError("the templates are no template sets, expected some, as open_templates(path) gives them.")
    width = SPEED_OF_LIGHT * np.median(np.diff(np.log(wavelength)))
    if width > _WIDEST_PIXEL:
        raise ValueError(
            f"the grid's pixels are {width:.0f} km/s wide, expected at most {_WIDEST_PIXEL:.0f}: "
            "in wider ones no line is seen; give the spectra as observed."
        )
    key = np.ascontiguousarray(wavelength, "float64").tobytes()
    return [_cached_plan(one, key) for one in templates]


def bin_spectra(flux, weight, wavelength):
    """Add up the spectra in logarithmic bins.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `clean_spectra` gives them.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Å.

    Returns
    -------
    weight, weighted_flux : torch.Tensor, shape (n_object, n_bin), float32
        Sums of w and of w f.
    """
    starts = bin_edges(wavelength)[1]
    sums = np.zeros((2, len(flux), len(starts) - 1), "float32")
    _add_bins(flux, weight, starts, *sums)
    return tuple(torch.from_numpy(one) for one in sums)


def scan_batch(weight, weighted_flux, plan):
    """Return how much each redshift explains, for one batch of spectra and one template set.

    Parameters
    ----------
    weight, weighted_flux : torch.Tensor, shape (n_object, n_bin), float32
        As `bin_spectra` gives them; on any device.
    plan : Plan
        As `plan_scan` makes it.

    Returns
    -------
    torch.Tensor, shape (n_object, n_redshift), float64
        Σ w f² less -2 ln evidence: larger is better. Redshifts are those of the plan, decreasing.
    """
    n_vector, n_bin = len(plan.prior_err), weight.shape[1]
    windows = plan.vectors.to(weight.device).unfold(1, n_bin, plan.stride)  # (n_vector + n_pair, n_redshift, n_bin)
    right = [weighted_flux @ windows[i].T for i in range(n_vector)]
    normal = [weight @ windows[i].T for i in range(n_vector, len(windows))]
    out = torch.empty(right[0].shape, dtype=torch.float64, device=weight.device)
    n_rows = max(1, _CELLS // out.shape[1])
    for start in range(0, len(weight), n_rows):
        rows = slice(start, start + n_rows)
        out[rows] = explained([one[rows].double() for one in right], [one[rows].double() for one in normal], plan)
    return out - plan.penalty.to(out.device)


def explained(right, normal, plan):
    """Solve the small linear systems: by Cholesky's method, written out, for arrays of systems at once.

    Parameters
    ----------
    right : list of torch.Tensor
        Σ w f T_i, one tensor a vector; float64, all of one shape.
    normal : list of torch.Tensor
        Σ w T_i T_j, the lower triangle row by row.
    plan : Plan
        For the priors.

    Returns
    -------
    torch.Tensor
        Of the same shape: Σ w f² less -2 ln evidence; 0 where priors forbid the amplitude of the mean, not positive.
    """
    priors = plan.prior_err.tolist()
    has_prior = any(np.isfinite(priors))
    factor, solved = {}, []
    total = torch.zeros_like(right[0])
    diagonal = normal[0].clamp_min(1e-30)
    amplitude = torch.maximum(right[0] / diagonal, _MIN_SIGNIFICANCE / diagonal.sqrt()) ** 2
    for i, prior in enumerate(priors):
        for j in range(i + 1):
            value = normal[i * (i + 1) // 2 + j]
            if i == j:
                value = value * (1 + _RIDGE) + 1e-20
                if np.isfinite(prior):
                    precision = 1 / (amplitude * prior**2)
                    value = value + precision
                    total = total + torch.log(precision)
            for k in range(j):
                value = value - factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = value / factor[j, j]
                continue
            value = value.clamp_min(1e-30)
            if has_prior:
                total = total - torch.log(value)
            factor[i, i] = value.sqrt()
        value = right[i]
        for k in range(i):
            value = value - factor[i, k] * solved[k]
        solved.append(value / factor[i, i])
        total = total + solved[i] ** 2
    return torch.where(right[0] > 0, total, 0) if has_prior else total


def best_minima(gain, plan, n_minima):
    """Find the best redshifts of each spectrum that are apart from each other.

    Parameters
    ----------
    gain : torch.Tensor, shape (n_object, n_redshift)
        As `scan_batch` gives it.
    plan : Plan
        The plan it was made with.
    n_minima : int
        How many.

    Returns
    -------
    redshift, gain : numpy.ndarray, shape (n_object, n_minima)
        Best first; gain is -inf where there are not so many.
    """
    reach = max(1, round(_APART / LOG_BIN / plan.stride))
    padded = torch.nn.functional.pad(gain, (reach, reach), value=-np.inf)
    is_peak = gain >= padded.unfold(1, 2 * reach + 1, 1).amax(dim=2)
    n = min(n_minima, gain.shape[1])
    value, place = torch.where(is_peak, gain, -np.inf).topk(n, dim=1)
    redshift = np.full((len(gain), n_minima), np.nan)
    found = np.full((len(gain), n_minima), -np.inf)
    redshift[:, :n], found[:, :n] = plan.redshift[place.cpu().numpy()], value.cpu().numpy()
    return redshift, found


@njit(nogil=True, cache=True)
def _soften(flux, weight, low, high):
    n = flux.shape[1]
    total, count = np.zeros(n + 1), np.zeros(n + 1)
    for i in range(len(flux)):
        for p in range(n):
            is_good = weight[i, p] > 0
            total[p + 1] = total[p] + (abs(flux[i, p]) if is_good else 0.0)
            count[p + 1] = count[p] + is_good
        for p in range(n):
            if weight[i, p] > 0:
                level = SYSTEMATIC * (total[high[p]] - total[low[p]]) / (count[high[p]] - count[low[p]])
                weight[i, p] = 1.0 / (1.0 / weight[i, p] + level * level)


@njit(nogil=True, cache=True)
def _add_bins(flux, weight, starts, weight_out, flux_out):
    for i in range(len(flux)):
        for k in range(len(starts) - 1):
            w, wf = 0.0, 0.0
            for p in range(starts[k], starts[k + 1]):
                w += weight[i, p]
                wf += weight[i, p] * flux[i, p]
            weight_out[i, k] = w
            flux_out[i, k] = wf
