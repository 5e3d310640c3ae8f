"""The scale of a survey: what turns raw scores into ones that mean the same at every redshift, S/N and coverage.

It is learned from the survey once; any other spectrum, or the same with some pixels left out, can then be placed on it.
"""

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from scipy.stats import false_discovery_control

from astrolab.anomaly.artefacts import ARTEFACT_SCORES, FAULT_SCORE, SHARED_SCORES
from astrolab.anomaly.calibration import Peers, column_quantiles, normal_scores, robust_fit
from astrolab.anomaly.combination import (
    PIXEL_SCORES,
    SCORES,
    fault_score,
    length,
    pixel_scores,
    science_score,
    strangeness,
)
from astrolab.anomaly.conformal import Cells, conformal_p_values, fit_cells
from astrolab.anomaly.members import N_RAW, MemberScale, fit_members, member_scores
from astrolab.anomaly.scores import TROUGH_WIDTHS, member_table
from astrolab.anomaly.shape import LINE_WINDOWS, fit_shape, shape_scores
from astrolab.anomaly.shared import count_places, shared_excess
from astrolab.stores.publish import write_whole

# a trough or a spike is counted as one from here on, in sigma above peers; a dip in sigma of its own
_IS_FEATURE, _IS_DIP = 1.5, 3.5
# bins of 250 km/s on either side within which they are at one place: troughs and spikes, and better placed dips
_REACHES = (6, 6, 2)


@dataclass(frozen=True)
class Scale:
    """What is ordinary in a survey; from `fit_scale`.

    Attributes
    ----------
    ordinary : dict of str to numpy.ndarray
        From `fit_shape`.
    members : tuple of MemberScale
        One a model.
    shared : numpy.ndarray, shape (3, n_layer, n_bin)
        From `count_places`: troughs, spikes and dips.
    trend_place : numpy.ndarray, shape (n_column, n_quantile)
        From `column_quantiles`.
    trend : numpy.ndarray, shape (n_term,)
        What the combined score still owes to redshift, S/N and coverage.
    cells : Cells
        Scores of the reference, for p-values.
    sorted_score : numpy.ndarray, shape (object,)
        Every ranked object's anomaly_score, falling: the rank that another score would have.
    """

    ordinary: dict
    members: tuple
    shared: np.ndarray
    trend_place: np.ndarray
    trend: np.ndarray
    cells: Cells
    sorted_score: np.ndarray

    def rank_of(self, anomaly_score):
        """Return the rank, in the survey, that scores would have.

        Parameters
        ----------
        anomaly_score : array-like
            On this scale.

        Returns
        -------
        numpy.ndarray of int
            1 = above every object.
        """
        return 1 + np.searchsorted(-self.sorted_score, -np.asarray(anomaly_score, "float64"), side="left")


def fit_scale(table, *, is_reference=None, seed=0):
    """Learn the scale of a survey from the raw scores of its objects, and express them on it.

    Parameters
    ----------
    table : pandas.DataFrame
        From `raw_scores`, with a column ``redshift``; finite.
    is_reference : numpy.ndarray, shape (object,), bool, optional
        Objects that p-values are drawn among; by default all. Leave out what is known to be strange.
    seed : int, optional
        Seed of the reference samples of a large survey.

    Returns
    -------
    scale : Scale
    placed : pandas.DataFrame
        What `place_on_scale` gives of the same objects, with the same reference.
    """
    ordinary = fit_shape(table)
    shape = shape_scores(table, ordinary)
    members, single = fit_members(table, _matched(table), shape, seed)
    mean = sum(single) / len(single)
    shared = np.array([count_places(*feature) for feature in _features(table, mean)])
    score = science_score(table, mean, _shared_scores(shared, table, mean))
    trend_place = column_quantiles(_matched(table))
    terms = _trend_terms(trend_place, table)
    # what is explained better as something else says nothing about quasars, and often lies at redshifts of its own
    is_quasar = mean[:, SCORES.index("score_class")] <= 0
    # too few to tell a trend from chance have none
    trend = np.nan_to_num(robust_fit(terms[is_quasar], score[is_quasar])[:-1])
    score = score - terms @ trend
    chosen = np.ones(len(table), bool) if is_reference is None else np.asarray(is_reference, bool)
    if not chosen.any():
        raise ValueError("is_reference leaves no object that can be ranked, expected some to draw p-values among.")
    cells = fit_cells(score[chosen], _matched(table)[chosen])
    scale = Scale(ordinary, members, shared, trend_place, trend, cells, -np.sort(-score))
    return scale, _place(scale, table, shape, single, chosen)


def place_on_scale(scale, table, *, is_reference=None):
    """Express raw scores on the scale of a survey.

    Parameters
    ----------
    scale : Scale
        Of the same models.
    table : pandas.DataFrame
        From `raw_scores`, with a column ``redshift``; finite.
    is_reference : numpy.ndarray, shape (object,), bool, optional
        Which of these objects, if they are those the scale was learned from, its p-values are drawn among; by default
        they are others.

    Returns
    -------
    pandas.DataFrame
        ``anomaly_score``; what it is made of: ``raw_score`` with its parts ``SCORES``, and ``artefact_score`` with its
        parts ``ARTEFACT_SCORES``, ``SHARED_SCORES``, ``PIXEL_SCORES`` and ``FAULT_SCORE``; parts in robust sigma above
        peers, but for ``score_class`` (`class_score`, not below 0) and the three last kinds, wholes their length;
        ``p_value`` (conformal) and ``q_value`` (Benjamini & Hochberg 1995, over this table), both of anomaly_score;
        ``z_<line>`` (each line's strength against the ordinary, sigma); with several models also ``score_<i>``, each
        one's own opinion.
    """
    shape = shape_scores(table, scale.ordinary)
    is_member = np.zeros(len(table), bool) if is_reference is None else is_reference
    return _place(scale, table, shape, member_scores(scale.members, table, _matched(table), shape), is_member)


def _place(scale, table, shape, single, is_member):
    """Do what `place_on_scale` does, from the scores that each model gives."""
    mean = sum(single) / len(single)
    matched = _matched(table)
    shared = _shared_scores(scale.shared, table, mean)
    columns = [*SCORES, *ARTEFACT_SCORES, *SHARED_SCORES, *PIXEL_SCORES]
    parts = np.concatenate([mean, shared, pixel_scores(table)], axis=1)
    result = pd.DataFrame(parts, columns=columns, index=table.index)
    result["score_class"] = result["score_class"].clip(lower=0)
    trend = _trend_terms(scale.trend_place, table) @ scale.trend
    score = science_score(table, mean, shared) - trend
    result[FAULT_SCORE] = fault_score(table)
    artefact = length(result[[*columns[len(SCORES) :], FAULT_SCORE]].to_numpy())
    wholes = {"anomaly_score": score, "raw_score": strangeness(mean), "artefact_score": artefact}
    for place, (name, column) in enumerate(wholes.items()):
        result.insert(place, name, column)
    result["p_value"] = conformal_p_values(scale.cells, score, matched, is_member)
    result["q_value"] = false_discovery_control(result["p_value"]) if len(result) else result["p_value"]
    if len(single) > 1:
        for i, one in enumerate(single):
            result[f"score_{i}"] = science_score(table, one, shared) - trend
    return result.join(shape[[f"z_{name}" for name in LINE_WINDOWS]])


def save_scale(scale, path):
    """Save a scale as one safetensors file.

    Parameters
    ----------
    scale : Scale
        From `fit_scale`.
    path : path-like
        File to write: whole, or not at all.

    Examples
    --------
    >>> import tempfile, astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> scale = al.score_anomalies(al.VAE(n_wavelength=100), rest).scale
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     al.save_scale(scale, f"{folder}/scale.safetensors")
    ...     len(al.load_scale(f"{folder}/scale.safetensors").members)
    1
    """
    write_whole(path, save({name: np.ascontiguousarray(array) for name, array in _flatten("", scale)}))


def load_scale(path):
    """Load what `save_scale` saved.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    Scale

    Raises
    ------
    ValueError
        If the file does not hold a scale, or one of another version.

    Examples
    --------
    >>> import astrolab as al
    >>> scale = al.load_scale("runs/2026-11-01/scale.safetensors")  # doctest: +SKIP
    >>> model = al.load_model("runs/2026-11-01/model")  # doctest: +SKIP
    >>> al.score_anomalies(model, new_spectra, scale=scale)  # doctest: +SKIP
    """
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"'{path}' is no scale, or a damaged one ({error}); expected what save_scale wrote."
        ) from error
    n_members = len({name.split(".")[1] for name in arrays if name.startswith("members.")})

    def part(kind, prefix):
        return kind(**{field.name: arrays[f"{prefix}.{field.name}"] for field in fields(kind)})

    try:
        if any(arrays[f"members.{i}.tails"].shape != (N_RAW,) for i in range(n_members)):
            raise ValueError(
                f"'{path}' was made by another version of AstroLab, which measured other things; rank its survey again."
            )
        members = tuple(
            MemberScale(
                peers=part(Peers, f"members.{i}.peers"),
                **{name: arrays[f"members.{i}.{name}"] for name in ("latent", "latent_spread", "tails", "shipped")},
            )
            for i in range(n_members)
        )
        ordinary = {name.split(".")[1]: array for name, array in arrays.items() if name.startswith("ordinary.")}
        rest = (arrays[name] for name in ("shared", "trend_place", "trend"))
        return Scale(ordinary, members, *rest, part(Cells, "cells"), arrays["sorted_score"])
    except KeyError as error:
        raise ValueError(f"'{path}' is no scale: it has no {error}; expected what save_scale wrote.") from error


def _flatten(prefix, value):
    """Yield name and array of everything that a scale holds."""
    if isinstance(value, np.ndarray):
        yield prefix[1:], value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _flatten(f"{prefix}.{name}", part)
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from _flatten(f"{prefix}.{i}", part)
    else:
        for field in fields(value):
            yield from _flatten(f"{prefix}.{field.name}", getattr(value, field.name))


def _matched(table):
    return table[["redshift", "snr_rest", "n_good"]].to_numpy("float64")


def _features(table, mean):
    """Return observed wavelength, redshift and significance of each object's deepest trough, spike and dip."""
    names = [*SCORES, *ARTEFACT_SCORES]
    table = member_table(table)
    redshift = table["redshift"].to_numpy("float64")
    trough_at = table[f"trough_at_{TROUGH_WIDTHS[1]}"].to_numpy("float64") * (1 + redshift)
    spike_at, dip_at = (table[name].to_numpy("float64") for name in ("spike_at", "dip_at"))
    return [
        (trough_at, redshift, mean[:, names.index("score_trough")] > _IS_FEATURE),
        (spike_at, redshift, mean[:, names.index("artefact_spike")] > _IS_FEATURE),
        (dip_at, redshift, table["dip_power"].to_numpy() > _IS_DIP),
    ]


def _shared_scores(counts, table, mean):
    features = zip(counts, _features(table, mean), _REACHES, strict=True)
    return np.stack([shared_excess(count, *feature, reach) for count, feature, reach in features], axis=1)


def _trend_terms(quantiles, table):
    """Return the terms of a parabola in the normal scores of redshift, S/N and coverage, shape (object, n_term)."""
    place = normal_scores(quantiles, _matched(table))
    return np.column_stack([place, place**2 - 1])
