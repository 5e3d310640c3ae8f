"""Hypotheses of class and redshift for every spectrum: scan all template sets, refine the best minima, sort them."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import torch

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.network import COLUMNS, judge_spectra
from astrolab.redshift.refine import CHI2, IS_MINIMUM, MEAN_MODEL, REDSHIFT, REDSHIFT_ERR, refine_minima
from astrolab.redshift.scan import BATCH, best_minima, bin_spectra, clean_spectra, plan_all, scan_batch
from astrolab.redshift.second_opinion import network_seeds, refit_absorbed, score_of, seeded_minima
from astrolab.redshift.templates import open_templates
from astrolab.schema import WAVELENGTH, SchemaError, check_spectra
from astrolab.stores.passes import map_chunks

# hypotheses of one class nearer than this are one
SAME_VELOCITY = 1000.0  # km/s
_N_MINIMA = 3  # of each set in the coarse scan
_N_REFINED = 5  # best of all sets that are refined, beside the best of each class
_NEAR = 300.0  # of χ²: the coarse scan, half a step off narrow lines, may err by as much
# the same after the first parabola, or a part of what features explain; the network moves no hypothesis by more than 74
_CLOSE, _CLOSE_PART = 150.0, 0.05
_CHUNK = 1024
# columns of a block: these of the spectrum, then six of each hypothesis
_SPECTRUM = ("n_good", "is_poor", "chi2_null", "chi2_smooth", "score_smooth", "scan_set", "redshift_scan", *COLUMNS)
_HYPOTHESIS = ("set", "redshift", "redshift_err", "chi2", "flags", "score")
AT_EDGE, IS_NEGATIVE, NO_MINIMUM, FROM_NETWORK, WITHOUT_TROUGHS = 1, 2, 4, 8, 16


def scan_redshifts(spectra, templates=None, *, n_best=5, device="auto", chunks_dir=None, with_network=False):
    """Find the best hypotheses of class and redshift for every spectrum.

    A coarse scan over all template sets and redshifts as matrix products (`astrolab.redshift.scan`), then a refinement
    of the best minima on the full grid (`astrolab.redshift.refine`); chunk by chunk, on the Dask cluster in use.

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
        hypotheses are sorted by `score`. Without it by chi2.

    Returns
    -------
    pandas.DataFrame
        `n_best` rows an object, in the order of the objects and best first: targetid; hypothesis (1 is the best);
        spectype, subtype; redshift, redshift_err (1 sigma, statistical); chi2 (-2 ln evidence; χ² for templates without
        priors); score (chi2 less what the network says for it); source (scan, network: the scan near the network's
        redshift, or trough: fitted without broad absorption); is_at_edge, is_negative, is_minimum; and of the spectrum
        n_good (pixels), is_poor (it had invalid pixels), chi2_null (of no model), chi2_smooth and score_smooth (of a
        spectrum without features), spectype_scan and redshift_scan (of the scan's own least χ²), and the network's
        probabilities and redshifts (NaN without it; see `astrolab.redshift.network.judge_spectra`). A
        hypothesis that there is not has spectype '' and redshift NaN.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame.
    ValueError
        If a template set covers the grid at no redshift.

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
    templates = tuple(open_templates() if templates is None else templates)
    wavelength = np.asarray(spectra[WAVELENGTH].values, "float64")
    plan_all(templates, wavelength)  # so that templates that do not fit are refused here
    flux, ivar = (_whole_spectra(spectra[name].data) for name in ("flux", "ivar"))
    block = map_chunks(
        block_hypotheses,
        flux,
        ivar,
        wavelength=wavelength,
        templates=dask.delayed(templates, pure=True, traverse=False),
        n_best=n_best,
        device=device,
        with_network=with_network,
        n_columns=len(_SPECTRUM) + n_best * len(_HYPOTHESIS),
        dtype="float64",
        chunks_dir=chunks_dir,
    )
    return _table(block, spectra["targetid"].values, templates, n_best)


def block_hypotheses(flux, ivar, wavelength, templates, n_best, device="cpu", with_network=False):
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

    Returns
    -------
    numpy.ndarray, shape (n_object, 16 + 6 n_best), float64
        See `scan_redshifts`; all numbers, so that Dask can hold them.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread a worker, and so the same sums in the same order everywhere
    try:
        rows = [slice(i, i + BATCH) for i in range(0, len(flux), BATCH)]
        rest = wavelength, templates, n_best, device, with_network
        parts = [_batch_hypotheses(flux[own], ivar[own], *rest) for own in rows]
    finally:
        torch.set_num_threads(n_threads)
    return np.concatenate(parts) if parts else np.empty((0, len(_SPECTRUM) + n_best * len(_HYPOTHESIS)))


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
    """
    wavelength = np.asarray(spectrum[WAVELENGTH].values, "float64")
    flux, weight, _ = clean_spectra(*(np.atleast_2d(spectrum[name].values) for name in ("flux", "ivar")), wavelength)
    plan = plan_all([one], wavelength)[0]
    gain = scan_batch(*bin_spectra(flux, weight, wavelength), plan).numpy()[0]
    null = np.sum(weight[0].astype("float64") * flux[0] ** 2)
    return pd.DataFrame({"redshift": plan.redshift[::-1], "chi2": null - gain[::-1]})


def _batch_hypotheses(flux, ivar, wavelength, templates, n_best, device, with_network):
    flux, weight, is_poor = clean_spectra(flux, ivar, wavelength)
    plans = plan_all(templates, wavelength)
    judgement, log_probability = np.full((len(flux), len(COLUMNS)), np.nan), None
    if with_network:
        judgement, log_probability = judge_spectra(flux, weight, wavelength)
    candidates = _coarse_candidates(flux, weight, wavelength, templates, plans, device, network_seeds(judgement))
    found = _refined(flux, weight, wavelength, templates, plans, *candidates)
    _fill_scores(found, templates, log_probability)
    scan = _scan_alone(found, templates)
    if with_network:
        found = _with_refits(found, flux, weight, wavelength, templates, judgement[:, COLUMNS.index("p_bal")])
        _fill_scores(found, templates, log_probability)
    out = np.full((len(flux), len(_SPECTRUM) + n_best * len(_HYPOTHESIS)), np.nan)
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
    return out


def _scan_alone(found, templates):
    """Set and redshift of the least χ² that the scan found by itself: (n_object, 2), NaN where there is none."""
    is_own = np.array([bool(one.spectype) for one in templates] + [False])
    number = np.where(np.isfinite(found[..., 0]), found[..., 0], len(templates)).astype("int64")
    is_seeded = np.nan_to_num(found[..., 4]).astype("int64") & FROM_NETWORK > 0
    chi2 = np.where(is_own[number] & ~is_seeded & np.isfinite(found[..., 3]), found[..., 3], np.inf)
    rows, best = np.arange(len(found)), chi2.argmin(axis=1)
    return np.where(np.isfinite(chi2[rows, best])[:, None], found[rows, best, :2], np.nan)


def _fill_scores(found, templates, log_probability):
    classes = np.array([*(one.spectype for one in templates), ""])
    number = np.where(np.isfinite(found[..., 0]), found[..., 0], len(templates)).astype("int64")
    found[..., 5] = score_of(found[..., 3], log_probability, classes[number], found[..., 1])


def _with_refits(found, flux, weight, wavelength, templates, p_bal):
    """Add the quasars that were refitted without their troughs to what was found."""
    is_quasar = np.array([one.spectype == "QSO" for one in templates] + [False])
    is_bal_set = np.array([(one.spectype, one.subtype) == ("QSO", "BAL") for one in templates] + [False])
    parts = [[] for _ in found]
    for i, own in enumerate(found):
        own = own[np.isfinite(own[:, 5])]
        own = own[np.argsort(own[:, 5])]
        number = own[:, 0].astype("int64")
        if not own.size or not (is_quasar[number[0]] or p_bal[i] > 0.5):
            continue
        quasars = _apart(own[is_quasar[number], 1])
        has_bal_set = bool(is_bal_set[number[:2]].any())
        fits = refit_absorbed(flux[i], weight[i], np.log10(wavelength), templates, quasars, p_bal[i], has_bal_set)
        parts[i] = [_row(one, fit, WITHOUT_TROUGHS) for one, fit in fits]
    extra = np.full((len(found), max(map(len, parts), default=0), len(_HYPOTHESIS)), np.nan)
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


def _coarse_candidates(flux, weight, wavelength, templates, plans, device, seeds):
    """Redshift of each minimum to refine (NaN for the others), and whether it may win: (n_set, n_place, n_object).

    The last place is the one near the network's redshift.
    """
    padded = [np.zeros((BATCH, flux.shape[1]), "float32") for _ in range(2)]
    padded[0][: len(flux)], padded[1][: len(flux)] = flux, weight
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    binned = [one.to(device) for one in bin_spectra(*padded, wavelength)]
    redshift = np.full((len(templates), _N_MINIMA + 1, len(flux)), np.nan)
    gain = np.full(redshift.shape, -np.inf)
    with torch.inference_mode():
        for i, plan in enumerate(plans):
            n_minima = 1 if len(plan.redshift) < 100 else _N_MINIMA
            scanned = scan_batch(*binned, plan)
            places, gains = best_minima(scanned, plan, n_minima)
            redshift[i, :n_minima], gain[i, :n_minima] = places[: len(flux)].T, gains[: len(flux)].T
            seed = seeds.get(templates[i].spectype)
            if seed is not None and np.isfinite(seed).any():
                scanned = scanned[: len(flux)].cpu().numpy()
                redshift[i, -1], gain[i, -1] = seeded_minima(scanned, plan.redshift, seed)
    is_smooth = np.array([not one.spectype for one in templates])
    near = gain > gain[~is_smooth].max(axis=(0, 1), initial=-np.inf) - _NEAR
    chosen = _is_chosen(gain[:, :-1], templates)
    chosen = np.concatenate([chosen, _is_new_seed(redshift, gain, chosen, templates)[:, None]], axis=1)
    near[:, -1] = True
    return np.where(chosen, redshift, np.nan), near


def _is_new_seed(redshift, gain, chosen, templates):
    """Choose the best set at the network's redshift, unless its class is refined there anyway: (n_set, n_object)."""
    new = np.zeros(gain[:, -1].shape, bool)
    classes = np.array([one.spectype for one in templates])
    for spectype in ("QSO", "GALAXY"):
        rows = np.flatnonzero(classes == spectype)
        if not rows.size:
            continue
        best = rows[np.argmax(gain[rows, -1], axis=0)]
        every = np.arange(new.shape[1])
        seed = redshift[best, -1, every]
        there = np.where(chosen[rows], redshift[rows, :-1], np.inf)
        is_known = (velocity_between(there, seed) < SAME_VELOCITY).any(axis=(0, 1))
        new[best, every] = np.isfinite(seed) & ~is_known
    return new


def _is_chosen(gain, templates):
    """Choose the best of all, and the best of each class."""
    flat = gain.reshape(-1, gain.shape[2])
    last = np.sort(flat, axis=0)[-min(_N_REFINED, len(flat))]
    chosen = gain >= last
    classes = np.array([one.spectype for one in templates])
    for spectype in np.unique(classes):
        own = gain[classes == spectype]
        chosen[classes == spectype] |= own >= own.max(axis=(0, 1))
    return chosen & np.isfinite(gain)


def _refined(flux, weight, wavelength, templates, plans, candidates, near):
    """Every refined minimum: shape (n_object, n_set * n_place, 6), as in `_HYPOTHESIS`, without the score.

    Minima that may win are approached by one parabola, and those that still may after that are refined to the end; of
    the others only χ² is taken, and those that it brings back get their parabola.
    """
    log_wavelength = np.log10(wavelength)
    limits = [(plan.redshift[-1], plan.redshift[0]) for plan in plans]
    start = np.where((weight > 0).any(axis=1), candidates, np.nan)  # (n_set, n_place, n_object)
    fits = np.full((*start.shape, 5), np.nan)
    for i, k in np.ndindex(*start.shape[:2]):
        rows = np.flatnonzero(np.isfinite(start[i, k]))
        own = flux[rows], weight[rows], log_wavelength, templates[i], start[i, k, rows], limits[i]
        fits[i, k, rows] = refine_minima(*own, n_turns=near[i, k, rows].astype("int64"))
    is_close = _is_close(fits[..., CHI2], near, templates)
    for i, k in np.ndindex(*start.shape[:2]):
        if limits[i][0] == limits[i][1]:
            continue
        for is_begun in (True, False):
            rows = np.flatnonzero(is_close[i, k] & (near[i, k] == is_begun))
            own = flux[rows], weight[rows], log_wavelength, templates[i], start[i, k, rows], limits[i]
            more = {"approached": fits[i, k, rows]} if is_begun else {"n_turns": 1}
            fits[i, k, rows] = refine_minima(*own, **more)
    out = np.full((len(flux), start[..., 0].size, len(_HYPOTHESIS)), np.nan)
    for i, k in np.ndindex(*start.shape[:2]):
        out[:, i * start.shape[1] + k] = _columns(i, fits[i, k], limits[i], FROM_NETWORK * (k == _N_MINIMA))
    return out


def _is_close(chi2, near, templates):
    """Choose what may still win after the first parabola: (n_set, n_place, n_object), as `chi2`; NaN never."""
    is_smooth = np.array([not one.spectype for one in templates])
    lowest = np.fmin.reduce(np.where(near, chi2, np.nan)[~is_smooth], axis=(0, 1), initial=np.nan)
    features = np.nan_to_num(np.fmin.reduce(chi2[is_smooth], axis=(0, 1), initial=np.nan) - lowest)
    return chi2 < lowest + np.maximum(_CLOSE, _CLOSE_PART * features)


def _columns(number, fit, limits, flags):
    """Hypotheses of one set, (n_object, 6), of what `refine_minima` gave."""
    redshift = fit[:, REDSHIFT]
    margin = 1e-5 * (1 + redshift)
    at_edge = (redshift < limits[0] + margin) | (redshift > limits[1] - margin)
    flags = flags + AT_EDGE * (at_edge & (limits[0] < limits[1]))
    flags = flags + IS_NEGATIVE * (fit[:, MEAN_MODEL] <= 0) + NO_MINIMUM * (fit[:, IS_MINIMUM] == 0)
    nothing = np.full(len(fit), np.nan)
    own = [np.full(len(fit), number), redshift, fit[:, REDSHIFT_ERR], fit[:, CHI2], flags, nothing]
    return np.where(np.isfinite(redshift)[:, None], np.stack(own, axis=1), np.nan)


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


def velocity_between(redshift, other):
    """Return the velocity between two redshifts, km/s, without sign."""
    return SPEED_OF_LIGHT * np.abs(redshift - other) / (1 + np.minimum(redshift, other))


def _table(block, targetid, templates, n_best):
    # of a row that was set aside (NaN) no pixel counts
    spectrum = pd.DataFrame(block[:, : len(_SPECTRUM)], columns=_SPECTRUM).fillna({"n_good": 0, "is_poor": 0})
    own = block[:, len(_SPECTRUM) :].reshape(-1, len(_HYPOTHESIS))
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


def _whole_spectra(array):
    """Return a Dask array in which every chunk holds whole spectra."""
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(_CHUNK, -1))
    return array if array.numblocks[1] == 1 else array.rechunk({1: -1})
