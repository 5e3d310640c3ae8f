"""Hypotheses of class and redshift for every spectrum: scan all template sets, refine the best minima, sort them."""

import dask
import numpy as np
import pandas as pd
import torch

from astrolab.redshift.candidates import (
    AT_EDGE,
    FROM_NETWORK,
    HYPOTHESIS,
    IS_NEGATIVE,
    NO_MINIMUM,
    SAME_VELOCITY,
    WITHOUT_TROUGHS,
    coarse_candidates,
    refined_minima,
    velocity_between,
)
from astrolab.redshift.network import COLUMNS, judge_spectra
from astrolab.redshift.refine import CHI2, IS_MINIMUM, MEAN_MODEL, REDSHIFT, REDSHIFT_ERR
from astrolab.redshift.scan import BATCH, bin_spectra, clean_spectra, plan_all, scan_batch
from astrolab.redshift.second_opinion import network_seeds, refit_absorbed, score_of
from astrolab.redshift.settle import settle_quasars, settling_sets
from astrolab.redshift.templates import open_templates
from astrolab.schema import WAVELENGTH, SchemaError, check_spectra
from astrolab.stores.passes import map_chunks, whole_spectra

# columns of a block: these of the spectrum, then those of each hypothesis (`HYPOTHESIS`)
_SPECTRUM = ("n_good", "is_poor", "chi2_null", "chi2_smooth", "score_smooth", "scan_set", "redshift_scan", *COLUMNS)


def scan_redshifts(spectra, templates=None, *, n_best=5, device="auto", chunks_dir=None, with_network=False):
    """Find the best hypotheses of class and redshift for every spectrum.

    A coarse scan over all template sets and redshifts as matrix products (`astrolab.redshift.scan`), then a refinement
    of the best minima on the full grid (`astrolab.redshift.refine`), and AstroLab's own quasars settled at last
    (`astrolab.redshift.settle`: the best hypothesis, whose chi2 and score stay those of the scan); chunk by chunk, on
    the Dask cluster in use.

    Parameters
    ----------
    spectra : xarray.Dataset
        Observed frame, dims ``(object, wavelength)``, any grid; lazy or in memory. Pixels with ``ivar == 0`` count for
        nothing.
    templates : sequence of TemplateSet, optional
        As `open_templates` gives them; AstroLab's own by default.
    n_best : int, optional
        Hypotheses to keep for each object.
    device : str, optional
        Where the matrix products run: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU if there is one.
    chunks_dir : path-like, optional
        Folder that keeps each chunk's hypotheses as soon as they are there: the same call after a crash goes on.

    with_network : bool, optional
        Ask the network too: it seeds hypotheses, those of quasars with broad absorption are refitted without it, and
        their scores know what it says.

    Returns
    -------
    pandas.DataFrame
        `n_best` rows an object, in the order of the objects and best first: targetid; hypothesis (1 is the best);
        spectype, subtype; redshift, redshift_err (1 sigma, statistical); chi2 (-2 ln evidence; χ² for templates without
        priors); score (chi2, plus -2 ln of the prior density of its redshift, less what the network says for it: see
        `TemplateSet.redshift_volume`); source (scan, network: the scan near the network's
        redshift, or trough: fitted without broad absorption); is_at_edge, is_negative, is_minimum; and of the spectrum
        n_good (pixels), is_poor (it had invalid pixels), chi2_null (of no model), chi2_smooth and score_smooth (of a
        spectrum without features), spectype_scan and redshift_scan (of the scan's own least score), and the network's
        probabilities and redshifts (NaN without it; see `astrolab.redshift.network.judge_spectra`). A
        hypothesis that there is not has spectype '' and redshift NaN.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame.
    ValueError
        If a template set covers the grid at no redshift, the grid is too coarse for lines, or there are no templates.

    References
    ----------
    Bolton et al. (2012), AJ 144, 144: χ² scan with principal vectors.

    Examples
    --------
    >>> import astrolab as al
    >>> al.scan_redshifts(al.simulate_survey(2, seed=0), n_best=3)["hypothesis"].tolist()
    [1, 2, 3, 1, 2, 3]
    """
    check_spectra(spectra)
    if WAVELENGTH not in spectra.dims:
        raise SchemaError(
            "the spectra are in the rest frame, expected dims ('object', 'wavelength'): give them as read."
        )
    templates = open_templates() if templates is None else templates
    templates = tuple(templates) if np.iterable(templates) else ()
    wavelength = np.asarray(spectra[WAVELENGTH].values, "float64")
    plan_all(templates, wavelength)  # so that templates that do not fit are refused here
    flux, ivar = whole_spectra(spectra)
    block = map_chunks(
        block_hypotheses,
        flux,
        ivar,
        wavelength=wavelength,
        templates=dask.delayed(templates, pure=True, traverse=False),
        n_best=n_best,
        device=device,
        with_network=with_network,
        settling=dask.delayed(settling_sets(templates), pure=True, traverse=False),
        n_columns=len(_SPECTRUM) + n_best * len(HYPOTHESIS),
        dtype="float64",
        chunks_dir=chunks_dir,
    )
    return _table(block, spectra["targetid"].values, templates, n_best)


def block_hypotheses(flux, ivar, wavelength, templates, n_best, device="cpu", with_network=False, settling=()):
    """Find the hypotheses of the spectra of one chunk.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        As observed.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Å.
    templates : sequence of TemplateSet
        The sets.
    n_best : int
        Hypotheses to keep.
    device : str, optional
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    with_network : bool, optional
        Ask the network too.
    settling : sequence of TemplateSet, optional
        Sets that settle the redshifts of quasars, see `astrolab.redshift.settle`.

    Returns
    -------
    numpy.ndarray, shape (n_object, 16 + 6 n_best), float64
        See `scan_redshifts`; all numbers, so that Dask can hold them.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread a worker, and so the same sums in the same order everywhere
    try:
        rows = [slice(i, i + BATCH) for i in range(0, len(flux), BATCH)]
        rest = wavelength, templates, n_best, device, with_network, settling
        parts = [_batch_hypotheses(flux[own], ivar[own], *rest) for own in rows]
    finally:
        torch.set_num_threads(n_threads)
    return np.concatenate(parts) if parts else np.empty((0, len(_SPECTRUM) + n_best * len(HYPOTHESIS)))


def chi2_curve(spectrum, one):
    """Return the χ² of one spectrum over the redshifts of one template set.

    Parameters
    ----------
    spectrum : xarray.Dataset
        One object (``spectra.isel(object=[i])``), observed frame.
    one : TemplateSet
        The set.

    Returns
    -------
    pandas.DataFrame
        redshift, increasing, and chi2 (-2 ln evidence; χ² for templates without priors) of the coarse scan.

    Examples
    --------
    >>> import astrolab as al
    >>> curve = al.chi2_curve(al.simulate_survey(1, seed=3, rare_fraction=0), al.open_templates()[0])
    >>> list(curve), bool(curve["redshift"].is_monotonic_increasing)
    (['redshift', 'chi2'], True)
    """
    wavelength = np.asarray(spectrum[WAVELENGTH].values, "float64")
    flux, weight, _ = clean_spectra(*(np.atleast_2d(spectrum[name].values) for name in ("flux", "ivar")), wavelength)
    plan = plan_all([one], wavelength)[0]
    gain = scan_batch(*bin_spectra(flux, weight, wavelength), plan).numpy()[0]
    null = np.sum(weight[0].astype("float64") * flux[0] ** 2)
    return pd.DataFrame({"redshift": plan.redshift[::-1], "chi2": null - gain[::-1]})


def _batch_hypotheses(flux, ivar, wavelength, templates, n_best, device, with_network, settling):
    flux, weight, is_poor = clean_spectra(flux, ivar, wavelength)
    plans = plan_all(templates, wavelength)
    judgement, log_probability = np.full((len(flux), len(COLUMNS)), np.nan), None
    if with_network:
        judgement, log_probability = judge_spectra(flux, weight, wavelength)
    candidates = coarse_candidates(flux, weight, wavelength, templates, plans, device, network_seeds(judgement))
    found = refined_minima(flux, weight, wavelength, templates, plans, *candidates)
    _fill_scores(found, templates, judgement, log_probability)
    scan = _scan_alone(found, templates)
    if with_network:
        found = _with_refits(found, flux, weight, wavelength, templates, judgement)
        _fill_scores(found, templates, judgement, log_probability)
    out = np.full((len(flux), len(_SPECTRUM) + n_best * len(HYPOTHESIS)), np.nan)
    out[:, 0], out[:, 1] = np.count_nonzero(weight > 0, axis=1), is_poor
    out[:, 2] = np.sum(weight.astype("float64") * flux.astype("float64") ** 2, axis=1)
    out[:, 3:5], out[:, 5:7], out[:, 7 : len(_SPECTRUM)] = np.inf, scan, judgement
    for i, one in enumerate(templates):
        if not one.spectype:
            is_own = found[..., 0] == i
            for column, value in ((3, found[..., 3]), (4, found[..., 5])):
                out[:, column] = np.fmin(out[:, column], np.where(is_own, value, np.inf).min(axis=1))
    for row, own in zip(out, found, strict=True):
        best = _distinct(own, templates, n_best)
        row[len(_SPECTRUM) : len(_SPECTRUM) + best.size] = best.ravel()
    _settle(out[:, len(_SPECTRUM) : len(_SPECTRUM) + len(HYPOTHESIS)], flux, weight, wavelength, templates, settling)
    return out


def _settle(best, flux, weight, wavelength, templates, settling):
    """Put the settled redshifts and their errors into the best hypotheses, in place."""
    is_quasar = np.array([one.spectype == "QSO" for one in templates] + [False])
    number = np.where(np.isfinite(best[:, 0]), best[:, 0], len(templates)).astype("int64")
    has_troughs = np.nan_to_num(best[:, 4]).astype("int64") & WITHOUT_TROUGHS > 0
    redshift = np.where(is_quasar[number], best[:, 1], np.nan)
    settled = settle_quasars(flux, weight, np.log10(wavelength), settling, redshift, has_troughs)
    best[:, 1:3] = np.where(np.isfinite(settled[0])[:, None], settled.T, best[:, 1:3])


def _scan_alone(found, templates):
    """Set and redshift that the scan found best by itself: (n_object, 2), NaN where there is none."""
    is_own = np.array([bool(one.spectype) for one in templates] + [False])
    number = np.where(np.isfinite(found[..., 0]), found[..., 0], len(templates)).astype("int64")
    is_seeded = np.nan_to_num(found[..., 4]).astype("int64") & FROM_NETWORK > 0
    volume = np.array([*(one.redshift_volume for one in templates), 0.0])
    is_known = is_own[number] & ~is_seeded & np.isfinite(found[..., 3])
    score = np.where(is_known, found[..., 3] + volume[number], np.inf)
    rows, best = np.arange(len(found)), score.argmin(axis=1)
    return np.where(np.isfinite(score[rows, best])[:, None], found[rows, best, :2], np.nan)


def _fill_scores(found, templates, judgement, log_probability):
    classes = np.array([*(one.spectype for one in templates), ""])
    number = np.where(np.isfinite(found[..., 0]), found[..., 0], len(templates)).astype("int64")
    volume = np.array([*(one.redshift_volume for one in templates), 0.0])
    own = classes[number], found[..., 1]
    found[..., 5] = score_of(found[..., 3] + volume[number], judgement, log_probability, *own)


def _with_refits(found, flux, weight, wavelength, templates, judgement):
    """Add the quasars that were refitted without their troughs to what was found."""
    p_bal, seed = judgement[:, COLUMNS.index("p_bal")], network_seeds(judgement)["QSO"]
    is_quasar = np.array([one.spectype == "QSO" for one in templates] + [False])
    is_bal_set = np.array([(one.spectype, one.subtype) == ("QSO", "BAL") for one in templates] + [False])
    parts = [[] for _ in found]
    for i, own in enumerate(found):
        own = own[np.isfinite(own[:, 5])]
        own = own[np.argsort(own[:, 5])]
        number = own[:, 0].astype("int64")
        if not own.size or not (is_quasar[number[0]] or p_bal[i] > 0.5):
            continue
        quasars = own[is_quasar[number], 1]
        if p_bal[i] > 0.5 and np.isfinite(seed[i]):
            quasars = np.insert(quasars, min(1, len(quasars)), seed[i])
        quasars = _apart(quasars)
        has_bal_set = bool(is_bal_set[number[:2]].any())
        fits = refit_absorbed(flux[i], weight[i], np.log10(wavelength), templates, quasars, p_bal[i], has_bal_set)
        parts[i] = [_row(one, fit, WITHOUT_TROUGHS) for one, fit in fits]
    extra = np.full((len(found), max(map(len, parts), default=0), len(HYPOTHESIS)), np.nan)
    for i, rows in enumerate(parts):
        if rows:
            extra[i, : len(rows)] = rows
    return np.concatenate([found, extra], axis=1)


def _apart(redshifts):
    """Return the redshifts, best first, without those that are near a better one."""
    kept = []
    for redshift in redshifts:
        if all(velocity_between(redshift, other) > SAME_VELOCITY for other in kept):
            kept.append(redshift)
    return np.array(kept)


def _row(number, fit, flags):
    flags = flags + IS_NEGATIVE * (fit[MEAN_MODEL] <= 0) + NO_MINIMUM * (fit[IS_MINIMUM] == 0)
    return [number, fit[REDSHIFT], fit[REDSHIFT_ERR], fit[CHI2], flags, np.nan]


def _distinct(own, templates, n_best):
    """Keep the best hypotheses of one spectrum that differ in class or in velocity, best first."""
    own = own[np.isfinite(own[:, 5])]
    kept = []
    for one in own[np.lexsort((own[:, 0], own[:, 5]))]:
        spectype = templates[int(one[0])].spectype
        if not spectype or len(kept) == n_best:
            continue
        is_known = any(
            spectype == templates[int(other[0])].spectype and velocity_between(one[1], other[1]) < SAME_VELOCITY
            for other in kept
        )
        if not is_known:
            kept.append(one)
    return np.array(kept)


def _table(block, targetid, templates, n_best):
    # of a row that was set aside (NaN) no pixel counts
    spectrum = pd.DataFrame(block[:, : len(_SPECTRUM)], columns=_SPECTRUM).fillna({"n_good": 0, "is_poor": 0})
    own = block[:, len(_SPECTRUM) :].reshape(-1, len(HYPOTHESIS))
    number = np.where(np.isfinite(own[:, 0]), own[:, 0], len(templates)).astype("int64")
    flags = np.nan_to_num(own[:, 4]).astype("int64")
    table = pd.DataFrame(
        {
            "targetid": np.repeat(targetid, n_best),
            "hypothesis": np.tile(np.arange(1, n_best + 1), len(targetid)),
            "spectype": np.array([*(one.spectype for one in templates), ""], dtype=object)[number],
            "subtype": np.array([*(one.subtype for one in templates), ""], dtype=object)[number],
            "redshift": own[:, 1],
            "redshift_err": own[:, 2],
            "chi2": own[:, 3],
            "score": own[:, 5],
            "source": np.select([flags & WITHOUT_TROUGHS > 0, flags & FROM_NETWORK > 0], ["trough", "network"], "scan"),
            "is_at_edge": flags & AT_EDGE > 0,
            "is_negative": flags & IS_NEGATIVE > 0,
            "is_minimum": flags & NO_MINIMUM == 0,
        }
    )
    for name in _SPECTRUM:
        table[name] = np.repeat(spectrum[name].to_numpy(), n_best)
    scan = table.pop("scan_set").fillna(len(templates)).to_numpy("int64")
    table["spectype_scan"] = np.array([*(one.spectype for one in templates), ""], dtype=object)[scan]
    return table.astype({"n_good": "int64", "is_poor": "bool"})
