"""Anomaly or wrong redshift? Each object scored again at the redshifts it might have instead."""

import dask
import dask.array as da
import numpy as np
import pandas as pd

from astrolab.anomaly.scale import place_on_scale
from astrolab.anomaly.scores import as_members, block_columns, member_table, score_block
from astrolab.anomaly.shape import LINE_COLUMNS
from astrolab.lines import SPEED_OF_LIGHT, spectral_lines
from astrolab.models.files import model_to_bytes
from astrolab.pixel_faults import find_pixel_faults
from astrolab.schema import OBJECT, WAVELENGTH, SchemaError, check_spectra, check_targetid, spectral_dim
from astrolab.spectra import _normalize_block, _rebin_block, pixel_edges
from astrolab.stores.passes import map_chunks

# lines that are taken for one another
CONFUSED_LINES = ("Lyα", "C IV", "C III]", "Mg II", "[O II]", "Hβ", "[O III] 5007", "Hα")
# neighbours: broad lines hide an offset of a step
_STEP, _REACH = 2_000.0, 60_000.0  # km/s
_SAME = 500.0  # km/s: no other redshift
_REDSHIFT_MIN, _REDSHIFT_MAX = 0.0, 7.0

# another redshift counts where the rest grid sees at least this part of the pixels that it sees at the object's own
_COVERAGE = 0.6
# and where the ln likelihood ratio of lines against none is this much above that at its own
_MORE_EVIDENCE = 4.0
# strange at its own redshift, ordinary at another: above, below the scores that these shares of the survey surpass
_STRANGE, _ORDINARY = 0.05, 0.15
# how far from 0 the contrast of a line that is not there may be: the continuum is not straight
# what a single line may say
_SMOOTH_SCATTER, _LINE_LIMIT = 0.1, 8.0

_N_CHUNK = 64  # objects in a task
_N_BATCH = 1_024  # spectra rebinned at a time


def score_redshifts(models, spectra, scale, grid, *, alternatives=None, chunks_dir=None):
    """Score objects at the redshifts that they might have instead of their own.

    Tried are the confusions of one strong line with another (``(1 + redshift) λ_i / λ_j - 1``), neighbours up to 60,000
    km/s to either side in steps of 2,000 km/s, and what is given; above 0, below 7 and within the redshifts of the
    survey, since there are no peers elsewhere. Of what is hardly seen nothing is strange, and a featureless spectrum is
    ordinary anywhere: so a redshift counts only where the rest grid sees at least 0.6 of the pixels that it sees at the
    object's own, and where emission lines speak for it (`line_evidence`), and more than for the object's own.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked the survey.
    spectra : xarray.Dataset
        Observed spectra of a shortlist, dims ``(object, wavelength)``, not normalised, with ``redshift``; lazy or in
        memory. About a hundred redshifts are scored an object, on the Dask cluster in use. Pixels with ``ivar == 0`` do
        not count.
    scale : Scale
        The survey's, from `score_anomalies`.
    grid : array_like, shape (n_wavelength,)
        The models' rest grid, Å.
    alternatives : pandas.DataFrame, optional
        Further redshifts by ``targetid``: those in columns named ``redshift`` or ``redshift_k``, such as
        `classify_spectra` gives, several rows an object or one. Not finite ones, and other objects', are passed over.
    chunks_dir : path-like, optional
        As in `score_anomalies`.

    Returns
    -------
    pandas.DataFrame
        One row an object, in their order: ``targetid``, ``redshift``; ``score_best_redshift`` (the smallest
        anomaly_score of all redshifts that count, the object's own among them: what survives), ``rank_best_redshift``
        (the rank in the survey that it would have), ``redshift_best``, ``redshift_best_reason`` (in words; empty at its
        own), ``line_evidence``, ``line_evidence_best`` and ``is_redshift_doubtful``: at its own redshift among the
        strangest twentieth of the survey, at the best not among the strangest 15 %. An object that has no
        score at its own redshift has the scores NaN, rank 0, and no doubt.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame, or the grid is not the models'.
    KeyError
        If `alternatives` has no ``targetid`` or no redshifts.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra, grid = al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)
    >>> vae = al.VAE(n_wavelength=100)
    >>> scale = al.score_anomalies(vae, al.normalize_flux(al.to_restframe(spectra, grid))).scale
    >>> table = al.score_redshifts(vae, spectra.isel(object=[0, 1]), scale, grid)
    >>> table["redshift_best"].between(0, 7).all()
    np.True_
    """
    models, grid = as_members(models), np.asarray(grid, "float64")
    _check(models, spectra, grid)
    tried = alternative_redshifts(spectra["targetid"].values, spectra["redshift"].values, alternatives)
    limits = scale.members[0].peers.quantiles[0, [0, -1]]
    is_own = tried["reason"] == ""
    tried = tried[is_own | tried["redshift"].between(*limits)].reset_index(drop=True)
    scored = _score(models, spectra, scale, grid, tried, chunks_dir)
    return _choose(spectra, scored, scale)


def alternative_redshifts(targetid, redshift, alternatives=None):
    """Return the redshifts to try for each object.

    Parameters
    ----------
    targetid : numpy.ndarray, shape (object,)
        Identifiers.
    redshift : numpy.ndarray, shape (object,)
        Their own redshifts.
    alternatives : pandas.DataFrame, optional
        As in `score_redshifts`.

    Returns
    -------
    pandas.DataFrame
        ``row`` (number of the object), ``redshift``, ``reason`` (empty for its own, which comes first).

    Examples
    --------
    >>> tried = alternative_redshifts(np.array([7]), np.array([2.0]))
    >>> tried[tried["reason"] == "C IV was taken for Mg II"]["redshift"].round(2).tolist()
    [4.42]
    """
    shift = np.arange(_STEP, _REACH + 1, _STEP)
    factors = {f"{sign * v:+,.0f} km/s from it": 1 + sign * v / SPEED_OF_LIGHT for sign in (1, -1) for v in shift}
    lines = {line.name: line.wavelength for line in spectral_lines() if line.name in CONFUSED_LINES}
    for true_name, true in lines.items():
        for name, wavelength in lines.items():
            if name != true_name:
                factors[f"{true_name} was taken for {name}"] = wavelength / true
    rows = np.arange(len(redshift))
    tried = [pd.DataFrame({"row": rows, "redshift": redshift, "reason": ""})]
    tried += [
        pd.DataFrame({"row": rows, "redshift": (1 + redshift) * factor - 1, "reason": reason})
        for reason, factor in factors.items()
    ]
    if alternatives is not None:
        tried += _given(targetid, alternatives)
    tried = pd.concat(tried, ignore_index=True)
    own = redshift[tried["row"]]
    velocity = SPEED_OF_LIGHT * ((1 + tried["redshift"]) / (1 + own) - 1)
    is_other = tried["redshift"].between(_REDSHIFT_MIN, _REDSHIFT_MAX, inclusive="neither") & (velocity.abs() > _SAME)
    return tried[(tried["reason"] == "") | is_other].sort_values("row", kind="stable", ignore_index=True)


def _given(targetid, alternatives):
    names = [name for name in alternatives if name == "redshift" or name.startswith("redshift_")]
    names = [name for name in names if name == "redshift" or name.removeprefix("redshift_").isdigit()]
    if "targetid" not in alternatives or not names:
        raise KeyError(
            f"the alternatives have columns {', '.join(map(str, alternatives))}, expected 'targetid' and 'redshift' or "
            "'redshift_2' …, as classify_spectra gives."
        )
    check_targetid(alternatives["targetid"], "alternatives")
    row = pd.Index(targetid).get_indexer(alternatives["targetid"])
    return [
        pd.DataFrame({"row": row, "redshift": alternatives[name].to_numpy("float64"), "reason": f"{name} was given"})[
            row >= 0
        ]
        for name in names
    ]


def _choose(spectra, scored, scale):
    """Return of every object the credible redshift at which it is least strange."""
    own = scored[scored["reason"] == ""].set_index("row")
    there = own.loc[scored["row"]].set_index(scored.index)
    is_credible = (
        (scored["n_good"] >= _COVERAGE * there["n_good"])
        & (scored["line_evidence"] > 0)
        & (scored["line_evidence"] > there["line_evidence"] + _MORE_EVIDENCE)
    )
    # the object's own comes first among equals, also where nothing could be scored
    counted = scored[is_credible | (scored["reason"] == "")].sort_values("score", kind="stable")
    best = counted.groupby("row").head(1).set_index("row").sort_index()
    best = best.where(own["score"].notna(), own)
    strange, ordinary = (_surpassed_by(scale, share) for share in (_STRANGE, _ORDINARY))
    rank = np.where(best["score"].notna(), scale.rank_of(best["score"]), 0)
    return pd.DataFrame(
        {
            "targetid": spectra["targetid"].values,
            "redshift": spectra["redshift"].values,
            "score_best_redshift": best["score"].to_numpy("float32"),
            "rank_best_redshift": rank.astype("int32"),
            "redshift_best": best["redshift"].to_numpy("float64"),
            "redshift_best_reason": best["reason"].to_numpy(dtype=object).astype(str),
            "line_evidence": own["line_evidence"].to_numpy("float32"),
            "line_evidence_best": best["line_evidence"].to_numpy("float32"),
            "is_redshift_doubtful": ((own["score"] > strange) & (best["score"] < ordinary)).to_numpy(),
        }
    )


def _surpassed_by(scale, share):
    return scale.sorted_score[int(share * (len(scale.sorted_score) - 1))]


def line_evidence(table, ordinary):
    """Return how much better the lines of a quasar describe a spectrum than none do.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns of `measure_shape`, one row a spectrum.
    ordinary : dict
        The survey's, from `fit_shape`.

    Returns
    -------
    numpy.ndarray, shape (object,)
        ln of the ratio of the likelihoods, the sum over the lines measured, each between -8 and 8: above 0 for lines
        where they should be, below for a continuum there; 0 where nothing was measured.
    """
    lines, lines_err = (table[[name + suffix for name in LINE_COLUMNS]].to_numpy("float64") for suffix in ("", "_err"))
    with_lines = _log_normal(lines, ordinary["line_median"], np.hypot(ordinary["line_scatter"], lines_err))
    without = _log_normal(lines, np.log(1.2), np.hypot(_SMOOTH_SCATTER, lines_err))
    return np.nansum(np.clip(with_lines - without, -_LINE_LIMIT, _LINE_LIMIT), axis=1)


def _log_normal(value, mean, sigma):
    return -0.5 * ((value - mean) / sigma) ** 2 - np.log(sigma)


def _check(models, spectra, grid):
    check_spectra(spectra)
    if spectral_dim(spectra) != WAVELENGTH:
        raise SchemaError("the spectra are in the rest frame, expected the observed frame, before to_restframe.")
    n_wavelength = models[0].config["n_wavelength"]
    if grid.shape != (n_wavelength,):
        raise SchemaError(f"the grid has shape {grid.shape}, the model expects ({n_wavelength},): its own rest grid.")


def _score(models, spectra, scale, grid, tried, chunks_dir):
    """Add what the scale says at each redshift tried: score, coverage, lines; NaN where nothing can be said."""
    packed = [model_to_bytes(model) for model in models]
    columns = block_columns(packed[0][0][1]["n_latent"], len(models))
    place = tried.groupby("row").cumcount().to_numpy()
    redshifts = np.full((spectra.sizes[OBJECT], place.max(initial=0) + 1), np.nan)
    redshifts[tried["row"], place] = tried["redshift"]
    chunked = spectra.chunk({OBJECT: _N_CHUNK, WAVELENGTH: -1})
    flux, ivar = chunked["flux"].data, chunked["ivar"].data
    raw = map_chunks(
        _score_block,
        flux,
        ivar,
        da.from_array(redshifts, chunks=(flux.chunks[0], -1)),
        observed=spectra[WAVELENGTH].values,
        edges=(pixel_edges(spectra[WAVELENGTH].values), pixel_edges(grid)),
        wavelength=grid,
        described=dask.delayed([described for described, _ in packed], pure=True),
        weights=dask.delayed([weights for _, weights in packed], pure=True),
        n_columns=redshifts.shape[1] * len(columns),
        chunks_dir=chunks_dir,
    )
    raw = raw.reshape(*redshifts.shape, len(columns))
    parts = []
    for start in range(0, len(tried), 50_000):
        some = tried.iloc[start : start + 50_000]
        table = pd.DataFrame(raw[some["row"], place[some.index]], columns=columns, index=some.index)
        parts.append(_place(scale, table.assign(redshift=some["redshift"])))
    return tried.join(pd.concat(parts))


def _place(scale, table):
    may_be_missing = [name for name in table if name.startswith(("line_", "continuum_")) or name == "log_chi2_shipped"]
    needed = member_table(table).drop(columns=may_be_missing)
    is_scored = np.isfinite(needed).all(axis=1) & (table["n_good"] >= 50)
    placed = place_on_scale(scale, table[is_scored])
    evidence = line_evidence(table[is_scored], scale.ordinary)
    result = table.loc[is_scored, ["n_good"]].assign(score=placed["anomaly_score"], line_evidence=evidence)
    return result.reindex(table.index)


def _score_block(flux, ivar, redshifts, *, observed, edges, wavelength, described, weights):
    """Score the spectra of one chunk at each of their redshifts; NaN where there is none."""
    n_columns = len(block_columns(described[0][1]["n_latent"], len(described)))
    pixel_faults = find_pixel_faults(flux, ivar, observed)
    out = np.full((*redshifts.shape, n_columns), np.nan, "float32")
    rows, places = np.nonzero(np.isfinite(redshifts) & (redshifts > -1))
    for start in range(0, len(rows), _N_BATCH):
        row, place = rows[start : start + _N_BATCH], places[start : start + _N_BATCH]
        redshift = redshifts[row, place]
        rest = _rebin_block(flux[row], ivar[row], redshift, edges_in=edges[0], edges_out=edges[1])
        rest = _normalize_block(*rest, redshift)
        out[row, place] = score_block(*rest, redshift[:, None], pixel_faults[row], wavelength, described, weights)
    return out.reshape(len(flux), -1)
