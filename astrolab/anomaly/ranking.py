"""The ranking: scores of every object, calibrated, combined, sorted, with reasons."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from astrolab.anomaly.artefacts import ARTEFACT_SCORES, FAULT_SCORE, SHARED_SCORES, describe_artefacts
from astrolab.anomaly.classes import CLASSES
from astrolab.anomaly.combination import PIXEL_SCORES, SCORES
from astrolab.anomaly.reasons import describe_reasons
from astrolab.anomaly.scale import Scale, fit_scale, place_on_scale
from astrolab.anomaly.scores import BAND_WIDTHS, TROUGH_WIDTHS, as_members, member_table, raw_scores, reconstruct
from astrolab.anomaly.shape import LINE_WINDOWS, SHAPE_COLUMNS
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.schema import FLUX_UNIT, OBJECT, WAVELENGTH_REST, SchemaError, check_spectra, check_targetid, spectral_dim
from astrolab.stores.passes import load_objects

# an object with fewer good pixels on the rest grid is not ranked
N_GOOD_MIN = 50

_RANKINGS = {"anomaly_rank": "anomaly_score", "raw_rank": "raw_score", "pipeline_rank": "artefact_score"}
_CARRIED = ("targetid", "survey", "program", "ra", "dec", "redshift", "redshift_warning", "spectype")


class Scored(NamedTuple):
    """What `score_anomalies` gives.

    Attributes
    ----------
    ranking : pandas.DataFrame
        One row a ranked object, sorted by ``anomaly_rank``.
    not_ranked : pandas.DataFrame
        ``targetid`` and ``reason`` of every other one.
    scale : Scale
        What is ordinary in these spectra; other spectra can be placed on it.
    """

    ranking: pd.DataFrame
    not_ranked: pd.DataFrame
    scale: Scale


def score_anomalies(models, spectra, *, scale=None, is_reference=None, seed=0, chunks_dir=None):
    """Score and rank every object.

    Six scores. Five are in robust standard deviations above the object's peers (the objects nearest in redshift, S/N
    and number of good pixels): ``score_chi2`` (reconstruction χ²), ``score_trough`` (the deepest missing flux in
    windows of 4, 8 and 16 pixels of the rest grid), ``score_lines`` (emission lines weaker than the survey's),
    ``score_continuum`` (a continuum that no tilt makes ordinary), ``score_latent`` (distance to the nearest latent
    vectors). The sixth is absolute: ``score_class`` (how much better than the models, and on its grid than the shipped
    one, a star, a galaxy or featureless light explains the spectrum, in units of 30 % of χ²).
    ``raw_score`` is the length of what is positive in them; ``artefact_score`` says the same of what an instrument
    leaves, and ``anomaly_score`` is what remains of the former without the latter, and without the trend with
    redshift, S/N and coverage that is left.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Trained on the same grid; the scores of several are averaged, and their spread gives the rank an interval.
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``. Lazy spectra are read and scored chunk by chunk on the
        Dask cluster in use; only the scores are gathered. Pixels with ``ivar == 0`` do not count.
    scale : Scale, optional
        Of an earlier survey scored with the same models; by default it is learned from these spectra.
    is_reference : numpy.ndarray, shape (object,), bool, optional
        Objects that p-values are drawn among; by default all. A survey that is its own reference holds its anomalies:
        then p is too large for them rather than too small, and no q is small. Leave out what is known to be strange.
    seed : int, optional
        Seed of the reference samples of a large survey.
    chunks_dir : path-like, optional
        Folder that keeps each chunk's scores as soon as they are there, as in `map_chunks`: the same call after a crash
        goes on.

    Returns
    -------
    Scored
        ``ranking`` has targetid, survey, ra, dec (deg), redshift, spectype, snr; ``anomaly_score``, ``anomaly_rank``
        (1 = strangest, equal ones by targetid), ``raw_score`` and ``raw_rank``, ``artefact_score`` and
        ``pipeline_rank`` (1 = the likeliest artefact), ``rank_low`` and ``rank_high`` (the models' own best and worst
        opinion; missing with one model); ``p_value``, ``q_value``, ``reasons``, ``artefact_evidence``, parts of both
        scores, ``best_class`` (what explains it better than the models; empty where nothing does), ``z_<line>``,
        ``band_*`` (where the strongest residual is) and ``latent_i``.
        No score is NaN. ``not_ranked`` names each object without a place in the ranking and why: no redshift, fewer
        than 50 good pixels on the rest grid, or scores that are not finite.

    Raises
    ------
    SchemaError
        If the spectra are not normalised, not in the rest frame or not on the models' grid, or that has fewer than
        64 pixels.
    ValueError
        If no object can be ranked, there is no model, or `is_reference` is not one truth value an object, or all False.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> ranking, not_ranked, scale = al.score_anomalies(al.VAE(n_wavelength=100), rest)
    >>> len(ranking) + len(not_ranked)
    40
    """
    models = as_members(models)
    if not models:
        raise ValueError("there is no model to rank with, expected at least one that was trained with fit.")
    for model in models:
        _check_grid(model, spectra)
    if len({model.config["n_latent"] for model in models}) > 1:
        raise ValueError("the models have different n_latent, expected one: members of an ensemble are of one kind.")
    table = _with_columns(raw_scores(models, spectra, chunks_dir=chunks_dir), spectra)
    table["is_reference"] = _checked_reference(is_reference, len(table))
    if "snr" not in table:
        table["snr"] = table["snr_rest"]
    reason = _why_not_ranked(table)
    not_ranked = pd.DataFrame({"targetid": table["targetid"], "reason": reason})[reason != ""]
    # sorted by targetid, so that nothing below depends on the order of the input
    rows = np.flatnonzero(reason == "")
    table = table.iloc[rows[np.argsort(table["targetid"].to_numpy()[rows], kind="stable")]].reset_index(drop=True)
    if table.empty:
        counts = "; ".join(f"{reason}: {n}" for reason, n in not_ranked["reason"].value_counts().items())
        raise ValueError(f"none of {len(not_ranked)} objects can be ranked ({counts or 'there are none'}).")
    if scale is None:
        scale, placed = fit_scale(table, is_reference=table["is_reference"].to_numpy(), seed=seed)
    else:
        placed = place_on_scale(scale, table)
    # a copy is one block however many columns there are, and can be added to
    table = member_table(table).drop(columns=list(ARTEFACT_SCORES)).join(placed).copy()
    del placed  # of millions of objects there are hundreds of columns
    table = _add_ranks(table)
    table = _describe(table, spectra[WAVELENGTH_REST].values)
    not_ranked = not_ranked.sort_values("targetid", ignore_index=True)
    return Scored(table, not_ranked, scale)


def rank_anomalies(models, spectra, *, n_top=5_000, seed=0):
    """Rank every object and return the strangest with their spectra.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Trained on the same grid.
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``; lazy or in memory. Every object is scored on the Dask
        cluster in use, however many there are.
    n_top : int, optional
        How many of the strangest to return with their spectra, in memory. The table of all is `score_anomalies`.
    seed : int, optional
        As in `score_anomalies`.

    Returns
    -------
    xarray.Dataset
        The `n_top` strangest in order of rank (object 0 is the strangest) with ``flux``, ``ivar``, ``flux_model``
        (dims ``(object, wavelength_rest)``), ``latent`` (``(object, latent_dim)``), and along ``object`` the columns of
        `score_anomalies`. Attributes ``n_ranked`` and ``n_not_ranked`` count all objects.

    Raises
    ------
    SchemaError, ValueError
        As in `score_anomalies`.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> ranked = al.rank_anomalies(al.VAE(n_wavelength=100), rest, n_top=5)
    >>> ranked.anomaly_rank.values
    array([1, 2, 3, 4, 5], dtype=int32)
    """
    if n_top < 1:
        raise ValueError(f"n_top is {n_top}, expected at least 1.")
    ranking, not_ranked, _ = score_anomalies(models, spectra, seed=seed)
    return attach_spectra(models, spectra, ranking.head(n_top), n_ranked=len(ranking), n_not_ranked=len(not_ranked))


def add_columns(ranking, *tables):
    """Add to a ranking what was found out about some of its objects.

    Parameters
    ----------
    ranking : pandas.DataFrame
        From `score_anomalies`.
    *tables : pandas.DataFrame
        One row an object, with ``targetid``, such as `score_redshifts` and `score_unexplained` give of a shortlist.

    Returns
    -------
    pandas.DataFrame
        The ranking, its rows as they were, with the columns that it had not; missing, or empty text, for objects that
        were not looked at.

    Raises
    ------
    SchemaError, ValueError
        If a targetid is a float, or stands twice in a table.

    Examples
    --------
    >>> ranking = pd.DataFrame({"targetid": [7, 8], "anomaly_rank": [1, 2]})
    >>> add_columns(ranking, pd.DataFrame({"targetid": [7], "redshift_best": [2.1], "is_redshift_doubtful": [True]}))
       targetid  anomaly_rank  redshift_best  is_redshift_doubtful
    0         7             1            2.1                  True
    1         8             2            NaN                  <NA>
    """
    for table in tables:
        check_targetid(table["targetid"], "table to add")
        if table["targetid"].duplicated().any():
            twice = table["targetid"][table["targetid"].duplicated()].iloc[0]
            raise ValueError(f"targetid {twice} stands twice in the table to add, expected one row an object.")
        new = table.drop(columns=[name for name in table if name in ranking and name != "targetid"])
        whole = {name: "Int32" for name in new.select_dtypes("integer") if name != "targetid"}
        new = new.astype(whole | dict.fromkeys(new.select_dtypes("bool"), "boolean"))
        ranking = ranking.merge(new, how="left", on="targetid")
        words = [name for name in new if new[name].dtype.kind in "OUT" or str(new[name].dtype).startswith("str")]
        ranking[words] = ranking[words].fillna("")
    return ranking


def attach_spectra(models, spectra, ranking, **attrs):
    """Return the spectra of the objects of a ranking, in its order, with its columns and the reconstruction.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked them; the reconstruction is the first one's.
    spectra : xarray.Dataset
        The spectra that were ranked.
    ranking : pandas.DataFrame
        Some rows of what `score_anomalies` gave.
    **attrs
        Attributes to add.

    Returns
    -------
    xarray.Dataset
        As `rank_anomalies` describes.

    Raises
    ------
    SchemaError, ValueError
        If a targetid is a float, or a ranked object is not among the spectra.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> model = al.VAE(n_wavelength=100)
    >>> ranking = al.score_anomalies(model, rest).ranking
    >>> al.attach_spectra(model, rest, ranking.head(3))["flux_model"].shape
    (3, 100)
    """
    check_targetid(ranking["targetid"], "ranking")
    index = pd.Index(spectra["targetid"].values).get_indexer(ranking["targetid"])
    if (index < 0).any():
        unknown = ranking["targetid"].to_numpy()[index < 0]
        raise ValueError(
            f"targetid {unknown[0]} of the ranking is not among the spectra ({len(unknown)} are not), expected the "
            "spectra that were ranked."
        )
    model = as_members(models)[0]
    # read in the order of the store, then put in the order of the ranking
    is_chosen = np.zeros(spectra.sizes[OBJECT], bool)
    is_chosen[index] = True
    top = load_objects(spectra, is_chosen, desc="strangest")
    top = top.isel({OBJECT: np.searchsorted(np.flatnonzero(is_chosen), index)})
    flux_model, _ = reconstruct(model, top["flux"].values, top["ivar"].values)
    latent = ranking[[f"latent_{i}" for i in range(model.config["n_latent"])]].to_numpy("float32")
    columns = {
        name: (OBJECT, _plain(ranking[name]))
        for name in ranking
        if name not in top.coords and not name.startswith("latent_")
    }
    return (
        top.assign_coords(columns)
        .assign(flux_model=((OBJECT, WAVELENGTH_REST), flux_model, top["flux"].attrs))
        .assign(latent=((OBJECT, "latent_dim"), latent))
        .assign_attrs(attrs)
    )


def _plain(column):
    """Return a column as a numpy array; what is missing in a whole number or a yes or no is NaN."""
    may_be_missing = isinstance(column.dtype, pd.Int32Dtype | pd.BooleanDtype)
    return column.to_numpy("float64", na_value=np.nan) if may_be_missing else column.to_numpy()


def _add_ranks(table):
    """Rank by the science score and by others; sort."""
    for name, score in _RANKINGS.items():
        table[name] = _ranks(table[score], table["targetid"])
    opinions = [name for name in table if name.removeprefix("score_").isdigit()]
    ranks = np.array([_ranks(table[name], table["targetid"]) for name in opinions])
    for name, function in (("rank_low", np.min), ("rank_high", np.max)):
        rank = function(ranks, axis=0) if opinions else np.full(len(table), None)
        table[name] = pd.array(rank, dtype="Int32")
    return table.sort_values("anomaly_rank", ignore_index=True)


def _ranks(score, targetid):
    """Return ranks, 1 for the largest score, equal ones by targetid."""
    ranks = np.empty(len(score), "int32")
    ranks[np.lexsort((targetid, -score))] = np.arange(1, len(score) + 1)
    return ranks


def _describe(table, wavelength):
    """Add where the strongest residuals are, and reasons in words; leave out what was only needed for them."""
    table["chi2"] = np.exp(table["log_chi2"])
    for kind, widths in (("band", BAND_WIDTHS), ("trough", TROUGH_WIDTHS)):
        sigma = table[[f"{kind}_{width}" for width in widths]].to_numpy()
        # the most significant window against what is ordinary for its width
        best = np.argmax(np.abs(sigma) / (1 + np.median(np.abs(sigma), axis=0)), axis=1)
        rows, width = np.arange(len(table)), np.array(widths)[best]
        table[f"{kind}_sigma"] = sigma[rows, best] * (-1 if kind == "trough" else 1)
        table[f"{kind}_wavelength"] = table[[f"{kind}_at_{width}" for width in widths]].to_numpy()[rows, best]
        table[f"{kind}_width"] = width * SPEED_OF_LIGHT * np.log(wavelength[-1] / wavelength[0]) / (len(wavelength) - 1)
    best_class = np.array(CLASSES)[table["class_index"].astype(int)]
    table["best_class"] = np.where(table["score_class"] > 0, best_class, "")
    table["reasons"] = describe_reasons(table)
    table["shared_trough_at"] = table[f"trough_at_{TROUGH_WIDTHS[1]}"] * (1 + table["redshift"])
    table["artefact_evidence"] = describe_artefacts(table)
    wholes, parts = ("anomaly_score", "raw_score", "artefact_score"), (*SCORES, *ARTEFACT_SCORES, *SHARED_SCORES)
    scores = [*wholes, *parts, *PIXEL_SCORES, FAULT_SCORE]
    table = table[_column_order(table)]
    return table.astype({name: "float32" for name in scores if name in table})


def _check_grid(model, spectra):
    check_spectra(spectra)
    if spectral_dim(spectra) != WAVELENGTH_REST:
        raise SchemaError(
            "the spectra are in the observed frame, expected the rest frame: to_restframe(spectra, grid)."
        )
    if spectra["flux"].attrs.get("units") == FLUX_UNIT:
        raise SchemaError(f"the flux is in {FLUX_UNIT}, expected normalised spectra: normalize_flux(spectra).")
    n_wavelength = model.config["n_wavelength"]
    if spectra.sizes[WAVELENGTH_REST] != n_wavelength:
        raise SchemaError(
            f"the spectra have {spectra.sizes[WAVELENGTH_REST]} pixels, the model expects {n_wavelength}; "
            "bring them onto the model's rest grid with to_restframe."
        )
    if n_wavelength < max(BAND_WIDTHS):
        raise SchemaError(
            f"the rest grid has {n_wavelength} pixels, expected at least {max(BAND_WIDTHS)}, the widest band that is "
            "scored; take a finer rest_grid."
        )


def _checked_reference(is_reference, n_objects):
    """Return for every object whether p-values are drawn among it."""
    chosen = np.ones(n_objects, bool) if is_reference is None else np.asarray(is_reference)
    if chosen.dtype != bool or chosen.shape != (n_objects,):
        raise ValueError(
            f"is_reference is {chosen.dtype} of shape {chosen.shape}, expected True or False for each of "
            f"{n_objects} objects."
        )
    return chosen


def _with_columns(raw, spectra):
    """Put the columns of the spectra before the raw scores."""
    names = [name for name in (*_CARRIED, "snr") if name in spectra.coords]
    carried = pd.DataFrame({name: spectra[name].values for name in names})
    carried = carried.astype({name: "object" for name in names if spectra[name].dtype.kind not in "if"})
    return pd.concat([carried, raw.drop(columns=names, errors="ignore")], axis=1)


def _why_not_ranked(table):
    """Return the reason an object cannot be ranked, or an empty string."""
    redshift = table["redshift"].to_numpy()
    has_redshift = np.isfinite(redshift) & (redshift > -1)
    # a line, a continuum or the shipped model's opinion that was not measured is NaN, and that is no fault
    may_be_missing = [*_CARRIED, *SHAPE_COLUMNS, "log_chi2_shipped"]
    numbers = table.drop(columns=may_be_missing, errors="ignore").select_dtypes("number")
    reasons = [
        "",
        "no redshift was measured",
        f"fewer than {N_GOOD_MIN} good pixels on the rest grid",
        "the scores are not finite",
    ]
    is_so = [~has_redshift, table["n_good"] < N_GOOD_MIN, ~np.isfinite(numbers).all(axis=1)]
    return np.array(reasons, object)[np.select(is_so, [1, 2, 3], 0)]


def _column_order(table):
    scores = ["anomaly_score", "anomaly_rank", "rank_low", "rank_high", "p_value", "q_value", "reasons"]
    scores += [
        "raw_score",
        "raw_rank",
        *SCORES,
        "best_class",
        "artefact_score",
        "pipeline_rank",
        "artefact_evidence",
        *ARTEFACT_SCORES,
        *PIXEL_SCORES,
        FAULT_SCORE,
    ]
    rest = ["chi2", "n_good", "snr_rest"]
    rest += [f"{kind}_{what}" for kind in ("band", "trough") for what in ("sigma", "wavelength", "width")]
    rest += [f"z_{name}" for name in LINE_WINDOWS] + [name for name in table if name.startswith("latent_")]
    return [name for name in [*_CARRIED, "snr", *scores, *rest] if name in table]
