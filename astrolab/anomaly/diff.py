"""What changed between two rankings: how alike they are, who entered and left the top, and why."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from astrolab.lines import SPEED_OF_LIGHT

# scores that only the strangest have, so that having one says where an object stood, not what it looks like
OF_THE_SHORTLIST = ("score_best_redshift", "score_unexplained")

# changes smaller than these are not named
_VELOCITY_MIN = 30.0  # km/s
_RATIO_MIN = 0.02  # of S/N and of the number of good pixels
_NEGLIGIBLE = 1e-16  # weight of the places that rank-biased overlap need not look at


@dataclass(frozen=True)
class RankingDiff:
    """What `compare_rankings` found.

    Attributes
    ----------
    n_top : int
        Places that count as the top.
    n_a, n_b, n_common : int
        Objects ranked in A, in B, in both.
    rank_biased_overlap : float
        Of the whole rankings, p = 0.99: the first 100 places carry most of the weight; 1 = identical.
    jaccard : float
        Objects in both tops over objects in either.
    spearman : float
        Correlation of the ranks of the common objects; NaN of fewer than two.
    table : pandas.DataFrame
        One row an object in either top: ``targetid``; ``change``, one of ``"entered"``, ``"left"``, ``"stayed"``;
        ``rank_a``, ``rank_b`` (Int64, missing where it is not ranked), ``score_a``, ``score_b``; ``why``, in words, of
        those that entered or left. Those that entered first, then those that left, then the rest, each by rank.
    causes : tuple of str
        What else differs between the two, such as parameters of two runs.
    """

    n_top: int
    n_a: int
    n_b: int
    n_common: int
    rank_biased_overlap: float
    jaccard: float
    spearman: float
    table: pd.DataFrame
    causes: tuple = ()


def compare_rankings(a, b, *, n_top=100, not_ranked_a=None, not_ranked_b=None, causes=()):
    """Compare two rankings.

    Parameters
    ----------
    a, b : pandas.DataFrame
        Rankings as `score_anomalies` gives them, in any order: ``targetid``, ``anomaly_rank``, ``anomaly_score``; of
        the other columns redshift, ``snr`` (or ``snr_rest``), ``n_good`` and ``score_*`` serve to say why.
    n_top : int, optional
        Places that count as the top.
    not_ranked_a, not_ranked_b : pandas.DataFrame, optional
        ``targetid`` and ``reason`` of the objects that have no place, to tell them from those that are not there.
    causes : sequence of str, optional
        What else differs, for `RankingDiff.causes`.

    Returns
    -------
    RankingDiff
        Overlap, and for each object that entered or left the top the reason in words: whether it is new or no longer
        ranked; a redshift that changed by more than 30 km/s, S/N or number of good pixels by more than 2 %; and the
        score that moved most in the direction of its rank, in robust standard deviations of that score in A.

    Raises
    ------
    ValueError
        If a ranking lacks a column, is empty or has an object twice, no object is in both, or `n_top` is below 1.

    Examples
    --------
    >>> a = pd.DataFrame({"targetid": [1, 2, 3], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 5.0, 1.0]})
    >>> b = pd.DataFrame({"targetid": [1, 3, 4], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 4.0, 1.0]})
    >>> diff = compare_rankings(a, b, n_top=2)
    >>> diff.table[["targetid", "change", "why"]].to_numpy().tolist()[:2]
    [[3, 'entered', 'anomaly_score rose from 1 to 4'], [2, 'left', 'not among the objects of B']]
    >>> round(diff.jaccard, 3)
    0.333
    """
    if n_top < 1:
        raise ValueError(f"n_top is {n_top}, expected at least 1.")
    a, b = _by_rank(a, "A"), _by_rank(b, "B")
    common = a.index.intersection(b.index)
    if common.empty:
        raise ValueError(
            f"no object is in both rankings ({len(a):,} in A, {len(b):,} in B), expected common targetids."
        )
    ranks = [one["anomaly_rank"].reindex(common).to_numpy() for one in (a, b)]
    first, second = a.index.tolist(), b.index.tolist()
    return RankingDiff(
        n_top=n_top,
        n_a=len(a),
        n_b=len(b),
        n_common=len(common),
        rank_biased_overlap=float(rank_biased_overlap(first, second)),
        jaccard=jaccard_at(first, second, n_top),
        spearman=float(spearmanr(*ranks).statistic) if len(common) > 1 else float("nan"),
        table=_changes(a, b, n_top, {"A": _reasons(not_ranked_a), "B": _reasons(not_ranked_b)}),
        causes=tuple(causes),
    )


def rank_biased_overlap(first, second, p=0.99):
    """Return the extrapolated rank-biased overlap of two rankings: 1 when identical, 0 when they share nothing.

    Webber, Moffat & Zobel (2010, ACM TOIS 28, 20), equation 23, to the depth of the shorter list; places that weigh
    less than 1e-16 together are not looked at.

    Parameters
    ----------
    first, second : sequence
        Identifiers, strangest first, each once.
    p : float, optional
        Persistence, between 0 and 1: the first 1 / (1 - p) places carry most of the weight.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a ranking is empty or `p` is not between 0 and 1.

    Examples
    --------
    >>> round(rank_biased_overlap([1, 2], [2, 1], p=0.9), 6)
    0.9
    """
    if not 0 < p < 1:
        raise ValueError(f"p is {p}, expected a number between 0 and 1.")
    depth = min(len(first), len(second), int(np.ceil(np.log(_NEGLIGIBLE) / np.log(p))))
    if depth == 0:
        raise ValueError("a ranking is empty, expected at least one object in each.")
    seen, overlap, total = set(), 0, 0.0
    for d, (one, two) in enumerate(zip(first[:depth], second[:depth], strict=True), start=1):
        for identifier in (one, two):  # an identifier counts when both lists have shown it
            overlap += identifier in seen
            seen.add(identifier)
        total += p ** (d - 1) * overlap / d
    return (1 - p) * total + p**depth * overlap / depth


def jaccard_at(first, second, n):
    """Return how many of the first n places two rankings share, over their union.

    Parameters
    ----------
    first, second : sequence
        Identifiers, strangest first.
    n : int
        Places.

    Returns
    -------
    float

    Examples
    --------
    >>> jaccard_at([1, 2, 3], [2, 3, 4], 3)
    0.5
    """
    one, two = set(first[:n]), set(second[:n])
    return len(one & two) / len(one | two)


def _by_rank(ranking, name):
    """Return a ranking sorted by rank, indexed by targetid."""
    missing = [column for column in ("targetid", "anomaly_rank", "anomaly_score") if column not in ranking]
    if missing:
        raise ValueError(f"ranking {name} has no column {missing[0]!r}, expected what score_anomalies(…) gives.")
    if ranking.empty:
        raise ValueError(f"ranking {name} is empty, expected at least one object.")
    twice = ranking["targetid"][ranking["targetid"].duplicated()]
    if len(twice):
        raise ValueError(f"targetid {twice.iloc[0]} stands twice in ranking {name}, expected every object once.")
    return ranking.sort_values(["anomaly_rank", "targetid"]).set_index("targetid")


def _reasons(not_ranked):
    return {} if not_ranked is None else dict(zip(not_ranked["targetid"], not_ranked["reason"], strict=True))


def _changes(a, b, n_top, not_ranked):
    """Return one row an object in either top: those that entered, those that left, those that stayed."""
    top_a, top_b = a.index[:n_top], b.index[:n_top]
    parts = {
        "entered": top_b.difference(top_a, sort=False),
        "left": top_a.difference(top_b, sort=False),
        "stayed": top_b.intersection(top_a, sort=False),
    }
    targetid = np.concatenate(list(parts.values()))
    change = np.repeat(list(parts), [len(part) for part in parts.values()])
    columns = {"targetid": targetid, "change": change}
    for name, one in (("a", a), ("b", b)):
        columns[f"rank_{name}"] = one["anomaly_rank"].reindex(targetid).astype("Int64").array
        columns[f"score_{name}"] = one["anomaly_score"].reindex(targetid).to_numpy()
    scores = [name for name in a if name in b and name.startswith("score_") and a[name].dtype.kind == "f"]
    scores = [name for name in scores if name not in OF_THE_SHORTLIST]
    spread = {name: _spread(a[name]) for name in scores or ["anomaly_score"]}
    why = [
        "" if kind == "stayed" else _why(key, kind, a, b, spread, not_ranked)
        for key, kind in zip(targetid, change, strict=True)
    ]
    table = pd.DataFrame(columns | {"why": np.array(why, dtype=object)})
    return table[["targetid", "change", "rank_a", "rank_b", "score_a", "score_b", "why"]]


def _spread(values):
    """Return the robust standard deviation, never 0."""
    values = values[np.isfinite(values)]
    return 1.4826 * float((values - values.median()).abs().median()) or float(values.std(ddof=0)) or 1.0


def _why(key, kind, a, b, spread, not_ranked):
    """Return why an object entered or left, in words."""
    for name, one, word in (("A", a, "new: "), ("B", b, "")):
        if key not in one.index:
            if key in not_ranked[name]:
                return f"not ranked in {name}: {not_ranked[name][key]}"
            return f"{word}not among the objects of {name}"
    before, after = a.loc[key], b.loc[key]
    return "; ".join([*_measured(before, after), _moved(kind, before, after, spread)])


def _measured(before, after):
    """Return what is measured differently: redshift, S/N, coverage."""
    words = []
    if "redshift" in before and "redshift" in after:
        one, two = before["redshift"], after["redshift"]
        if SPEED_OF_LIGHT * abs(two - one) > _VELOCITY_MIN * (1 + one):
            words.append(f"redshift changed from {one:.4f} to {two:.4f}")
    for names, what in ((("snr", "snr_rest"), "S/N"), (("n_good",), "good pixels")):
        name = next((name for name in names if name in before and name in after), None)
        if name and abs(after[name] - before[name]) > _RATIO_MIN * abs(before[name]):
            words.append(f"{what} changed from {before[name]:.4g} to {after[name]:.4g}")
    return words


def _moved(kind, before, after, spread):
    """Return which score moved most in the direction of the rank."""
    sign, verb, others = (1, "rose", "fell below it") if kind == "entered" else (-1, "fell", "rose above it")
    moves = {name: sign * (after[name] - before[name]) / width for name, width in spread.items()}
    name = max(moves, key=lambda name: np.nan_to_num(moves[name], nan=-np.inf))
    if moves[name] > 0:
        return f"{name} {verb} from {before[name]:.3g} to {after[name]:.3g}"
    return f"no score of its own {verb}: others {others}"
