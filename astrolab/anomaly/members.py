"""What each model of an ensemble calls ordinary, and how strange an object is to it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from dask.system import CPU_COUNT
from scipy.spatial import cKDTree

from astrolab.anomaly.artefacts import ARTEFACT_SCORES
from astrolab.anomaly.calibration import (
    Anchors,
    PeerGroups,
    Peers,
    compare_with_peers,
    equal_tails,
    robust_fit,
    upper_tails,
)
from astrolab.anomaly.classes import class_score
from astrolab.anomaly.combination import PEER_SCORES
from astrolab.anomaly.scores import TROUGH_WIDTHS, member_table

# what a model says of an object, as columns of `_raw_values`
N_RAW = 4 + len(TROUGH_WIDTHS) + len(ARTEFACT_SCORES)
# latent vectors that others are compared with, and how many of the nearest
_N_LATENT = 10_000
_N_NEAREST = 10
_BATCH = 50_000
_SNR_MIN = 0.3  # below that a spectrum tells nothing


@dataclass(frozen=True)
class MemberScale:
    """What one model of an ensemble calls ordinary.

    Attributes
    ----------
    latent : numpy.ndarray, shape (reference, n_latent)
        Latent vectors of some thousand objects, each dimension divided by its spread.
    latent_spread : numpy.ndarray, shape (n_latent,)
        That spread.
    peers : Peers
        Of every single score.
    tails : numpy.ndarray, shape (n_score,)
        From `upper_tails`.
    shipped : numpy.ndarray, shape (3,)
        By how much the shipped model explains most objects worse than this one does, in ln χ²: coefficients of ln S/N,
        of its square, and the constant. NaN where nobody asked the shipped model.
    """

    latent: np.ndarray
    latent_spread: np.ndarray
    peers: Peers
    tails: np.ndarray
    shipped: np.ndarray


def _latent(table):
    return table[[name for name in table if name.startswith("latent_")]].to_numpy("float64")


def fit_members(table, matched, shape, seed=0):
    """Learn what each model calls ordinary.

    Parameters
    ----------
    table : pandas.DataFrame
        From `raw_scores`.
    matched : numpy.ndarray, shape (object, n_column)
        What peers must have in common.
    shape : pandas.DataFrame
        From `shape_scores`.
    seed : int, optional
        Seed of the reference samples of a large survey.

    Returns
    -------
    members : tuple of MemberScale
    single : list of numpy.ndarray, shape (object, n_score), float32
        What `member_scores` gives of the same objects.
    """
    groups = PeerGroups(matched, seed)
    anchors = Anchors(groups, matched)

    def fit_member(i):
        one = member_table(table, i)
        latent, spread = _reference_latent(_latent(one), seed)
        raw, shipped = _raw_values(one, shape, latent, spread), _fit_shipped(one)
        peers, of_class = groups.fit(raw), _class_score(one, shipped)
        compared = compare_with_peers(peers, raw, anchors)
        tails = upper_tails(compared)
        return MemberScale(latent, spread, peers, tails, shipped), _single_scores(compared, tails, of_class)

    members, single = zip(*_for_each(fit_member, range(_n_members(table))), strict=True)
    return members, list(single)


def member_scores(members, table, matched, shape):
    """Say how strange objects are to each model.

    Parameters
    ----------
    members : sequence of MemberScale
        From `fit_members`.
    table, matched, shape
        As for `fit_members`; of the same objects or of others.

    Returns
    -------
    list of numpy.ndarray, shape (object, n_score), float32
        Columns ``SCORES`` and ``ARTEFACT_SCORES``, in sigma above peers but for ``score_class``.
    """
    anchors = Anchors(members[0].peers, matched)

    def score_member(i):
        one, member = member_table(table, i), members[i]
        raw = _raw_values(one, shape, member.latent, member.latent_spread)
        compared = compare_with_peers(member.peers, raw, anchors)
        return _single_scores(compared, member.tails, _class_score(one, member.shipped))

    return list(_for_each(score_member, range(len(members))))


def _for_each(function, members):
    """Call the function for each member on as many threads as there are processors: compiled code does the work."""
    with ThreadPoolExecutor(CPU_COUNT) as pool:
        yield from pool.map(function, members)


def _reference_latent(latent, seed):
    """Return latent vectors that others are compared with, and the spread by which each dimension is divided."""
    if len(latent) > _N_LATENT:
        latent = latent[np.sort(np.random.default_rng(seed).choice(len(latent), _N_LATENT, replace=False))]
    # a latent dimension that the model does not use has next to no spread, and must not count
    spread = np.maximum(latent.std(axis=0), 0.1)
    return latent / spread, spread


def _fit_shipped(table):
    """Learn by how much the shipped model explains most objects worse than the survey's, which grows with their S/N."""
    worse = (table["log_chi2_shipped"] - table["log_chi2_model"]).to_numpy("float64")
    is_known = np.isfinite(worse)
    return robust_fit(_snr_terms(table)[is_known], worse[is_known])


def _class_score(table, shipped):
    """Say by how much another class explains objects better than both this model and the shipped one.

    A model that a survey with many stars has taught explains stars as well as anything does. The shipped one was taught
    quasars alone: what it explains worse than most objects of that S/N, the survey has taught.
    """
    expected = np.column_stack([_snr_terms(table), np.ones(len(table))]) @ shipped
    of_model = np.fmax(table["log_chi2_model"], table["log_chi2_shipped"] - expected)
    return class_score(of_model, table["log_chi2_class"])[:, None]


def _snr_terms(table):
    log_snr = np.log(np.maximum(table["snr_rest"].to_numpy("float64"), _SNR_MIN))
    return np.column_stack([log_snr, log_snr**2])


def _single_scores(compared, tails, of_class):
    calibrated = equal_tails(compared, tails)
    of_model, troughs, rest = np.split(calibrated, [1, 1 + len(TROUGH_WIDTHS)], axis=1)
    by_peers, artefacts = np.split(rest, [len(PEER_SCORES) - 2], axis=1)
    parts = [of_model, troughs.max(axis=1, keepdims=True), by_peers, of_class, artefacts]
    return np.concatenate(parts, axis=1, dtype="float32", casting="same_kind")


def _raw_values(table, shape, reference, spread):
    """Return the raw score of each kind, larger = stranger: χ², troughs of each width, shape, latent, artefacts."""
    troughs = [np.log1p(table[f"trough_{width}"]) for width in TROUGH_WIDTHS]
    columns = [table["log_chi2"], *troughs, shape["weak_lines"], shape["bent_continuum"]]
    columns.append(_isolation(_latent(table) / spread, reference))
    return np.column_stack([*columns, *(table[name] for name in ARTEFACT_SCORES)]).astype("float64")


def _isolation(latent, reference):
    """Return ln of the mean distance to the nearest vectors of the reference other than the object's own."""
    n_nearest = min(_N_NEAREST, len(reference) - 1)
    if n_nearest < 1:
        return np.zeros(len(latent))
    # with 8 to 32 dimensions, leaves of 128 vectors take a third less time than the usual 16
    tree, isolation = cKDTree(reference, leafsize=128), np.empty(len(latent))
    for start in range(0, len(latent), _BATCH):
        rows = slice(start, start + _BATCH)
        distance, _ = tree.query(latent[rows], k=n_nearest + 1, workers=-1)
        is_own = distance[:, :1] < 1e-3  # rounding differs from batch to batch
        isolation[rows] = np.where(is_own, distance[:, 1:], distance[:, :-1]).mean(axis=1)
    return np.log(isolation + 1e-3)


def _n_members(table):
    return sum(name.split(".")[-1] == "log_chi2" for name in table)
