"""Calibration: how strange a score is among objects of like redshift, S/N and coverage."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import norm

# Up to this many objects each is compared with its own peers; of a larger survey this many anchors are, and every
# object is compared with what the anchors around it say, so that the cost grows linearly.
_N_ANCHORS = 4_000
_N_REFERENCE = 40_000
_N_PEERS = 200
_N_AROUND = 4
_BATCH = 50_000
_N_QUANTILES = 4_001


@dataclass(frozen=True)
class Peers:
    """What scores are expected to be, as a function of redshift, S/N and coverage; from `fit_peers`.

    Attributes
    ----------
    quantiles : numpy.ndarray, shape (n_column, n_quantile)
        Sorted values of each matched column, which turn a value into a normal score.
    place : numpy.ndarray, shape (anchor, n_column)
        Normal scores of the anchors.
    expected, spread : numpy.ndarray, shape (anchor, n_score)
        A plane through the peers' scores, at the anchor, and their scatter about it.
    slope : numpy.ndarray, shape (anchor, n_column, n_score)
        How the plane is tilted.
    """

    quantiles: np.ndarray
    place: np.ndarray
    expected: np.ndarray
    spread: np.ndarray
    slope: np.ndarray


def fit_peers(values, matched, seed=0):
    """Learn what scores are expected of an object, from its peers.

    The peers are the nearest objects in the columns of `matched`, each turned into normal scores first. A raw score
    that grows with S/N or redshift for every object alike comes out without that trend.

    Parameters
    ----------
    values : numpy.ndarray, shape (object, n_score)
        Raw scores, larger = stranger; finite.
    matched : numpy.ndarray, shape (object, n_column)
        What peers must have in common, such as redshift, S/N and number of good pixels; finite.
    seed : int, optional
        Seed of the reference sample that a large survey is compared with.

    Returns
    -------
    Peers
        For `compare_with_peers`, also with other objects than these.
    """
    values = np.asarray(values, "float64")
    n_objects = len(values)
    quantiles = column_quantiles(matched)
    place = normal_scores(quantiles, matched)
    if n_objects < 2:
        flat = np.zeros((n_objects, matched.shape[1], values.shape[1]))
        return Peers(quantiles, place, values, np.ones_like(values), flat)
    rng = np.random.default_rng(seed)
    reference = anchors = np.arange(n_objects)
    if n_objects > _N_ANCHORS:
        reference = np.sort(rng.choice(n_objects, min(_N_REFERENCE, n_objects), replace=False))
        anchors = np.sort(rng.choice(len(reference), _N_ANCHORS, replace=False))
    expected, slope, spread = _fit_planes(place[reference], values[reference], anchors)
    return Peers(quantiles, place[reference[anchors]], expected, spread, slope)


def compare_with_peers(peers, values, matched):
    """Compare scores with the planes of the anchors around each object, the nearer the weightier.

    Parameters
    ----------
    peers : Peers
        From `fit_peers`.
    values, matched : numpy.ndarray, shape (object, n_score), (object, n_column)
        As for `fit_peers`; of the objects that the peers were fitted on, or of others.

    Returns
    -------
    numpy.ndarray, shape (object, n_score)
        ``(value - expected) / spread``: a plane fitted through the peers' scores (Cleveland 1979: local regression),
        and 1.4826 times their median absolute deviation from it; finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> snr = rng.uniform(1, 10, (1000, 1))
    >>> score = 5 * snr + rng.normal(size=(1000, 1))
    >>> score[0] += 10
    >>> int(np.argmax(compare_with_peers(fit_peers(score, snr), score, snr)))
    0
    """
    place, tree = normal_scores(peers.quantiles, matched), cKDTree(peers.place)
    batches = [slice(start, start + _BATCH) for start in range(0, len(values), _BATCH)]
    compared = [_compare(place[rows], np.asarray(values)[rows], tree, peers) for rows in batches]
    return np.concatenate(compared) if compared else np.empty(np.shape(values))


def upper_tails(scores):
    """Return by what to divide scores with differently heavy upper tails, so that their sum favours none.

    Parameters
    ----------
    scores : numpy.ndarray, shape (object, n_score)
        Calibrated scores, larger = stranger; finite.

    Returns
    -------
    numpy.ndarray, shape (n_score,)
        Divided by it, a tenth of all objects is above 1.28, as for a normal distribution. That percentile is low enough
        not to be set by the anomalies themselves.
    """
    return np.maximum(np.percentile(scores, 90, axis=0) / norm.ppf(0.9), 0.5)


def equal_tails(scores, tails=None):
    """Divide what is above zero by `upper_tails`.

    Parameters
    ----------
    scores : numpy.ndarray, shape (object, n_score)
        Calibrated scores.
    tails : numpy.ndarray, shape (n_score,), optional
        From `upper_tails`; by default those of these scores.

    Returns
    -------
    numpy.ndarray, shape (object, n_score)
    """
    return np.where(scores > 0, scores / (upper_tails(scores) if tails is None else tails), scores)


def _fit_planes(place, values, rows):
    """Fit a plane through the scores of each row's peers: its value at the row, its slope, the spread around it.

    At the rim of the sample all peers lie on one side; their plain median would leave a trend there.
    """
    n_peers = min(len(place) - 1, max(20, min(_N_PEERS, len(place) // 10)))
    _, near = cKDTree(place).query(place[rows], k=n_peers + 1)
    near = _without_self(near, rows, n_peers)
    peers = values[near]  # (row, peer, score)
    spread, median = _spread(peers)
    limit = 3 * spread[:, None]
    clipped = np.clip(peers - median[:, None], -limit, limit)  # an anomaly among the peers must not tilt the plane
    offset = place[near] - place[rows, None]  # (row, peer, column)
    scale = np.sqrt((offset**2).mean(axis=1, keepdims=True)) + 1e-12
    design = np.concatenate([np.ones((*near.shape, 1)), offset / scale], axis=2)  # (row, peer, 1 + column)
    across = design.transpose(0, 2, 1)
    plane = np.linalg.solve(across @ design + 1e-3 * n_peers * np.eye(design.shape[2]), across @ clipped)
    spread, middle = _spread(peers - median[:, None] - design @ plane)
    floor = 0.1 * _spread(values[None])[0] + 1e-12  # no group of peers is infinitely uniform
    return median + plane[:, 0] + middle, plane[:, 1:] / scale.transpose(0, 2, 1), np.maximum(spread, floor)


def _compare(place, values, tree, peers):
    n_around = min(_N_AROUND, len(peers.place))
    distance, near = tree.query(place, k=n_around)
    distance, near = distance.reshape(len(place), n_around), near.reshape(len(place), n_around)
    weight = 1 / (distance + 1e-3)
    # an anchor is compared with its own peers alone, also where its S/N was summed up in another order
    weight[distance[:, 0] < 1e-4, 1:] = 0
    weight /= weight.sum(axis=1, keepdims=True)
    offset = place[:, None] - tree.data[near]  # (object, anchor, column)
    expected = peers.expected[near] + np.einsum("oac,oacs->oas", offset, peers.slope[near])
    expected, spread = (np.einsum("oa,oas->os", weight, fit) for fit in (expected, peers.spread[near]))
    return (values - expected) / spread


def column_quantiles(matched):
    """Return sorted values of each column, all of them or some thousand.

    Parameters
    ----------
    matched : numpy.ndarray, shape (object, n_column)
        Finite.

    Returns
    -------
    numpy.ndarray, shape (n_column, n_quantile)
        For `normal_scores`.
    """
    ordered = np.sort(np.asarray(matched, "float64"), axis=0)
    rows = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), _N_QUANTILES)).round().astype(int))
    return np.ascontiguousarray(ordered[rows].T)


def normal_scores(quantiles, matched):
    """Turn values into normal scores of their ranks: no unit, no skewness, and still straight lines in the tails.

    Parameters
    ----------
    quantiles : numpy.ndarray, shape (n_column, n_quantile)
        From `column_quantiles`, of these objects or of those they are compared with.
    matched : numpy.ndarray, shape (object, n_column)
        Values.

    Returns
    -------
    numpy.ndarray, shape (object, n_column)
    """
    matched, n = np.asarray(matched, "float64"), quantiles.shape[1]
    places = []
    for ordered, column in zip(quantiles, matched.T, strict=True):
        rank = 0.5 * (np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right") + 1)
        # between two quantiles of a large survey there are objects too
        low, high = np.searchsorted(ordered, column, "right") - 1, np.searchsorted(ordered, column, "left")
        low, high = np.clip(low, 0, n - 1), np.clip(high, 0, n - 1)
        width = ordered[high] - ordered[low]
        share = np.divide(column - ordered[low], width, out=np.zeros(len(column)), where=width > 0)
        rank = np.where(width > 0, low + 1 + share, rank)
        places.append(norm.ppf(np.clip(rank, 0.5, n + 0.5) / (n + 1)))
    return np.stack(places, axis=1)


def _without_self(near, rows, n_peers):
    """Drop each object from its own peers, or the farthest where it is not among them."""
    is_self = near == rows[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    return near[~is_self].reshape(len(rows), n_peers)


def _spread(values):
    """Return the robust standard deviation and the median over the peers (axis 1)."""
    median = np.median(values, axis=1)
    return 1.4826 * np.median(np.abs(values - median[:, None]), axis=1), median
