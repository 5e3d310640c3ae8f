"""Hypotheses of class and redshift for every spectrum: scan all template sets, refine the best minima, sort them."""

import dask
import dask.array as da
import numpy as np
import pandas as pd
import torch

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.refine import CHI2, IS_MINIMUM, MEAN_MODEL, REDSHIFT, REDSHIFT_ERR, refine_minima
from astrolab.redshift.scan import BATCH, best_minima, bin_spectra, clean_spectra, plan_all, scan_batch
from astrolab.redshift.templates import open_templates
from astrolab.schema import WAVELENGTH, SchemaError, check_spectra
from astrolab.stores.passes import map_chunks

# hypotheses of one class nearer than this are one
SAME_VELOCITY = 1000.0  # km/s
_N_MINIMA = 3  # of each set in the coarse scan
_N_REFINED = 5  # best of all sets that are refined, beside the best of each class
_NEAR = 300.0  # of χ²: the coarse scan, half a step off narrow lines, may err by as much
_CHUNK = 1024
# columns of a block: these of the spectrum, then five of each hypothesis
_SPECTRUM = ("n_good", "is_poor", "chi2_null", "chi2_smooth")
_HYPOTHESIS = ("set", "redshift", "redshift_err", "chi2", "flags")
AT_EDGE, IS_NEGATIVE, NO_MINIMUM = 1, 2, 4


def scan_redshifts(spectra, templates=None, *, n_best=5, device="auto", chunks_dir=None):
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

    Returns
    -------
    pandas.DataFrame
        `n_best` rows an object, in the order of the objects and best first: targetid; hypothesis (1 is the best);
        spectype, subtype; redshift, redshift_err (1 sigma, statistical); chi2 (-2 ln evidence; χ² for templates without
        priors); is_at_edge, is_negative, is_minimum; and of the spectrum n_good (pixels), is_poor (it had invalid
        pixels), chi2_null (of no model) and chi2_smooth (of a spectrum without features). A hypothesis that there is
        not has spectype '' and redshift NaN.

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
        n_columns=len(_SPECTRUM) + n_best * len(_HYPOTHESIS),
        dtype="float64",
        chunks_dir=chunks_dir,
    )
    return _table(block, spectra["targetid"].values, templates, n_best)


def block_hypotheses(flux, ivar, wavelength, templates, n_best, device="cpu"):
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

    Returns
    -------
    numpy.ndarray, shape (n_object, 4 + 5 n_best), float64
        See `scan_redshifts`; all numbers, so that Dask can hold them.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread a worker, and so the same sums in the same order everywhere
    try:
        starts = range(0, len(flux), BATCH)
        parts = [
            _batch_hypotheses(flux[i : i + BATCH], ivar[i : i + BATCH], wavelength, templates, n_best, device)
            for i in starts
        ]
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


def _batch_hypotheses(flux, ivar, wavelength, templates, n_best, device):
    flux, weight, is_poor = clean_spectra(flux, ivar, wavelength)
    plans = plan_all(templates, wavelength)
    candidates = _coarse_candidates(flux, weight, wavelength, templates, plans, device)
    found = _refined(flux, weight, wavelength, templates, plans, *candidates)
    chi2_smooth = np.full(len(flux), np.inf)
    for i, one in enumerate(templates):
        if not one.spectype:
            chi2_smooth = np.fmin(chi2_smooth, np.where(found[..., 0] == i, found[..., 3], np.inf).min(axis=1))
    out = np.full((len(flux), len(_SPECTRUM) + n_best * len(_HYPOTHESIS)), np.nan)
    out[:, 0], out[:, 1] = np.count_nonzero(weight > 0, axis=1), is_poor
    out[:, 2], out[:, 3] = np.sum(weight.astype("float64") * flux.astype("float64") ** 2, axis=1), chi2_smooth
    for row, own in zip(out, found, strict=True):
        best = _distinct(own, templates, n_best)
        row[len(_SPECTRUM) : len(_SPECTRUM) + best.size] = best.ravel()
    return out


def _coarse_candidates(flux, weight, wavelength, templates, plans, device):
    """Redshift of each minimum to refine (NaN for the others), and whether it may win: (n_set, _N_MINIMA, n_object)."""
    padded = [np.zeros((BATCH, flux.shape[1]), "float32") for _ in range(2)]
    padded[0][: len(flux)], padded[1][: len(flux)] = flux, weight
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    binned = [one.to(device) for one in bin_spectra(*padded, wavelength)]
    redshift = np.full((len(templates), _N_MINIMA, len(flux)), np.nan)
    gain = np.full(redshift.shape, -np.inf)
    with torch.inference_mode():
        for i, plan in enumerate(plans):
            n_minima = 1 if len(plan.redshift) < 100 else _N_MINIMA
            places, gains = best_minima(scan_batch(*binned, plan), plan, n_minima)
            redshift[i, :n_minima], gain[i, :n_minima] = places[: len(flux)].T, gains[: len(flux)].T
    near = gain > gain.max(axis=(0, 1)) - _NEAR
    return np.where(_is_chosen(gain, templates), redshift, np.nan), near


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
    """Every refined minimum: shape (n_object, n_set * _N_MINIMA, 5), as in `_HYPOTHESIS`."""
    log_wavelength = np.log10(wavelength)
    out = np.full((len(flux), len(templates) * _N_MINIMA, len(_HYPOTHESIS)), np.nan)
    has_data = (weight > 0).any(axis=1)
    for i, (one, plan) in enumerate(zip(templates, plans, strict=True)):
        limits = plan.redshift[-1], plan.redshift[0]
        for k in range(_N_MINIMA):
            start = np.where(has_data, candidates[i, k], np.nan)
            rows = np.flatnonzero(np.isfinite(start))
            if not rows.size:
                continue
            fit = refine_minima(flux[rows], weight[rows], log_wavelength, one, start[rows], limits, near[i, k, rows])
            margin = 1e-5 * (1 + fit[:, REDSHIFT])
            at_edge = (fit[:, REDSHIFT] < limits[0] + margin) | (fit[:, REDSHIFT] > limits[1] - margin)
            flags = AT_EDGE * (at_edge & (len(plan.redshift) > 1))
            flags = flags + IS_NEGATIVE * (fit[:, MEAN_MODEL] <= 0) + NO_MINIMUM * (fit[:, IS_MINIMUM] == 0)
            columns = [np.full(len(rows), i), fit[:, REDSHIFT], fit[:, REDSHIFT_ERR], fit[:, CHI2], flags]
            out[rows, i * _N_MINIMA + k] = np.stack(columns, axis=1)
    return out


def _distinct(own, templates, n_best):
    """Keep the best hypotheses of one spectrum that differ in class or in velocity, best first."""
    own = own[np.isfinite(own[:, 3])]
    kept = []
    for one in own[np.lexsort((own[:, 0], own[:, 3]))]:
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
    spectrum = pd.DataFrame(np.nan_to_num(block[:, : len(_SPECTRUM)], posinf=np.inf), columns=_SPECTRUM)
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
            "is_at_edge": flags & AT_EDGE > 0,
            "is_negative": flags & IS_NEGATIVE > 0,
            "is_minimum": flags & NO_MINIMUM == 0,
        }
    )
    for name in _SPECTRUM:
        table[name] = np.repeat(spectrum[name].to_numpy(), n_best)
    return table.astype({"n_good": "int64", "is_poor": "bool"})


def _whole_spectra(array):
    """Return a Dask array in which every chunk holds whole spectra."""
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(_CHUNK, -1))
    return array if array.numblocks[1] == 1 else array.rechunk({1: -1})
