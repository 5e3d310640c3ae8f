"""Calibration: how strange a score is among objects of like redshift, S/N and coverage."""

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import norm, rankdata

# scores are compared with at most this many objects, so that the cost grows linearly with the survey
_N_REFERENCE = 20_000
_N_PEERS = 200
_BATCH = 20_000


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
    reference = np.arange(n_objects)
    if n_objects > _N_REFERENCE:
        reference = np.sort(np.random.default_rng(seed).choice(n_objects, _N_REFERENCE, replace=False))
    tree = cKDTree(place[reference])
    n_peers = min(len(reference) - 1, max(20, min(_N_PEERS, len(reference) // 10)))
    floor = 0.1 * _spread(values[reference].T)[0] + 1e-12  # (n_score,): no group of peers is infinitely uniform
    calibrated = np.empty(values.shape)
    for start in range(0, n_objects, _BATCH):
        rows = np.arange(start, min(start + _BATCH, n_objects))
        _, near = tree.query(place[rows], k=n_peers + 1)
        near = _without_self(reference[near], rows, n_peers)
        offset = place[near] - place[rows, None]  # (row, peer, column)
        for j in range(values.shape[1]):
            expected, spread = _local_fit(offset, values[near, j])
            calibrated[rows, j] = (values[rows, j] - expected) / np.maximum(spread, floor[j])
    return calibrated


def equal_tails(scores):
    """Bring scores with differently heavy upper tails onto one scale, so that their maximum favours none.

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


def _local_fit(offset, peers):
    """Fit a plane through the scores of the peers; return its value at the object and the spread around it.

    At the rim of the sample all peers lie on one side; their plain median would leave a trend there.
    """
    spread, median = _spread(peers)
    limit = 3 * spread[:, None]
    clipped = np.clip(peers - median[:, None], -limit, limit)  # an anomaly among the peers must not tilt the plane
    scale = np.sqrt((offset**2).mean(axis=1, keepdims=True)) + 1e-12
    design = np.concatenate([np.ones((*peers.shape, 1)), offset / scale], axis=2)  # (row, peer, 1 + column)
    normal = np.einsum("rpi,rpj->rij", design, design) + 1e-3 * peers.shape[1] * np.eye(design.shape[2])
    plane = np.linalg.solve(normal, np.einsum("rpi,rp->ri", design, clipped)[..., None])[..., 0]
    residual = peers - median[:, None] - np.einsum("rpi,ri->rp", design, plane)
    spread, middle = _spread(residual)
    return median + plane[:, 0] + middle, spread


def _without_self(near, rows, n_peers):
    """Drop each object from its own peers, or the farthest where it is not among them."""
    is_self = near == rows[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    return near[~is_self].reshape(len(rows), n_peers)


def _spread(values):
    """Return the robust standard deviation and the median along the last axis."""
    median = np.median(values, axis=-1)
    return 1.4826 * np.median(np.abs(values - median[..., None]), axis=-1), median
