"""Re-ranking by what people said: an active forest learns from their labels, and the static ranking is its prior."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from coniferest.aadforest import AADForest
from coniferest.label import Label
from coniferest.pineforest import PineForest
from scipy.special import ndtri
from scipy.stats import rankdata

from astrolab.anomaly.diff import OF_THE_SHORTLIST
from astrolab.schema import OBJECT, check_targetid
from astrolab.stores.catalog import LABELS

# what a person's word counts as; an artefact is nothing that the science ranking should bring up
_MEANING = {
    "anomaly": Label.ANOMALY,
    "regular": Label.REGULAR,
    "artefact": Label.REGULAR,
    "unsure": Label.UNKNOWN,
}
# labels at which the forest weighs as much as the static ranking
_N_EVEN = 10
_N_TREES = 100
_N_SUBSAMPLES = 256  # objects a tree is grown from
_N_FIT = 20_000  # objects the trees are drawn from, and the labels are fitted among
_N_NAMED = 5
# features, by the beginning of their name
_AS_THEY_ARE = ("score_", "artefact_", "z_", "latent_")
_OF_DECADES = ("band_", "trough_", "chi2")


def rerank(ranked, labels, *, method="aad", seed=0, n_jobs=-1):
    """Rank again, by what people said of some objects.

    A forest of isolation trees over `rerank_features` learns from the labels: its leaves are weighted such that
    anomalies lie above regular objects (``"aad"``: active anomaly discovery, Das et al. 2017, arXiv:1708.09441), or
    its worst trees are felled (``"pine"``: PineForest). What it says and what the static ranking says, both as normal
    scores (quantiles of a normal distribution at their ranks), are averaged; the forest's weight is n / (10 + n) after
    n labels, where n = 2 √(anomalies × regular objects): with labels of one kind alone there is nothing to learn, and
    a few wrong ones move little.

    Parameters
    ----------
    ranked : pandas.DataFrame or xarray.Dataset
        What `score_anomalies` or `rank_anomalies` gave, or a run's ``ranking.parquet``; every row once.
    labels : dict or pandas.DataFrame
        ``targetid`` to label, or a table with columns ``targetid`` and ``label``, such as the current verdicts of a
        catalog. Labels are ``"anomaly"``, ``"regular"``, ``"artefact"``, which counts as regular, and ``"unsure"``,
        which counts for nothing. An object may have several labels that mean the same.
    method : {"aad", "pine"}, optional
        The forest.
    seed : int, optional
        Seed of the forest; the same seed gives the same ranking whatever the order of the rows.
    n_jobs : int, optional
        Threads; -1 takes all cores.

    Returns
    -------
    pandas.DataFrame or xarray.Dataset
        What was given, sorted anew (equal scores by targetid), its columns untouched, with ``anomaly_score_reranked``
        (larger = stranger, in standard deviations of a normal distribution; never NaN),
        ``anomaly_rank_reranked`` (int32, 1 = strangest) and ``label`` (what was said, '' of the others). Without
        labels that count it is the static ranking.

    Raises
    ------
    ValueError
        If `method` or a label is unknown, an object is not in the ranking, labels contradict each other, or the
        ranking lacks a column or has an object twice. The sentence names the objects.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> ranking = pd.DataFrame({"targetid": np.arange(300), "latent_0": rng.normal(size=300)})
    >>> ranking["anomaly_score"] = np.abs(ranking["latent_0"])  # both tails are strange; a person wants the lower one
    >>> said = {target: "anomaly" if x < 0 else "regular" for target, x in ranking["latent_0"].head(30).items()}
    >>> again = rerank(ranking, said)
    >>> bool((again["latent_0"].head(5) < 0).all())
    True
    """
    if method not in _FORESTS:
        raise ValueError(f"method is {method!r}, expected one of: {', '.join(_FORESTS)}.")
    table = _as_table(ranked)
    targetid = table["targetid"].to_numpy()
    known = _check_labels(labels, targetid)
    order = np.argsort(targetid, kind="stable")
    rows = order[np.searchsorted(targetid, known["targetid"].to_numpy(), sorter=order)]
    meaning = known["label"].map(_MEANING).to_numpy(int)
    counts = meaning != Label.UNKNOWN
    score = _blend(table, order, rows[counts], meaning[counts], _FORESTS[method], seed, n_jobs)
    place = np.lexsort((targetid, -score))
    words = np.full(len(table), "", dtype=object)
    words[rows] = known["label"].to_numpy()
    columns = {
        "anomaly_score_reranked": score[place],
        "anomaly_rank_reranked": np.arange(1, len(table) + 1, dtype="int32"),
        "label": words[place],
    }
    if isinstance(ranked, xr.Dataset):
        return ranked.isel({OBJECT: place}).assign_coords({name: (OBJECT, values) for name, values in columns.items()})
    return ranked.iloc[place].reset_index(drop=True).assign(**columns)


def rerank_features(ranking):
    """Return what the forests learn from.

    Columns are found by name, so that a score of tomorrow counts too: ``score_*``, ``*_score``, ``artefact_*``,
    ``z_*`` (lines against the survey's) and ``latent_*`` as they are; ``band_*``, ``trough_*`` and ``chi2``, which
    span decades, as ``sign(x) ln(1 + |x|)``. Redshift, S/N and coverage are left out: a ranking that is matched in
    them should not learn to follow them.

    Parameters
    ----------
    ranking : pandas.DataFrame
        One row an object, as `score_anomalies` gives it.

    Returns
    -------
    features : numpy.ndarray, shape (object, n_feature), float32
        Finite: where a column has no number, its median stands, which says neither ordinary nor strange.
    names : list of str
        The columns.

    Examples
    --------
    >>> ranking = pd.DataFrame({"targetid": [1, 2], "anomaly_score": [2.0, 1.0], "band_sigma": [-1.0, 0.0]})
    >>> features, names = rerank_features(ranking)
    >>> names
    ['anomaly_score', 'band_sigma']
    >>> features.round(2)
    array([[ 2.  , -0.69],
           [ 1.  ,  0.  ]], dtype=float32)
    """
    numbers = ranking.select_dtypes("number")
    names = [name for name in numbers if _is_feature(name)]
    features = np.empty((len(ranking), len(names)), "float32")
    for j, name in enumerate(names):
        column = numbers[name].to_numpy("float32", na_value=np.nan)
        if name.startswith(_OF_DECADES):
            column = np.sign(column) * np.log1p(np.abs(column))
        good = np.isfinite(column)
        if not good.all():
            column = np.where(good, column, np.median(column[good]) if good.any() else 0)
        features[:, j] = column
    return features, names


def _is_feature(name):
    is_named = name.startswith((*_AS_THEY_ARE, *_OF_DECADES)) or name.endswith("_score")
    return is_named and name not in OF_THE_SHORTLIST


def _as_table(ranked):
    """Return targetid and everything that may be a feature, as a table."""
    if isinstance(ranked, xr.Dataset):
        columns = {name: one.values for name, one in ranked.coords.items() if one.dims == (OBJECT,)}
        if "latent" in ranked:
            columns |= {f"latent_{i}": column for i, column in enumerate(ranked["latent"].values.T)}
        ranked = pd.DataFrame(columns)
    missing = [name for name in ("targetid", "anomaly_score") if name not in ranked]
    if missing:
        raise ValueError(f"the ranking has no column {missing[0]!r}, expected what score_anomalies(…) gives.")
    if not np.isfinite(ranked["anomaly_score"].to_numpy("float64", na_value=np.nan)).all():
        raise ValueError(
            "an anomaly_score of the ranking is not a finite number, expected what score_anomalies(…) gives."
        )
    if ranked["targetid"].duplicated().any():
        twice = ranked["targetid"][ranked["targetid"].duplicated()].unique()
        raise ValueError(f"{_named(twice)} stand more than once in the ranking, expected every object once.")
    return ranked


def _check_labels(labels, targetid):
    """Return one row a labelled object: targetid, label."""
    if isinstance(labels, Mapping):
        labels = pd.DataFrame({"targetid": list(labels), "label": pd.Series(list(labels.values()), dtype=object)})
    missing = [name for name in ("targetid", "label") if name not in labels]
    if missing:
        raise ValueError(f"the labels have no column {missing[0]!r}, expected targetid and label.")
    known = labels[["targetid", "label"]].reset_index(drop=True)
    check_targetid(known["targetid"], "labels")
    is_word = known["label"].isin(LABELS)
    if not is_word.all():
        words = ", ".join(repr(word) for word in known["label"][~is_word].unique()[:_N_NAMED])
        ids = _named(known["targetid"][~is_word])
        raise ValueError(f"{words} is no label ({ids}), expected one of: {', '.join(LABELS)}.")
    unknown = known["targetid"][~known["targetid"].isin(targetid)]
    if len(unknown):
        raise ValueError(f"{_named(unknown.unique())} are labelled and not in the ranking; leave these labels out.")
    counted = known[known["label"] != "unsure"]
    meanings = counted["label"].map(_MEANING).groupby(counted["targetid"]).nunique()
    if (meanings > 1).any():
        raise ValueError(
            f"the labels of {_named(meanings.index[meanings > 1])} contradict each other, expected one opinion of each."
        )
    # of words that mean the same the first in the order of LABELS, whatever the order of the rows
    known = known.assign(order=known["label"].map(list(LABELS).index)).sort_values(["targetid", "order"])
    return known.drop_duplicates("targetid").astype({"targetid": targetid.dtype})


def _named(targetids):
    names = [str(targetid) for targetid in targetids]
    listed = ", ".join(names[:_N_NAMED])
    return f"targetid {listed}" + (f" and others ({len(names)} in all)" if len(names) > _N_NAMED else "")


def _blend(table, order, rows, meaning, forest, seed, n_jobs):
    """Return the new score of each object; what is random goes by `order`, that of targetid, and not by the rows'."""
    static = _normal_scores(table["anomaly_score"].to_numpy())
    n_anomaly = int((meaning == Label.ANOMALY).sum())
    n_learned = 2 * np.sqrt(n_anomaly * (len(meaning) - n_anomaly))
    if n_learned == 0:
        return static
    features = rerank_features(table)[0]
    drawn = order[np.random.default_rng(seed).permutation(len(order))[:_N_FIT]]
    learned = forest(features[drawn], features[rows], meaning, seed, n_jobs)
    weight = n_learned / (_N_EVEN + n_learned)
    # coniferest's scores are smaller for stranger objects
    return (1 - weight) * static + weight * _normal_scores(-learned(features))


def _normal_scores(score):
    return ndtri((rankdata(score) - 0.5) / len(score))


def _fit_aad(features, known, meaning, seed, n_jobs):
    """Weight the leaves; with no prior of its own, for the static ranking is the prior."""
    forest = AADForest(
        n_trees=_N_TREES, n_subsamples=min(_N_SUBSAMPLES, len(features)), prior_influence=0.0, **_same(seed, n_jobs)
    )
    return forest.fit_known(features, known, meaning).score_samples


def _fit_pine(features, known, meaning, seed, n_jobs):
    """Keep a fifth of the trees, those that put the known anomalies nearest to the root."""
    forest = PineForest(
        n_trees=_N_TREES,
        n_spare_trees=4 * _N_TREES,
        n_subsamples=min(_N_SUBSAMPLES, len(features)),
        **_same(seed, n_jobs),
    )
    return forest.fit_known(features, known, meaning).score_samples


def _same(seed, n_jobs):
    return {"random_seed": seed, "n_jobs": n_jobs}


_FORESTS = {"aad": _fit_aad, "pine": _fit_pine}
