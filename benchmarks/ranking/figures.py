"""Figures with their intervals, from the ranked lists: real and injected apart, each a row of one long table."""

from itertools import combinations

import numpy as np
from scipy.stats import kstest, rankdata

from benchmarks.ranking import metrics
from benchmarks.ranking.data import ARTEFACT, RARE, kind_of
from benchmarks.ranking.families import ASTRO
from benchmarks.ranking.protocol import CONTROL, middle_dose

MIN_OBJECTS = 5  # of a class; below that no figure is given
BUDGETS = (50, 100, 200, 500)
_N_ARTEFACT = 50

_METRICS = {
    "recall@P": metrics.recall_at,
    "RWS": metrics.rank_weighted_score,
    "average precision": metrics.average_precision,
    "enrichment@P": metrics.enrichment_at,
}


class _Draws:
    """Bootstrap weights of the objects of the sample, the same for every list and ranker: so differences are paired."""

    def __init__(self, lists, n_draw, seed):
        self.groups = np.unique(np.concatenate([one.group for one in lists]))
        weights = metrics.bootstrap_weights(self.groups, n_draw, np.random.default_rng(seed))
        self.weights = np.vstack([np.ones(len(self.groups)), weights])  # row 0: the sample itself

    def of(self, group):
        return self.weights[:, np.searchsorted(self.groups, group)]


def all_figures(lists, families, *, label="real", n_draw=200, seed=0):
    """Measure everything.

    Parameters
    ----------
    lists : list of RankedList
        As `protocol.score_everything` gives them. The first ranker is compared with every other.
    families : sequence of Family
        Injections that were made.
    label : str, optional
        ``"real"`` or ``"simulated"``: what the spectra were.
    n_draw : int, optional
        Bootstrap samples.
    seed : int, optional
        Seed of the bootstrap.

    Returns
    -------
    list of dict
        Rows with ``table`` (real or injected; simulated likewise), ``metric``, ``subject`` (class or family),
        ``ranker``, ``value``, ``low``, ``high`` (95 % interval, block bootstrap over objects), ``n``, ``prevalence``;
        rows of metric ``difference: …`` hold the first ranker minus the ranker named.
    """
    draws = _Draws(lists, n_draw, seed)
    real = {one.name[1]: one for one in lists if one.name[0] == "real"}
    seeds = [real[seed] for seed in sorted(real)]
    rows = _real_rows(seeds, draws) + _bias_rows(seeds, draws) + _stability_rows(real)
    rows += _uniformity_rows(next((one for one in lists if one.name[2:3] == (CONTROL,)), real[0]))
    for row in rows:
        row["table"] = label
    injected = _injected_rows(lists, families, draws)
    mixed = _mixed_rows([one for one in lists if one.name[0] == "mixed"], draws, families)
    for row in injected + mixed:
        row["table"] = f"injected into {label}"
    return rows + injected + mixed


def place(one, ranker):
    """Return the fractional place of each object in its fold's ranking: 0 = strangest, 1 = most ordinary.

    Parameters
    ----------
    one : RankedList
        Scored list.
    ranker : str
        Whose ranking.

    Returns
    -------
    numpy.ndarray, shape (n_object,)
    """
    result = np.empty(len(one.targetid))
    for fold in np.unique(one.fold):
        rows = np.flatnonzero(one.fold == fold)
        ranked = metrics.order(one.score[ranker][rows], one.targetid[rows])
        result[rows[ranked]] = (np.arange(len(rows)) + 0.5) / len(rows)
    return result


def _row(metric, subject, ranker, values, **more):
    """Make a row of the value (first) and its bootstrap draws (the others)."""
    return {"metric": metric, "subject": subject, "ranker": ranker, **metrics.interval(values[0], values[1:]), **more}


def _differences(metric, subject, values, **more):
    """Compare the first ranker with each other one, draw by draw."""
    first = next(iter(values))
    return [
        _row(f"difference: {metric}", subject, other, values[first] - values[other], first=first, **more)
        for other in values
        if other != first
    ]


def _real_rows(seeds, draws):
    """Measure each class among the ordinary alone; the mean over the seeds of each ranker."""
    one = seeds[0]
    rows, by_class = [], {}
    weight = draws.of(one.group)
    for ranker in one.score:
        orders = [np.lexsort((one.targetid, place(of_seed, ranker))) for of_seed in seeds]
        for name in sorted(set(one.truth) - {""}):
            is_among = (one.truth == "") | (one.truth == name)  # the other classes are taken out of the list
            among = [order[is_among[order]] for order in orders]
            n = len(np.unique(one.group[one.truth == name]))
            more = {"n": n, "prevalence": float((one.truth[is_among] == name).mean()), "kind": kind_of(name)}
            if n < MIN_OBJECTS:
                rows.append({"metric": "recall@P", "subject": name, "ranker": ranker, "value": None, "low": None,
                             "high": None, "note": "too small to say", **more})  # fmt: skip
                continue
            for metric, function in _METRICS.items():
                values = _mean([function(one.truth[ranked] == name, weight[:, ranked]) for ranked in among])
                rows.append(_row(metric, name, ranker, values, **more))
                if kind_of(name) == RARE and metric in ("recall@P", "RWS", "average precision"):
                    by_class.setdefault(metric, {}).setdefault(ranker, []).append(values)
        rows += _budget_rows(one.truth, orders, weight, ranker)
    for metric, values in by_class.items():
        macro = {ranker: _mean(of_class) for ranker, of_class in values.items()}
        rows += [_row(metric, "macro over rare classes", ranker, value) for ranker, value in macro.items()]
        rows += _differences(metric, "macro over rare classes", macro)
    return rows


def _budget_rows(truth, orders, weight, ranker):
    """Measure fixed budgets on the whole list: everything rare against everything else."""
    kinds = np.array([kind_of(name) for name in truth])
    is_rare, is_artefact = kinds == RARE, kinds == ARTEFACT
    budgets = {str(n): n for n in BUDGETS if n < len(truth)}
    budgets |= {f"{share:.1%}": round(share * len(truth)) for share in (0.005, 0.01) if share * len(truth) >= 1}
    among_rare, among_artefacts = ({"n": int(is_rare.sum()), "prevalence": float(is_rare.mean())},
                                   {"prevalence": float(is_artefact.mean())})  # fmt: skip
    rows = []

    def add(metric, subject, function, which, budget, **more):
        values = _mean([function(which[order], weight[:, order], budget) for order in orders])
        rows.append(_row(metric, subject, ranker, values, **more))

    for text, n in budgets.items():
        add(f"recall@{text}", "all rare", metrics.recall_at, is_rare, n, **among_rare)
        add(f"precision@{text}", "all rare", metrics.precision_at, is_rare, n, **among_rare)
        add(f"enrichment@{text}", "all rare", metrics.enrichment_at, is_rare, n, **among_rare)
        add(f"artefact fraction@{text}", "sky fibres", metrics.precision_at, is_artefact, n, **among_artefacts)
        covered = np.mean([metrics.class_coverage_at(np.where(is_rare, truth, "")[order], n) for order in orders])
        rows.append(_row(f"class coverage@{text}", "all rare", ranker, np.array([covered]), **among_rare))
    return rows


def _bias_rows(seeds, draws):
    """|Spearman| of the score with S/N and redshift on ordinary objects, mean over folds and seeds."""
    rows, first = [], seeds[0]
    weight = draws.of(first.group)
    for ranker in first.score:
        for what in ("snr", "redshift"):
            found = []
            for one in seeds:
                score = one.score[ranker]
                for fold in np.unique(one.fold):
                    among = (one.truth == "") & (one.fold == fold) & np.isfinite(score)
                    found.append(_spearman(score[among], getattr(one, what)[among], weight[:, among]))
            rho = np.mean(found, axis=0)
            n = int((first.truth == "").sum())
            rows.append(_row("Spearman", what, ranker, rho, n=n) | {"absolute": float(abs(rho[0]))})
    return rows


def _uniformity_rows(one):
    """Compare p-values of ordinary objects with uniform ones, in a list where nothing was injected.

    Among a quarter of rare objects, as in the list of real ones, a good ranking's p-values cannot be uniform.
    """
    is_ordinary = (one.truth == "") | (one.name[2:3] == (CONTROL,))
    rows = []
    for ranker, p in one.p_value.items():
        p = p[is_ordinary & np.isfinite(p)]
        test = kstest(p, "uniform")
        rows.append(
            _row("KS distance of p-values", "ordinary", ranker, [test.statistic], p_value=test.pvalue, n=len(p))
        )
    return rows


def _spearman(x, y, weight):
    """Correlate the ranks; bootstrap draws weight the objects."""
    x, y, total = rankdata(x), rankdata(y), weight.sum(axis=1)
    if len(x) < 3:
        return np.full(len(weight), np.nan)

    def mean(values):
        return (weight * values).sum(axis=1) / total

    covariance = mean(x * y) - mean(x) * mean(y)
    return covariance / np.sqrt((mean(x * x) - mean(x) ** 2) * (mean(y * y) - mean(y) ** 2))


def _stability_rows(real):
    """Rank-biased overlap and Jaccard of the rankings of two seeds, over all pairs of seeds and both folds."""
    rows = []
    for ranker in real[0].score if len(real) > 1 else ():
        overlaps, shared = [], []
        for fold in np.unique(real[0].fold):
            lists = []
            for one in real.values():
                among = one.fold == fold
                ranked = metrics.order(one.score[ranker][among], one.targetid[among])
                lists.append(one.targetid[among][ranked])
            n = min(_N_ARTEFACT, len(lists[0]) // 4)
            for first, second in combinations(lists, 2):
                overlaps.append(metrics.rank_biased_overlap(first, second))
                shared.append(metrics.jaccard_at(first, second, n))
        for metric, values in (("rank-biased overlap", overlaps), ("top-N Jaccard", shared)):
            row = {"value": float(np.mean(values)), "low": float(np.min(values)), "high": float(np.max(values))}
            rows.append({"metric": metric, "subject": "seeds", "ranker": ranker, **row, "note": "low, high: pairs"})
    return rows


def _injected_rows(lists, families, draws):
    curves = _dose_curves(lists, draws)
    rows, macro = [], {}
    for family in families:
        doses, middle = (CONTROL, *family.doses), 1 + family.doses.index(middle_dose(family))
        more = {"kind": family.kind, "unit": family.unit, "prevalence": 0.05}
        for ranker in curves[family.name]:
            curve = curves[family.name][ranker]  # metric -> (dose, draw)
            for metric, values in curve.items():
                rows += [_row(metric, family.name, ranker, at, dose=dose, **more)
                         for dose, at in zip(doses, values, strict=True)]  # fmt: skip
                macro.setdefault((family.kind, metric), {}).setdefault(ranker, []).append(values[middle])
                macro.setdefault((family.kind, f"{metric}, control"), {}).setdefault(ranker, []).append(values[0])
            half = [metrics.dose_at_half(family.doses, recall) for recall in curve["recall@P"][1:].T]
            rows.append(_row("S50", family.name, ranker, half, **more))
    for (kind, metric), values in macro.items():
        mean = {ranker: _mean(of_family) for ranker, of_family in values.items()}
        subject = f"macro over {kind} families"
        rows += [_row(metric, subject, ranker, value, kind=kind) for ranker, value in mean.items()]
        rows += _differences(metric, subject, mean, kind=kind)
    return rows


def _dose_curves(lists, draws):
    """Return family -> ranker -> metric -> array (dose, draw), the mean over replicates."""
    found = {}
    for one in lists:
        if one.name[0] != "injected":
            continue
        _, family, dose, _ = one.name
        weight = draws.of(one.group)
        for ranker in one.score:
            ranked = np.lexsort((one.targetid, place(one, ranker)))
            is_rare, own = one.truth[ranked] != "", weight[:, ranked]
            for metric, function in _METRICS.items():
                at = found.setdefault(family, {}).setdefault(ranker, {}).setdefault(metric, {})
                at.setdefault(dose, []).append(function(is_rare, own))
    return {
        family: {
            ranker: {metric: np.stack([_mean(at[dose]) for dose in sorted(at)]) for metric, at in of_ranker.items()}
            for ranker, of_ranker in of_family.items()
        }
        for family, of_family in found.items()
    }


def _mixed_rows(lists, draws, families):
    """Artefacts at the top where a fifth of the list is astrophysical and a fifth artefacts, all at middle doses."""
    kind = {family.name: family.kind for family in families}
    values = {}
    for one in lists:
        weight = draws.of(one.group)
        for ranker in one.score:
            ranked = np.lexsort((one.targetid, place(one, ranker)))
            truth, own = one.truth[ranked], weight[:, ranked]
            is_astro = np.array([kind.get(name) == ASTRO for name in truth])
            is_artefact = (truth != "") & ~is_astro
            n = min(_N_ARTEFACT, len(truth) // 4)
            for metric, which in (("artefact fraction", is_artefact), ("precision", is_astro)):
                values.setdefault(f"{metric}@{n}", {}).setdefault(ranker, []).append(
                    metrics.precision_at(which, own, n)
                )
    rows = []
    for metric, of_ranker in values.items():
        mean = {ranker: _mean(found) for ranker, found in of_ranker.items()}
        rows += [_row(metric, "mixed list", ranker, value, prevalence=0.2) for ranker, value in mean.items()]
        rows += _differences(metric, "mixed list", mean)
    return rows


def _mean(arrays):
    """Return the mean over replicates where it is defined; a draw without any is NaN."""
    arrays = np.array(arrays)
    known = np.isfinite(arrays)
    total = np.where(known, arrays, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))
