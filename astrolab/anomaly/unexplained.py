"""Explained away: how strange objects are without the absorption that is known or seen in them."""

import numpy as np
import pandas as pd

from astrolab.anomaly.absorbers import check_absorbers, describe_absorbers, mask_absorbers
from astrolab.anomaly.ranking import N_GOOD_MIN
from astrolab.anomaly.scale import place_on_scale
from astrolab.anomaly.scores import raw_scores
from astrolab.anomaly.troughs import check_rest, find_absorbers
from astrolab.schema import OBJECT
from astrolab.spectra import normalize_flux


def score_unexplained(models, spectra, scale, *, absorbers=None):
    """Score what known absorption does not explain.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked the survey.
    spectra : xarray.Dataset
        Normalised spectra of a shortlist on the models' grid, dims ``(object, wavelength_rest)``; lazy or in memory.
        Where they carry ``anomaly_score`` and ``anomaly_rank``, as `attach_spectra` gives them, an object without an
        absorber keeps these. Pixels with ``ivar == 0`` do not count.
    scale : Scale
        The survey's, from `score_anomalies`.
    absorbers : pandas.DataFrame, optional
        As in `mask_absorbers`; by default what `find_absorbers` finds.

    Returns
    -------
    pandas.DataFrame
        One row an object, in their order: ``targetid``, ``score_unexplained`` (the anomaly_score with the absorbers
        masked, in sigma above peers of the coverage that is left), ``rank_unexplained`` (the rank in the survey that
        it would have), ``explained_by`` (the absorbers in words; empty where there is none, and the score is then its
        own, bit for bit). Of an object of which fewer than 50 pixels are left nothing is masked, and the words say so;
        one without a redshift has NaN and rank 0.

    Raises
    ------
    SchemaError
        If the spectra are not in the rest frame.
    KeyError, ValueError
        As in `mask_absorbers`.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> vae = al.VAE(n_wavelength=100)
    >>> scale = al.score_anomalies(vae, rest).scale
    >>> list(al.score_unexplained(vae, rest.isel(object=[0, 1]), scale))
    ['targetid', 'score_unexplained', 'rank_unexplained', 'explained_by']
    """
    check_rest(spectra)
    spectra = spectra.compute()
    absorbers = find_absorbers(models, spectra) if absorbers is None else check_absorbers(absorbers)
    score, rank = _own(models, spectra, scale)
    masked = mask_absorbers(spectra, absorbers)
    n_left = (masked["ivar"].values > 0).sum(axis=1)
    is_changed = (masked["ivar"].values != spectra["ivar"].values).any(axis=1)
    is_scored = is_changed & (n_left >= N_GOOD_MIN) & np.isfinite(score)
    if is_scored.any():
        score[is_scored] = _place(models, normalize_flux(masked.isel({OBJECT: is_scored})), scale)
        rank[is_scored] = scale.rank_of(score[is_scored])
    words = describe_absorbers(absorbers).reindex(spectra["targetid"].values).fillna("").to_numpy(object, copy=True)
    words[~is_changed] = ""
    words[is_changed & ~is_scored] += f": fewer than {N_GOOD_MIN} pixels would be left, nothing is masked"
    return pd.DataFrame(
        {
            "targetid": spectra["targetid"].values,
            "score_unexplained": score,
            "rank_unexplained": rank,
            "explained_by": words.astype(str),
        }
    )


def _own(models, spectra, scale):
    """Return the scores and ranks of the spectra as they are; NaN and 0 where none can be given."""
    if "anomaly_score" in spectra.coords and "anomaly_rank" in spectra.coords:
        return spectra["anomaly_score"].values.copy(), spectra["anomaly_rank"].values.copy()
    redshift, n_good = spectra["redshift"].values, (spectra["ivar"].values > 0).sum(axis=1)
    is_scored = np.isfinite(redshift) & (redshift > -1) & (n_good >= N_GOOD_MIN)
    score, rank = np.full(len(redshift), np.nan, "float32"), np.zeros(len(redshift), "int32")
    if is_scored.any():
        score[is_scored] = _place(models, spectra.isel({OBJECT: is_scored}), scale)
        rank[is_scored] = scale.rank_of(score[is_scored])
    return score, rank


def _place(models, spectra, scale):
    raw = raw_scores(models, spectra).assign(redshift=spectra["redshift"].values)
    return place_on_scale(scale, raw)["anomaly_score"].to_numpy("float32")
