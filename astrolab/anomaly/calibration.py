"""Calibration: how strange a score is among objects of like redshift, S/N and coverage."""

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import norm, rankdata

# Up to this many objects each is compared with its own peers; of a larger survey this many anchors are, and every
# object is compared with what the anchors around it say, so that the cost grows linearly.
_N_ANCHORS = 4_000
_N_REFERENCE = 40_000
_N_PEERS = 200
_N_AROUND = 4
_BATCH = 50_000


def peer_scores(values, matched, seed=0):
    """Express scores in robust standard deviations above those of each object's peers.

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
    numpy.ndarray, shape (object, n_score)
        ``(value - expected) / spread``: a plane fitted through the peers' scores (Cleveland 1979: local regression),
        and 1.4826 times their median absolute deviation from it; finite.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> snr = rng.uniform(1, 10, 1000)
    >>> score = 5 * snr + rng.normal(size=1000)
    >>> score[0] += 10
    >>> int(np.argmax(peer_scores(score[:, None], snr[:, None])[:, 0]))
    0
    """
    n_objects = len(values)
    if n_objects < 2:
        return np.zeros_like(values, dtype="float64")
    # normal scores of the ranks: no unit, no skewness, and still straight lines in the tails
    place = np.stack([norm.ppf(rankdata(column) / (n_objects + 1)) for column in matched.T], axis=1)
    if n_objects <= _N_ANCHORS:
        expected, _, spread = _fit_peers(place, values, np.arange(n_objects))
        return (values - expected) / spread
    rng = np.random.default_rng(seed)
    reference = np.sort(rng.choice(n_objects, min(_N_REFERENCE, n_objects), replace=False))
    anchors = np.sort(rng.choice(len(reference), _N_ANCHORS, replace=False))
    fits = _fit_peers(place[reference], values[reference], anchors)
    tree = cKDTree(place[reference[anchors]])
    batches = [slice(start, start + _BATCH) for start in range(0, n_objects, _BATCH)]
    return np.concatenate([_compare(place[rows], values[rows], tree, fits) for rows in batches])


def _fit_peers(place, values, rows):
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


def _compare(place, values, tree, fits):
    """Compare scores with the planes of the anchors around each object, the nearer the weightier."""
    distance, near = tree.query(place, k=_N_AROUND)
    weight = 1 / (distance + 1e-3)
    weight /= weight.sum(axis=1, keepdims=True)
    expected, slope, spread = (fit[near] for fit in fits)
    offset = place[:, None] - tree.data[near]  # (object, anchor, column)
    expected = expected + np.einsum("oac,oacs->oas", offset, slope)
    expected, spread = (np.einsum("oa,oas->os", weight, fit) for fit in (expected, spread))
    return (values - expected) / spread


def equal_tails(scores):
    """Bring scores with differently heavy upper tails onto one scale, so that their sum favours none.

    Parameters
    ----------
    scores : numpy.ndarray, shape (object, n_score)
        Calibrated scores, larger = stranger; finite.

    Returns
    -------
    numpy.ndarray, shape (object, n_score)
        Each score divided, above zero, such that a tenth of all objects is above 1.28 as for a normal distribution.
        That percentile is low enough not to be set by the anomalies themselves.
    """
    tail = np.maximum(np.percentile(scores, 90, axis=0) / norm.ppf(0.9), 0.5)
    return np.where(scores > 0, scores / tail, scores)


def _without_self(near, rows, n_peers):
    """Drop each object from its own peers, or the farthest where it is not among them."""
    is_self = near == rows[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    return near[~is_self].reshape(len(rows), n_peers)


def _spread(values):
    """Return the robust standard deviation and the median over the peers (axis 1)."""
    median = np.median(values, axis=1)
    return 1.4826 * np.median(np.abs(values - median[:, None]), axis=1), median
