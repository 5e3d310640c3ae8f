"""Calibration: how strange a score is among objects of like redshift, S/N and coverage."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.spatial import cKDTree
from scipy.stats import norm

# Up to this many objects each is compared with its own peers; of a larger survey this many anchors are, and every
# object is compared with what the anchors around it say, so that the cost grows linearly.
_N_ANCHORS = 4_000
_N_REFERENCE = 40_000
_N_PEERS = 200
_N_AROUND = 4
_N_AT_ONCE = 500
_N_QUANTILES = 4_001


@dataclass(frozen=True)
class Peers:
    """What scores are expected to be, as a function of redshift, S/N and coverage; from `PeerGroups.fit`.

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


class PeerGroups:
    """Who is compared with whom: the same for every score of the same objects, and so found once.

    The peers are the nearest objects in the columns of `matched`, each turned into normal scores first. A raw score
    that grows with S/N or redshift for every object alike comes out without that trend.

    Parameters
    ----------
    matched : numpy.ndarray, shape (object, n_column)
        What peers must have in common, such as redshift, S/N and number of good pixels; finite.
    seed : int, optional
        Seed of the reference sample that a large survey is compared with.

    Attributes
    ----------
    quantiles, place : numpy.ndarray
        As in `Peers`.
    """

    def __init__(self, matched, seed=0):
        n_objects = len(matched)
        self.quantiles = column_quantiles(matched)
        place = normal_scores(self.quantiles, matched)
        rng = np.random.default_rng(seed)
        self._reference = anchors = np.arange(n_objects)
        if n_objects > _N_ANCHORS:
            self._reference = np.sort(rng.choice(n_objects, min(_N_REFERENCE, n_objects), replace=False))
            anchors = np.sort(rng.choice(len(self._reference), _N_ANCHORS, replace=False))
        self._place = place[self._reference]
        self.place, self._near = self._place[anchors], _nearest_peers(self._place, anchors)

    def fit(self, values):
        """Learn what scores are expected of an object, from its peers.

        Parameters
        ----------
        values : numpy.ndarray, shape (object, n_score)
            Raw scores, larger = stranger; finite.

        Returns
        -------
        Peers
            For `compare_with_peers`, also with other objects than these.
        """
        values = np.asarray(values, "float64")[self._reference]
        if len(values) < 2:
            flat = np.zeros((*self.place.shape, values.shape[1]))
            return Peers(self.quantiles, self.place, values, np.ones_like(values), flat)
        floor = 0.1 * _spread(values[None])[0] + 1e-12  # no group of peers is infinitely uniform
        planes = []
        for start in range(0, len(self._near), _N_AT_ONCE):
            near, anchor = (some[start : start + _N_AT_ONCE] for some in (self._near, self.place))
            planes.append(_fit_plane(values[near], self._place[near] - anchor[:, None]))
        expected, slope, spread = (np.concatenate(parts) for parts in zip(*planes, strict=True))
        return Peers(self.quantiles, self.place, expected, np.maximum(spread, floor), slope)


class Anchors:
    """Which anchors are around each object, and what each has to say: the same for every score, and so found once.

    Parameters
    ----------
    peers : Peers or PeerGroups
        Whose anchors.
    matched : numpy.ndarray, shape (object, n_column)
        As for `PeerGroups`; of the objects that those were found among, or of others.

    Attributes
    ----------
    place : numpy.ndarray, shape (object, n_column)
        Normal scores of the objects.
    near, weight : numpy.ndarray, shape (object, n_around)
        Which anchors, and their shares.
    """

    def __init__(self, peers, matched):
        self.place, tree = normal_scores(peers.quantiles, matched), cKDTree(peers.place)
        n_around = min(_N_AROUND, tree.n)
        distance, near = tree.query(self.place, k=n_around, workers=-1)
        distance, near = distance.reshape(-1, n_around), near.reshape(-1, n_around)
        weight = 1 / (distance + 1e-3)
        # an anchor is compared with its own peers alone, also where its S/N was summed up in another order
        weight[distance[:, 0] < 1e-4, 1:] = 0
        weight /= weight.sum(axis=1, keepdims=True)
        self.near, self.weight = near.astype("int32"), weight


def compare_with_peers(peers, values, anchors):
    """Compare scores with the planes of the anchors around each object, the nearer the weightier.

    Parameters
    ----------
    peers : Peers
        From `PeerGroups.fit`.
    values : numpy.ndarray, shape (object, n_score)
        Of the objects that the peers were fitted on, or of others.
    anchors : Anchors
        Around these objects.

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
    >>> groups = PeerGroups(snr)
    >>> int(np.argmax(compare_with_peers(groups.fit(score), score, Anchors(groups, snr))))
    0
    """
    values = np.ascontiguousarray(values, "float64")
    compared = np.empty_like(values)
    fitted = peers.place, peers.expected, peers.spread, peers.slope
    _compare(anchors.place, values, anchors.near, anchors.weight, *fitted, compared)
    return compared


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


def _nearest_peers(place, rows):
    """Return the peers of each row, the row itself left out."""
    n_peers = min(len(place) - 1, max(20, min(_N_PEERS, len(place) // 10)))
    if n_peers < 1:
        return np.empty((len(rows), 0), "int64")
    _, near = cKDTree(place).query(place[rows], k=n_peers + 1, workers=-1)
    return _without_self(near, rows, n_peers)


def _fit_plane(peers, offset):
    """Fit scores, shape (row, peer, score), as planes in the columns of the offsets, shape (row, peer, column).

    At the rim of the sample all peers lie on one side; their plain median would leave a trend there.
    """
    spread, median = _spread(peers)
    limit = 3 * spread[:, None]
    clipped = np.clip(peers - median[:, None], -limit, limit)  # an anomaly among the peers must not tilt the plane
    scale = np.sqrt((offset**2).mean(axis=1, keepdims=True)) + 1e-12
    design = np.concatenate([np.ones((*offset.shape[:2], 1)), offset / scale], axis=2)  # (row, peer, 1 + column)
    across = design.transpose(0, 2, 1)
    ridge = 1e-3 * peers.shape[1] * np.eye(design.shape[2])
    plane = np.linalg.solve(across @ design + ridge, across @ clipped)
    spread, middle = _spread(peers - median[:, None] - design @ plane)
    return median + plane[:, 0] + middle, plane[:, 1:] / scale.transpose(0, 2, 1), spread


@njit(nogil=True, cache=True, error_model="numpy")
def _compare(place, values, near, weight, anchor, expected, spread, slope, compared):
    """Fill ``(value - expected) / spread``, both averaged over the anchors around."""
    n_score = values.shape[1]
    of_value, of_spread = np.empty(n_score), np.empty(n_score)
    for i in range(len(place)):
        of_value[:], of_spread[:] = 0.0, 0.0
        for a in range(near.shape[1]):
            k, share = near[i, a], weight[i, a]
            for j in range(n_score):
                of_value[j] += share * expected[k, j]
                of_spread[j] += share * spread[k, j]
            for c in range(place.shape[1]):
                offset = share * (place[i, c] - anchor[k, c])
                for j in range(n_score):
                    of_value[j] += offset * slope[k, c, j]
        for j in range(n_score):
            compared[i, j] = (values[i, j] - of_value[j]) / of_spread[j]


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
        left, right = (np.searchsorted(ordered, column, side) for side in ("left", "right"))
        rank = 0.5 * (left + right + 1)
        # between two quantiles of a large survey there are objects too
        low, high = np.clip(right - 1, 0, n - 1), np.clip(left, 0, n - 1)
        width = ordered[high] - ordered[low]
        share = np.divide(column - ordered[low], width, out=np.zeros(len(column)), where=width > 0)
        rank = np.where(width > 0, low + 1 + share, rank)
        places.append(norm.ppf(np.clip(rank, 0.5, n + 0.5) / (n + 1)))
    return np.stack(places, axis=1)


def robust_fit(terms, values):
    """Fit terms and a constant to the values of most objects: biweight (Beaton & Tukey 1974); a few do not count.

    Parameters
    ----------
    terms : numpy.ndarray, shape (object, n_term)
        Terms.
    values : numpy.ndarray, shape (object,)
        Finite.

    Returns
    -------
    numpy.ndarray, shape (n_term + 1,)
        Coefficients, the last of them the constant; NaN where there are fewer than three objects for each.
    """
    design = np.column_stack([terms, np.ones(len(terms))])
    if len(values) < 3 * design.shape[1]:
        return np.full(design.shape[1], np.nan)
    weight = np.ones(len(values))
    for _ in range(20):
        root = np.sqrt(weight)
        fitted = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        residual = values - design @ fitted
        residual -= np.median(residual)
        far = residual / (3 * 1.4826 * np.median(np.abs(residual)) + 1e-9)
        weight = np.where(np.abs(far) < 1, (1 - far**2) ** 2, 1e-6)
    return fitted


def _without_self(near, rows, n_peers):
    """Drop each object from its own peers, or the farthest where it is not among them."""
    is_self = near == rows[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    return near[~is_self].reshape(len(rows), n_peers)


def _spread(values):
    """Return the robust standard deviation and the median over the peers (axis 1)."""
    median = np.median(values, axis=1)
    return 1.4826 * np.median(np.abs(values - median[:, None]), axis=1), median
