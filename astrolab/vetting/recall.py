"""How many anomalies have not been found, estimated from the random audit sample, with an honest interval.

The Horvitz-Thompson estimate (Horvitz & Thompson 1952, JASA 47, 663): objects that were looked at because of their rank
stand for themselves; each audited object elsewhere stands for as many as its inclusion probability says.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

LEVEL = 0.95
GOAL = 0.95  # share of the anomalies that is enough


@dataclass(frozen=True)
class Recall:
    """What is known of the anomalies that were not found.

    Attributes
    ----------
    n_objects, n_vetted, n_found : int
        Objects offered, those with a verdict, and the anomalies among these.
    n_audited : int
        Objects of the audit sample, below the part of the ranking that is vetted without a gap, that the estimate
        rests on.
    n_remaining : float
        Estimated anomalies among the objects without a verdict; NaN while nothing is audited.
    n_remaining_low, n_remaining_high : int
        Its 95 % interval.
    recall, recall_low, recall_high : float
        Found anomalies as a share of all, with its interval; NaN where it is not known.
    hint : str
        Whether to stop.
    """

    n_objects: int
    n_vetted: int
    n_found: int
    n_audited: int
    n_remaining: float
    n_remaining_low: int
    n_remaining_high: int
    recall: float
    recall_low: float
    recall_high: float
    hint: str


def estimate_recall(offered, labels):
    """Estimate how many anomalies remain among the objects that nobody has looked at.

    Parameters
    ----------
    offered : pandas.DataFrame
        The objects of the run by rank, with ``targetid`` and ``audit_order``.
    labels : dict
        targetid to label, of every vetted object (empty where people disagree); only ``"anomaly"`` counts as one.

    Returns
    -------
    Recall
        The audit sample counts as far as it is looked at without a gap: where an object of it was skipped, those after
        it wait.

    Examples
    --------
    >>> import pandas as pd
    >>> order = pd.array([None] * 80 + list(range(1, 21)), "Int64")
    >>> offered = pd.DataFrame({"targetid": range(100), "audit_order": order})
    >>> found = estimate_recall(offered, {targetid: "regular" for targetid in range(20, 100)} | {0: "anomaly"})
    >>> found.n_vetted, found.n_found, found.n_remaining
    (81, 1, 0.0)
    """
    label = offered["targetid"].map(labels)
    is_vetted, is_anomaly = label.notna().to_numpy(), (label == "anomaly").to_numpy()
    # chosen before anybody looked: the vetted head of the ranking, whatever else was re-ranked since
    n_head = int(np.argmin(is_vetted)) if not is_vetted.all() else len(offered)
    order = offered["audit_order"].fillna(0).to_numpy("i8")[n_head:]
    is_vetted_below, is_anomaly_below = is_vetted[n_head:], is_anomaly[n_head:]
    sample = np.argsort(order, kind="stable")[np.sum(order == 0) :]
    gaps = np.flatnonzero(~is_vetted_below[sample])
    sample = sample[: gaps[0]] if len(gaps) else sample
    n_below, n_found_below = len(order), int(is_anomaly_below.sum())
    estimate, low, high = count_interval(n_below, len(sample), int(is_anomaly_below[sample].sum()))
    n_other = int(is_vetted_below.sum()) - n_found_below  # these are known to be none
    n_unvetted = n_below - n_found_below - n_other
    low, high = (int(np.clip(bound - n_found_below, 0, n_unvetted)) for bound in (low, high))
    n_remaining = float(np.clip(estimate - n_found_below, 0, n_unvetted)) if n_unvetted else 0.0
    return _recall(len(offered), int(is_vetted.sum()), int(is_anomaly.sum()), len(sample), n_remaining, low, high)


def count_interval(n_objects, n_sample, n_hits):
    """Estimate how many of some objects are hits, from a simple random sample without replacement.

    Parameters
    ----------
    n_objects, n_sample, n_hits : int or array of int
        Objects, those drawn, and the hits among the drawn ones; arrays estimate many samples at once.

    Returns
    -------
    estimate : float
        ``n_objects * n_hits / n_sample``; NaN where nothing was drawn.
    low, high : int
        The 95 % interval: mid-P inversion of the hypergeometric distribution, which covers close to that (the
        Clopper-Pearson interval, without the mid-P, covers more than it says).

    Examples
    --------
    >>> estimate, low, high = count_interval(1000, 100, 10)
    >>> float(estimate), int(low), int(high)
    (100.0, 55, 167)
    """
    n_objects, n_sample, n_hits = np.broadcast_arrays(n_objects, n_sample, n_hits)
    tail = (1 - LEVEL) / 2
    least, most = n_hits.astype("i8"), (n_objects - n_sample + n_hits).astype("i8")
    low = _bisect(lambda n: _tail(n_objects, n, n_sample, n_hits, above=True) > tail, least, most)
    high = _bisect(lambda n: _tail(n_objects, n, n_sample, n_hits, above=False) <= tail, least, most + 1) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        return n_objects * (n_hits / n_sample), low, np.maximum(high, low)


def _tail(n_objects, n, n_sample, n_hits, above):
    """Return the chance of more hits (or fewer) than were seen, half of that of as many included."""
    n = np.minimum(n, n_objects)
    at = hypergeom.pmf(n_hits, n_objects, n, n_sample)
    beyond = hypergeom.sf if above else hypergeom.cdf
    return beyond(n_hits if above else n_hits - 1, n_objects, n, n_sample) + at / 2


def _bisect(is_reached, low, high):
    """Return the least number in [low, high] at which a monotone condition holds, or high."""
    low, high = low.copy(), high.copy()
    while np.any(low < high):
        middle = (low + high) // 2
        is_here = is_reached(middle)
        high, low = np.where(is_here, middle, high), np.where(is_here | (low >= high), low, middle + 1)
    return low


def _recall(n_objects, n_vetted, n_found, n_audited, n_remaining, low, high):
    share, share_low, share_high = (
        n_found / (n_found + rest) if n_found + rest > 0 else np.nan for rest in (n_remaining, high, low)
    )
    n_unvetted = n_objects - n_vetted
    between = (
        f"between {low:,} and {high:,} of the {n_unvetted:,} objects without a verdict are anomalies ({LEVEL:.0%})"
    )
    if not n_unvetted:
        hint = "every object has a verdict."
    elif not n_audited:
        hint = "not known yet: nobody has reached a random object below the vetted part of the ranking; vet on."
    elif high == 0 or share_low >= GOAL:
        hint = f"{between}: at least {GOAL:.0%} are found, you may stop."
    else:
        hint = f"{between}: vet on."
    return Recall(n_objects, n_vetted, n_found, n_audited, n_remaining, low, high, share, share_low, share_high, hint)
