"""The difference of two rankings: figures against plain truths, and the right reason for each planted change."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import astrolab as al
from astrolab.anomaly.diff import jaccard_at, rank_biased_overlap
from astrolab.cli import app, main
from astrolab.runs.manifest import write_manifest

FIRST_ID = 39_627_652_591_521_181


def ranked(table):
    table = table.sort_values("anomaly_score", ascending=False, ignore_index=True)
    return table.assign(anomaly_rank=np.arange(1, len(table) + 1, dtype="int32"))


def make_ranking(n=200):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"targetid": FIRST_ID + np.arange(n), "redshift": rng.uniform(1, 3, n)})
    table["snr"] = rng.uniform(2, 10, n).astype("float32")
    table["n_good"] = 1000.0
    table["score_chi2"], table["score_band"] = np.linspace(8, 0, n), np.linspace(4, 0, n)
    return ranked(table.assign(anomaly_score=table["score_chi2"] + table["score_band"]))


def make_run(folder, ranking, *, template="rank_anomalies", weights=b"1", not_ranked=None, **parameters):
    (folder / "model").mkdir(parents=True)
    ranking.to_parquet(folder / "ranking.parquet", index=False)
    not_ranked = pd.DataFrame({"targetid": [], "reason": []}) if not_ranked is None else not_ranked
    not_ranked.to_parquet(folder / "not_ranked.parquet", index=False)
    (folder / "model" / "weights.safetensors").write_bytes(weights)
    record = {"template": template, "template_sha256": "0", "code": {"astrolab": "1"}, "inputs": []}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "parameters.json").write_text(json.dumps({"n_latent": 8, "seed": 0} | parameters))
    write_manifest(folder)
    return folder


def slow_overlap(first, second, p):
    """Equation 23 of Webber, Moffat & Zobel, set by set."""
    depth = min(len(first), len(second))
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, depth + 1)]
    return (1 - p) * sum(p ** (d - 1) * a for d, a in enumerate(agreement, 1)) + p**depth * agreement[-1]


@pytest.mark.parametrize(("n", "p"), [(1, 0.99), (50, 0.9), (700, 0.9), (300, 0.99)])
def test_rank_biased_overlap_is_the_slow_truth(n, p):
    rng = np.random.default_rng(n)
    first, second = (list(rng.permutation(n + 5)[:n]) for _ in range(2))
    assert rank_biased_overlap(first, second, p) == pytest.approx(slow_overlap(first, second, p), abs=1e-12)
    assert rank_biased_overlap(first, first, p) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"), [(([], [1]), "is empty"), (([1], [1], 1.0), "p is 1.0")], ids=[0, 1]
)
def test_rank_biased_overlap_refuses_what_has_none(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        rank_biased_overlap(*arguments)


def test_a_ranking_is_like_itself():
    diff = al.compare_rankings(make_ranking(), make_ranking().sample(frac=1, random_state=0), n_top=20)
    assert diff.rank_biased_overlap == pytest.approx(1)
    assert (diff.jaccard, diff.n_common) == (1, 200)
    assert diff.spearman == pytest.approx(1)
    assert set(diff.table["change"]) == {"stayed"}


def test_each_planted_change_has_its_reason():
    a = make_ranking()
    b = a.set_index("targetid")
    ids = a["targetid"].to_numpy()
    low = ids[100:106]
    b.loc[low, "anomaly_score"] = 50.0
    b.loc[low[0], "score_band"] += 6
    b.loc[low[1], ["redshift", "score_chi2"]] += [0.5, 9]
    b.loc[low[2], "snr"] *= 2
    b.loc[low[3], "n_good"] = 400
    b.loc[low[4], "redshift"] += 1e-6
    b = b.drop(index=[ids[0], ids[1]]).reset_index()
    new = b.iloc[[0]].assign(targetid=1, anomaly_score=60.0)
    b = ranked(pd.concat([b, new], ignore_index=True))
    a = a[a["targetid"] != low[5]]
    gone = pd.DataFrame({"targetid": [ids[0]], "reason": ["no redshift was measured"]})
    before = pd.DataFrame({"targetid": [low[5]], "reason": ["fewer than 50 good pixels on the rest grid"]})
    diff = al.compare_rankings(a, b, n_top=20, not_ranked_a=before, not_ranked_b=gone)
    why = diff.table.set_index("targetid")["why"]
    row = a.set_index("targetid").loc[low[0]]
    assert why[low[0]] == f"score_band rose from {row['score_band']:.3g} to {row['score_band'] + 6:.3g}"
    assert why[low[1]].startswith("redshift changed from ")
    assert "score_chi2 rose from" in why[low[1]]
    assert why[low[2]].startswith("S/N changed from ")
    assert why[low[3]].startswith("good pixels changed from 1000 to 400")
    assert why[low[4]] == "no score of its own rose: others fell below it"
    assert why[low[5]] == "not ranked in A: fewer than 50 good pixels on the rest grid"
    assert why[1] == "new: not among the objects of A"
    assert why[ids[0]] == "not ranked in B: no redshift was measured"
    assert why[ids[1]] == "not among the objects of B"
    left = diff.table[diff.table["change"] == "left"].set_index("targetid")
    assert left.loc[ids[19], "why"] == "no score of its own fell: others rose above it"
    assert left.loc[ids[0], "rank_b"] is pd.NA
    assert left["rank_a"].dropna().is_monotonic_increasing
    tops = [list(one.nsmallest(20, "anomaly_rank")["targetid"]) for one in (a, b)]
    assert diff.jaccard == jaccard_at(*tops, 20)
    entered = diff.table[diff.table["change"] == "entered"]
    assert set(entered["targetid"]) == set(tops[1]) - set(tops[0])
    assert set(left.index) == set(tops[0]) - set(tops[1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.assign(targetid=t["targetid"] + 10_000), "no object is in both rankings"),
        (lambda t: t.drop(columns="anomaly_rank"), "ranking B has no column 'anomaly_rank'"),
        (lambda t: t.head(0), "ranking B is empty"),
        (lambda t: pd.concat([t, t.head(1)]), "stands twice in ranking B"),
    ],
    ids=["nothing in common", "column", "empty", "twice"],
)
def test_rankings_that_cannot_be_compared_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        al.compare_rankings(make_ranking(), change(make_ranking()))


@pytest.fixture
def runs(tmp_path):
    a = make_ranking()
    ids = a["targetid"].to_numpy()
    b = a.set_index("targetid")
    b.loc[ids[50], ["score_band", "anomaly_score"]] = 30.0
    b = ranked(b.drop(index=ids[0]).reset_index())
    gone = pd.DataFrame({"targetid": [ids[0]], "reason": ["no redshift was measured"]})
    return make_run(tmp_path / "a", a), make_run(tmp_path / "b", b, weights=b"2", not_ranked=gone, n_latent=16)


def test_the_command_prints_figures_causes_and_reasons(runs, tmp_path):
    result = CliRunner().invoke(app, ["diff", *map(str, runs), "--n-top", "10", "--out", str(tmp_path / "diff.csv")])
    assert result.exit_code == 0, result.output
    for words in (
        "200 objects ranked in A, 199 in B, 199 in both",
        "top 10: 1 entered, 1 left",
        "different: parameter n_latent: 8 in A, 16 in B",
        "different: model: ",
        "score_band rose from",
        "not ranked in B: no redshift was measured",
    ):
        assert words in result.output
    table = pd.read_csv(tmp_path / "diff.csv")
    assert len(table) == 11
    assert table["targetid"].dtype == "int64"


def test_json_stands_alone_and_keeps_targetids_exact(runs):
    result = CliRunner().invoke(app, ["diff", *map(str, runs), "--n-top", "10", "--json"])
    content = json.loads(result.stdout)
    assert content["n_common"] == 199
    assert 0.9 < content["rank_biased_overlap"] < 1
    changes = {one["targetid"]: one for one in content["changes"]}
    assert changes[str(FIRST_ID)]["change"] == "left"
    assert changes[str(FIRST_ID)]["rank_b"] is None
    assert changes[str(FIRST_ID + 50)]["rank_b"] == 1


def test_runs_that_differ_in_nothing_have_no_causes(tmp_path):
    one, two = (make_run(tmp_path / name, make_ranking()) for name in "ab")
    assert al.compare_runs(one, two).causes == ()


def break_ranking(folder):
    (folder / "ranking.parquet").write_bytes(b"")


def lose_ranking(folder):
    (folder / "ranking.parquet").unlink()
    write_manifest(folder)


def lose_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (break_ranking, "does not verify: ranking.parquet: changed"),
        (lose_ranking, "has no ranking.parquet"),
        (lose_manifest, "does not verify: manifest.json: missing"),
    ],
    ids=["changed", "no ranking", "no run"],
)
def test_folders_that_are_no_runs_end_in_one_sentence(runs, harm, sentence, capsys):
    harm(runs[1])
    with pytest.raises(SystemExit) as exit_:
        main(["diff", *map(str, runs)])
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_other_templates_and_missing_folders_are_refused(runs, tmp_path):
    other = make_run(tmp_path / "other", make_ranking(), template="classify_spectra")
    with pytest.raises(ValueError, match="of different templates, 'rank_anomalies' and 'classify_spectra'"):
        al.compare_runs(runs[0], other)
    with pytest.raises(ValueError, match="is not a folder"):
        al.compare_runs(runs[0], tmp_path / "nowhere")


def test_the_plot_shows_who_entered_and_left(runs):
    import holoviews as hv

    from astrolab.plots import plot_rank_change

    diff = al.compare_runs(*runs, n_top=10)
    plot = plot_rank_change(diff)
    points = {part.label: part for part in plot.traverse(lambda x: x, [hv.Points])}
    assert set(points) == {"stayed (9)", "entered (1)", "left (1)"}
    left = points["left (1)"].dframe()
    assert list(left["rank_b"]) == [2 * 51]
    assert list(left["targetid"]) == [str(FIRST_ID)]
    assert hv.renderer("bokeh").get_plot(plot).state is not None
