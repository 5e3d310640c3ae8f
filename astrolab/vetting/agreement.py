"""Do people agree with each other, and with themselves; what do they say together."""

from dataclasses import dataclass

import krippendorff
import numpy as np
import pandas as pd
from scipy.stats import binomtest

from astrolab.stores.catalog import LABELS, QUALITIES

_DOMAINS = {"label": (LABELS, "nominal"), "quality": (QUALITIES, "ordinal")}
N_BOOTSTRAP = 500


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha: 1 is perfect, 0 is chance, below 0 is worse than chance.

    Attributes
    ----------
    alpha, alpha_low, alpha_high : float
        With its 95 % bootstrap interval over objects; NaN where it cannot be known: fewer than two objects with two
        verdicts, or only one word said.
    n_objects, n_vetters : int
        Objects with verdicts of at least two people, and those people.
    """

    alpha: float
    alpha_low: float
    alpha_high: float
    n_objects: int
    n_vetters: int


def independent_verdicts(events):
    """Return what each person said of each object at first and on their own.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.

    Returns
    -------
    pandas.DataFrame
        The first verdict, not taken back, of each ``rater`` (the user; what was imported under a name is another
        rater than the user of that name) on each object; no repeats, no adjudications.
    """
    own = _standing(events)
    own = own[~own["is_repeat"] & ~own["is_adjudication"]]
    return own.drop_duplicates(["rater", "targetid", "survey"], keep="first")


def measure_agreement(events, of="label", seed=0):
    """Measure how much people agree beyond chance.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.
    of : {"label", "quality"}, optional
        The words (nominal), or DESI's quality (ordinal).
    seed : int, optional
        Of the bootstrap.

    Returns
    -------
    Agreement
        After Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    """
    domain, level = _DOMAINS[of]
    said = independent_verdicts(events)
    said = said[said[of].isin(domain)]
    counts = pd.crosstab([said["targetid"], said["survey"]], said[of]).reindex(columns=list(domain), fill_value=0)
    is_shared = counts.sum(axis=1) >= 2
    counts = counts[is_shared].to_numpy()
    shared = said.set_index(["targetid", "survey"]).index.isin(is_shared.index[is_shared])
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(counts), size=(N_BOOTSTRAP, len(counts))) if len(counts) >= 2 else []
    values = np.array([_alpha(counts[draw], domain, level) for draw in draws])
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
    alpha = _alpha(counts, domain, level) if len(counts) >= 2 else np.nan
    return Agreement(alpha, float(low), float(high), len(counts), int(said.loc[shared, "rater"].nunique()))


def confusion_matrix(events, one=None, other=None):
    """Count what two people said of the same objects.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.
    one, other : str, optional
        Two raters: rows are what `one` said, columns what `other` did. By default every ordered pair of people, which
        is symmetric.

    Returns
    -------
    pandas.DataFrame
        Labels by labels, counts.
    """
    said = independent_verdicts(events)
    said = said.loc[said["label"] != "", ["rater", "targetid", "survey", "label"]]
    pairs = said.merge(said, on=["targetid", "survey"], suffixes=("_one", "_other"))
    pairs = pairs[pairs["rater_one"] != pairs["rater_other"]]
    for name, rater in (("rater_one", one), ("rater_other", other)):
        pairs = pairs if rater is None else pairs[pairs[name] == rater]
    table = pd.crosstab(pairs["label_one"], pairs["label_other"])
    return table.reindex(index=list(LABELS), columns=list(LABELS), fill_value=0).astype("int64")


def self_consistency(events):
    """Count how often people say the same of an object that is shown to them again.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.

    Returns
    -------
    pandas.DataFrame
        One row a rater: n_repeats, n_same, and their share with its 95 % interval (Wilson 1927).
    """
    own = _standing(events)
    object_of_rater = ["rater", "targetid", "survey"]
    first = independent_verdicts(events)[[*object_of_rater, "label", "quality"]]
    again = own[own["is_repeat"]].drop_duplicates(object_of_rater, keep="last")
    both = again.merge(first, on=object_of_rater, suffixes=("", "_first"))
    is_same = (both["label"] == both["label_first"]) & (both["quality"].fillna(-1) == both["quality_first"].fillna(-1))
    rows = []
    for rater, same in is_same.groupby(both["rater"]):
        n_same, n_repeats = int(same.sum()), len(same)
        low, high = binomtest(n_same, n_repeats).proportion_ci(method="wilson")
        rows.append((rater, n_repeats, n_same, n_same / n_repeats, low, high))
    return pd.DataFrame(rows, columns=["rater", "n_repeats", "n_same", "share", "share_low", "share_high"])


def disagreements(events):
    """Return the objects of which people say different things, and which no lead has decided.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.

    Returns
    -------
    pandas.DataFrame
        targetid, survey, n_verdicts and said (such as ``"anomaly: vera, edwin; regular: ada"``); most verdicts first.
    """
    current = _current(events)
    rows = []
    for (targetid, survey), said in current.groupby(["targetid", "survey"]):
        if len(set(said["label"])) > 1 and not said["is_adjudication"].any():
            words = (f"{word}: {', '.join(raters)}" for word, raters in said.groupby("label")["rater"])
            rows.append((targetid, survey, len(said), "; ".join(words)))
    table = pd.DataFrame(rows, columns=["targetid", "survey", "n_verdicts", "said"]).astype({"targetid": "int64"})
    return table.sort_values("n_verdicts", ascending=False, kind="stable").reset_index(drop=True)


def consensus(events):
    """Return what people say of each object together.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns of one run.

    Returns
    -------
    dict
        targetid to label: a lead's decision where there is one, else the word of most people; ``""`` where as many say
        something else. ``"unsure"`` counts only where nobody says more.
    """
    current = _current(events)
    decided = current[current["is_adjudication"]].groupby("targetid")["label"].last()
    others = current[~current["targetid"].isin(decided.index)]
    is_unsure = others["label"] == "unsure"
    has_more = others["targetid"].isin(others.loc[~is_unsure, "targetid"])
    votes = others[~(is_unsure & has_more)].groupby(["targetid", "label"]).size()
    labels = dict.fromkeys(others["targetid"].tolist(), "")
    if len(votes):
        best = votes[votes == votes.groupby("targetid").transform("max")].reset_index()
        best = best.drop_duplicates("targetid", keep=False)
        labels |= dict(zip(best["targetid"].tolist(), best["label"], strict=True))
    return labels | dict(zip(decided.index.tolist(), decided, strict=True))


def _standing(events):
    """Return the verdicts that are not taken back, with who said them."""
    own = events[events["undoes"].isna() & ~events["is_undone"]]
    is_imported = own["imported_by"] != ""
    return own.assign(rater=own["user"].where(~is_imported, own["user"] + " (imported)"))


def _current(events):
    """Return the last word of each person on each object, and leads' decisions."""
    own = _standing(events)
    own = own[own["label"] != ""]
    return own.drop_duplicates(["rater", "targetid", "survey", "is_adjudication"], keep="last")


def _alpha(counts, domain, level):
    if np.count_nonzero(counts.sum(axis=0)) < 2:
        return np.nan  # only one word said: chance agreement is perfect too
    return float(krippendorff.alpha(value_counts=counts, value_domain=list(domain), level_of_measurement=level))
