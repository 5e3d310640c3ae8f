"""Metrics of one ranked list, with bootstrap weights, and of two lists against each other.

A list is given best first. ``weight`` has shape (n_draw, n_object): how often each object stands in each bootstrap
sample (ones: the sample itself). An object of weight 3 stands for three objects at neighbouring places.
"""

import numpy as np
from sklearn.isotonic import IsotonicRegression

from astrolab.anomaly.diff import jaccard_at, rank_biased_overlap  # noqa: F401 metrics of two lists


def order(score, targetid):
    """Return the ranking: indices by falling score, equal scores by targetid, unscored (NaN) objects last.

    Parameters
    ----------
    score : numpy.ndarray, shape (n_object,)
        Larger = stranger.
    targetid : numpy.ndarray, shape (n_object,)
        Identifiers.

    Returns
    -------
    numpy.ndarray, shape (n_object,), int
    """
    return np.lexsort((targetid, -np.where(np.isnan(score), -np.inf, score)))


def recall_at(is_rare, weight=None, n=None):
    """Return the share of the rare objects that stand in the first n places.

    Parameters
    ----------
    is_rare : numpy.ndarray, shape (n_object,), bool
        In order of rank.
    weight : numpy.ndarray, shape (n_draw, n_object), optional
        Bootstrap weights in order of rank.
    n : float, optional
        Budget; by default the number P of rare objects in each draw.

    Returns
    -------
    numpy.ndarray, shape (n_draw,)
        NaN in a draw without rare objects. At N = P precision and recall are the same number.
    """
    weight = _weights(is_rare, weight)
    n_rare = (weight * is_rare).sum(axis=1)
    budget = n_rare if n is None else n
    return _divide(_found(is_rare, weight, budget), n_rare)


def precision_at(is_rare, weight=None, n=None):
    """Return the share of the first n places that rare objects take; arguments as for `recall_at`."""
    weight = _weights(is_rare, weight)
    budget = (weight * is_rare).sum(axis=1) if n is None else np.full(len(weight), float(n))
    return _divide(_found(is_rare, weight, budget), budget)


def enrichment_at(is_rare, weight=None, n=None):
    """Return precision over prevalence: how many times better than random; arguments as for `recall_at`."""
    weight = _weights(is_rare, weight)
    prevalence = (weight * is_rare).sum(axis=1) / weight.sum(axis=1)
    return _divide(precision_at(is_rare, weight, n), prevalence)


def rank_weighted_score(is_rare, weight=None):
    """Return the rank-weighted score: N = P, weights w_i = N + 1 - i, RWS = Σ w_i I_i / (N (N + 1) / 2).

    Roberts, Bassett & Lochner (2019, arXiv:1902.08627); arguments as for `recall_at`.
    """
    weight = _weights(is_rare, weight)
    n_rare = (weight * is_rare).sum(axis=1, keepdims=True)
    last = np.minimum(np.cumsum(weight, axis=1), n_rare)
    first = np.minimum(np.cumsum(weight, axis=1) - weight, n_rare)
    places = (last - first) * (n_rare + 1) - (last * (last + 1) - first * (first + 1)) / 2
    return _divide((places * is_rare).sum(axis=1), n_rare[:, 0] * (n_rare[:, 0] + 1) / 2)


def average_precision(is_rare, weight=None):
    """Return the mean over the rare objects of the precision at their places; arguments as for `recall_at`."""
    weight = _weights(is_rare, weight)
    own = weight * is_rare
    precision = np.cumsum(own, axis=1) / np.maximum(np.cumsum(weight, axis=1), 1e-12)
    return _divide((own * precision).sum(axis=1), own.sum(axis=1))


def class_coverage_at(classes, n):
    """Return the share of the rare classes of which at least one object stands in the first n places.

    Parameters
    ----------
    classes : numpy.ndarray, shape (n_object,), str
        Class in order of rank, '' for an ordinary object.
    n : int
        Budget.

    Returns
    -------
    float
    """
    known = set(classes) - {""}
    return len(set(classes[:n]) & known) / len(known) if known else np.nan


def dose_at_half(doses, recall):
    """Return S50: the dose at which half are found, between doses on a logarithmic scale.

    Parameters
    ----------
    doses : numpy.ndarray, shape (n_dose,)
        Increasing, above 0.
    recall : numpy.ndarray, shape (n_dose,)
        Share found; made monotonic first (isotonic regression).

    Returns
    -------
    float
        The lowest dose where half are found there already; infinity where half are found at none.
    """
    known = np.isfinite(recall)
    if not known.any():
        return np.nan
    log_dose = np.log(np.asarray(doses, float)[known])
    smooth = IsotonicRegression().fit_transform(log_dose, recall[known])
    if smooth[-1] < 0.5:
        return np.inf
    if smooth[0] >= 0.5:
        return float(np.exp(log_dose[0]))
    k = int(np.argmax(smooth >= 0.5))
    part = (0.5 - smooth[k - 1]) / (smooth[k] - smooth[k - 1])
    return float(np.exp(log_dose[k - 1] + part * (log_dose[k] - log_dose[k - 1])))


def bootstrap_weights(groups, n_draw, rng):
    """Draw a block bootstrap: whole groups (an object with its repeats), with replacement.

    Parameters
    ----------
    groups : numpy.ndarray, shape (n_object,)
        What an object belongs to.
    n_draw : int
        Bootstrap samples.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    numpy.ndarray, shape (n_draw, n_object)
        How often each object stands in each sample.
    """
    _, number = np.unique(groups, return_inverse=True)
    n_group = number.max() + 1
    counts = rng.multinomial(n_group, np.full(n_group, 1 / n_group), n_draw)
    return counts[:, number].astype(float)


def interval(value, draws):
    """Return a figure with its 95 % interval: ``{"value", "low", "high"}``; the ends are None where there is none.

    Parameters
    ----------
    value : float
        The figure of the sample itself.
    draws : numpy.ndarray, shape (n_draw,)
        The figure in each bootstrap sample; NaN where it is undefined.

    Returns
    -------
    dict
    """
    draws = np.asarray(draws, float)
    draws = draws[~np.isnan(draws)]
    value = None if value is None or np.isnan(value) else float(value)
    if len(draws) < 20:
        return {"value": value, "low": None, "high": None}
    # "lower": S50 may be infinite, and between a number and infinity there is nothing to interpolate
    low, high = np.quantile(draws, [0.025, 0.975], method="lower")
    return {"value": value, "low": float(low), "high": float(high)}


def _weights(is_rare, weight):
    return np.ones((1, len(is_rare))) if weight is None else weight


def _found(is_rare, weight, budget):
    """Return the weight of rare objects in the first `budget` places, a draw."""
    last = np.cumsum(weight, axis=1)
    inside = np.clip(np.reshape(budget, (-1, 1)) - (last - weight), 0, weight)
    return (inside * is_rare).sum(axis=1)


def _divide(top, bottom):
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=np.asarray(bottom) > 0)
