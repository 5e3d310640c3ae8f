"""The ranking benchmark: its metrics against truths worked out by hand, its folds, its injections, one quick run."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.ranking import data, families, metrics, protocol
from benchmarks.ranking.__main__ import main

# five objects, rare ones in places 1, 3 and 4
RARE = np.array([True, False, True, True, False])


@pytest.fixture(scope="module")
def sample():
    return data.simulated_sample(60, seed=1)


def test_metrics_by_hand():
    assert metrics.recall_at(RARE)[0] == pytest.approx(2 / 3)
    assert metrics.recall_at(RARE, n=1)[0] == pytest.approx(1 / 3)
    assert metrics.precision_at(RARE, n=4)[0] == pytest.approx(3 / 4)
    assert metrics.enrichment_at(RARE, n=4)[0] == pytest.approx((3 / 4) / (3 / 5))
    # N = P = 3, weights 3, 2, 1: (3 + 1) / 6
    assert metrics.rank_weighted_score(RARE)[0] == pytest.approx(4 / 6)
    assert metrics.average_precision(RARE)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert metrics.class_coverage_at(np.array(["a", "", "b", "c", ""]), 3) == pytest.approx(2 / 3)
    assert np.isnan(metrics.recall_at(np.zeros(3, bool))[0])


def test_best_and_worst_lists():
    best = np.arange(20) < 4
    for metric in (metrics.recall_at, metrics.rank_weighted_score, metrics.average_precision):
        assert metric(best)[0] == pytest.approx(1)
    assert metrics.recall_at(best[::-1])[0] == metrics.rank_weighted_score(best[::-1])[0] == 0


def test_weights_stand_for_repeated_objects():
    rng = np.random.default_rng(0)
    is_rare, weight = rng.random(40) < 0.3, rng.integers(0, 4, 40)
    repeated = np.repeat(is_rare, weight)
    for metric, n in ((metrics.recall_at, None), (metrics.recall_at, 7), (metrics.precision_at, 7)):
        assert metric(is_rare, weight[None].astype(float), n)[0] == pytest.approx(metric(repeated, n=n)[0])
    rws = metrics.rank_weighted_score(is_rare, weight[None].astype(float))[0]
    assert rws == pytest.approx(metrics.rank_weighted_score(repeated)[0])


def test_order_puts_the_unscored_last_and_ties_by_targetid():
    score, targetid = np.array([1.0, np.nan, 2.0, 1.0]), np.array([9, 1, 5, 3])
    assert targetid[metrics.order(score, targetid)].tolist() == [5, 3, 9, 1]


def test_rank_biased_overlap():
    first = list(range(50))
    assert metrics.rank_biased_overlap(first, first) == pytest.approx(1)
    assert metrics.rank_biased_overlap(first, list(range(100, 150))) == 0
    # Webber et al.: at depths 1, 2 the overlap is 0, 2; extrapolated: (1-p) (0 + p 2/2) + p^2 2/2
    assert metrics.rank_biased_overlap([1, 2], [2, 1], p=0.9) == pytest.approx(0.1 * 0.9 + 0.81)
    assert metrics.jaccard_at([1, 2, 3], [2, 3, 4], 3) == pytest.approx(2 / 4)


def test_dose_at_half():
    assert metrics.dose_at_half((1, 10, 100), np.array([0.0, 0.25, 0.75])) == pytest.approx(10**1.5)
    assert metrics.dose_at_half((1, 10), np.array([0.6, 0.9])) == 1
    assert metrics.dose_at_half((1, 10), np.array([0.1, 0.4])) == np.inf
    # a dip is noise: 0.6, 0.4 count as 0.5, 0.5
    assert metrics.dose_at_half((1, 2, 4), np.array([0.0, 0.6, 0.4])) == pytest.approx(2)


def test_bootstrap_intervals_cover_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        found = rng.random(60) < 0.4  # 60 objects of two spectra each
        groups = np.repeat(np.arange(60), 2)
        weight = metrics.bootstrap_weights(groups, 200, rng)
        assert np.array_equal(weight[:, ::2], weight[:, 1::2])
        draws = (weight * np.repeat(found, 2)).sum(axis=1) / weight.sum(axis=1)
        figure = metrics.interval(found.mean(), draws)
        covered += figure["low"] <= 0.4 <= figure["high"]
    assert 88 <= covered <= 100


def test_folds_share_no_object(sample):
    truth = pd.concat([sample.truth, sample.truth], ignore_index=True)
    truth["fold"] = data._folds(truth)
    assert truth.groupby("group")["fold"].nunique().eq(1).all()
    training = protocol.contaminated_training(sample, 0, families.FAMILIES)
    tested = sample.truth.loc[sample.truth["fold"] == 0, "targetid"]
    assert not np.isin(training["targetid"].values, tested).any()


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_injections_grow_with_the_dose(sample, family):
    ordinary, _ = sample.rows((sample.truth["truth"] == "").to_numpy())
    hosts = protocol._hosts(ordinary, np.random.default_rng(0))
    possible = (hosts.redshift >= family.redshift_min) & (hosts.redshift <= family.redshift_max)
    rows = np.flatnonzero(possible)
    assert len(rows) > 0
    hosts = hosts.rows(rows)
    change = []
    for dose in family.doses:
        flux, ivar, redshift = family.inject(hosts, dose, np.random.default_rng(1))
        assert flux.shape == ivar.shape == hosts.flux.shape
        assert np.isfinite(flux).all()
        assert np.isfinite(redshift).all()
        assert np.array_equal(ivar, hosts.ivar)  # the noise is the object's own
        moved = np.abs(redshift - hosts.redshift)
        change.append(np.abs(flux - hosts.flux).sum(dtype=float) + moved.sum())
    assert len(family.doses) >= 6
    assert np.all(np.diff(change) > 0)


def test_an_ideal_ranker_from_outside_wins(sample):
    only = [family for family in families.FAMILIES if family.name == "cosmic_ray"]
    clean = dict(zip(sample.truth["targetid"], sample.spectra["flux"].values.sum(axis=1), strict=True))

    def cheat(spectra):
        targetid, total = spectra["targetid"].values, spectra["flux"].values.sum(axis=1)
        changed = [abs(own - clean[key]) for key, own in zip(targetid, total, strict=True)]
        return pd.DataFrame({"targetid": targetid, "score": changed})

    lists = protocol.score_everything(sample, {"cheat": cheat}, only, n_replicate=1, n_seed=1, progress=False)
    injected = [one for one in lists if one.name[0] == "injected" and one.name[2] == only[0].doses[-1]]
    for one in injected:
        ranked = metrics.order(one.score["cheat"], one.targetid)
        assert metrics.recall_at(one.truth[ranked] != "")[0] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.rename(columns={"score": "scores"}), "no pandas.DataFrame with the columns targetid and"),
        (lambda table: table["score"].to_numpy(), "no pandas.DataFrame"),
        (lambda table: table.astype({"targetid": float}), "targetid of the scores of 'own' is a float"),
        (lambda table: pd.concat([table, table]), "'own' scored targetid .* more than once"),
    ],
    ids=["column", "array", "float", "twice"],
)
def test_a_ranker_that_gives_no_scores_is_refused(sample, change, message):
    def own(spectra):
        return change(pd.DataFrame({"targetid": spectra["targetid"].values, "score": 1.0}))

    with pytest.raises(ValueError, match=message):
        protocol.score_everything(sample, {"own": own}, (), n_replicate=0, n_seed=1, progress=False)


def test_quick_run(monkeypatch, capsys):
    monkeypatch.delenv("ASTROLAB_REAL_DATA", raising=False)
    main(["--quick", "--json", "--only", "AstroLab", "random", "1/SNR", "template χ²"])
    result = json.loads(capsys.readouterr().out)
    assert result["label"] == "simulated"
    table = pd.DataFrame(result["figures"])
    assert set(table["table"]) == {"simulated", "injected into simulated"}
    recall = table[(table["metric"] == "recall@P") & table["value"].notna()]
    assert recall["value"].between(0, 1).all()
    assert {"AstroLab", "random", "1/SNR", "template χ²", "AstroLab: raw"} <= set(recall["ranker"])
    is_snr = (table["metric"] == "Spearman") & (table["subject"] == "snr") & (table["ranker"] == "1/SNR")
    assert table[is_snr]["value"].item() == pytest.approx(-1, abs=0.01)
    assert (table["metric"] == "S50").any()
    assert table["metric"].str.startswith("difference").any()


def test_unknown_plugins_are_named():
    with pytest.raises(ValueError, match="expected module:name"):
        main(["--quick", "--ranker", "nowhere"])
    with pytest.raises(ValueError, match="cannot be loaded"):
        main(["--quick", "--family", "nowhere.at:all"])


@pytest.mark.real
def test_real_sample(real_data):
    sample = data.real_sample(real_data)
    counts = sample.truth["truth"].value_counts()
    assert counts[""] > 190
    assert counts["changing_look"] == 36
    assert counts["sky"] == 26
    assert sample.truth["targetid"].is_unique
    assert sample.truth.groupby("group").size().max() <= 2
