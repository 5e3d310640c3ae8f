"""Re-ranking learns from labels, keeps to the static ranking without them, and refuses labels that cannot be meant."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import astrolab as al

FIRST_ID = 2**53 + 1  # no float holds it
N_OBJECTS = 1500


def make_ranking(seed=0):
    """40 anomalies that no static score brings up, 60 artefacts that every score does, ordinary ones."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({f"latent_{i}": rng.normal(size=N_OBJECTS) for i in range(4)})
    table["targetid"] = FIRST_ID + 2 * rng.permutation(N_OBJECTS)
    table["score_chi2"] = rng.normal(size=N_OBJECTS)
    table["band_sigma"] = rng.normal(size=N_OBJECTS) * 3
    kind = np.full(N_OBJECTS, "regular", dtype=object)
    kind[:40], kind[40:100] = "anomaly", "artefact"
    table.loc[:39, "latent_0"] += 3
    table.loc[:39, "score_chi2"] += 2
    table.loc[40:99, "band_sigma"] += 200
    table.loc[40:99, "score_chi2"] += 3
    table["anomaly_score"] = table["score_chi2"].astype("float32")
    table["spectype"] = "QSO"
    return table.assign(truth=kind).sort_values("anomaly_score", ascending=False, ignore_index=True)


def label(ranking, n, wrong=0.0, seed=0):
    said = ranking.head(n)["truth"].to_numpy(copy=True)
    flip = np.random.default_rng(seed).random(n) < wrong
    said[flip] = np.where(said[flip] == "anomaly", "regular", "anomaly")
    return dict(zip(ranking["targetid"].head(n), said, strict=True))


def n_found(ranking, n=40):
    return int((ranking["truth"].head(n) == "anomaly").sum())


@pytest.mark.parametrize("method", ["aad", "pine"])
def test_planted_anomalies_rise_after_labelling(method):
    ranking = make_ranking()
    columns = list(ranking)
    again = al.rerank(ranking, label(ranking, 60), method=method)
    assert n_found(again) > 1.3 * n_found(ranking)
    assert list(again["anomaly_rank_reranked"]) == list(range(1, N_OBJECTS + 1))
    assert (np.diff(again["anomaly_score_reranked"]) <= 0).all()
    assert np.isfinite(again["anomaly_score_reranked"]).all()
    pd.testing.assert_frame_equal(
        again[columns].sort_values("targetid", ignore_index=True), ranking.sort_values("targetid", ignore_index=True)
    )
    assert (again["label"] != "").sum() == 60


@pytest.mark.parametrize("method", ["aad", "pine"])
def test_wrong_labels_cost_little(method):
    ranking = make_ranking()
    found = [n_found(al.rerank(ranking, label(ranking, 80, 0.1, seed), method=method)) for seed in range(3)]
    assert np.mean(found) > 1.1 * n_found(ranking)


@pytest.mark.parametrize(
    "words", [[], ["unsure"] * 5, ["regular"] * 5, ["artefact"] * 3, ["anomaly"] * 5], ids=lambda w: f"{len(w)}{w[:1]}"
)
def test_without_anything_to_learn_it_is_the_static_ranking(words):
    ranking = make_ranking()
    again = al.rerank(ranking, dict(zip(ranking["targetid"], words, strict=False)))
    assert list(again["targetid"]) == list(ranking["targetid"])


def test_two_labels_move_little():
    ranking = make_ranking()
    again = al.rerank(ranking, dict(zip(ranking["targetid"].head(2), ["anomaly", "regular"], strict=True)))
    assert len(set(again["targetid"].head(100)) & set(ranking["targetid"].head(100))) > 60


@pytest.mark.parametrize("method", ["aad", "pine"])
def test_the_seed_and_not_the_order_of_rows_makes_the_ranking(method):
    ranking = make_ranking()
    labels = label(ranking, 30)
    names = ["targetid", "anomaly_score_reranked", "label"]
    first = al.rerank(ranking, labels, method=method, seed=3)[names]
    shuffled = ranking.sample(frac=1, random_state=1)
    said = pd.DataFrame({"targetid": list(labels), "label": list(labels.values())}).sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(al.rerank(shuffled, said, method=method, seed=3, n_jobs=1)[names], first)
    assert not al.rerank(ranking, labels, method=method, seed=4)[names].equals(first)


def test_equal_scores_go_by_targetid():
    ranking = make_ranking().assign(anomaly_score=1.0)
    again = al.rerank(ranking, {})
    assert list(again["targetid"]) == sorted(ranking["targetid"])


def test_a_dataset_comes_back_as_one():
    ranking = make_ranking()
    dataset = xr.Dataset(
        {"latent": (("object", "latent_dim"), ranking[[f"latent_{i}" for i in range(4)]].to_numpy())},
        coords={name: ("object", ranking[name]) for name in ("targetid", "score_chi2", "band_sigma", "anomaly_score")},
    )
    again = al.rerank(dataset, label(ranking, 30))
    table = al.rerank(ranking[[*dataset.coords, *(f"latent_{i}" for i in range(4))]], label(ranking, 30))
    assert list(again["targetid"].values) == list(table["targetid"])
    assert again["latent"].sizes == {"object": N_OBJECTS, "latent_dim": 4}
    np.testing.assert_array_equal(again["latent"].values[:, 0], table["latent_0"])


def test_features_are_found_by_name_and_always_finite():
    ranking = make_ranking().assign(score_tomorrow=np.nan, redshift=2.0, z_civ=1.0, is_odd=True, artefact_score=3)
    ranking.loc[::2, "z_civ"] = [np.inf, np.nan] * (N_OBJECTS // 4)
    features, names = al.rerank_features(ranking)
    assert {"score_tomorrow", "z_civ", "artefact_score", "latent_3", "band_sigma", "anomaly_score"} <= set(names)
    assert not {"redshift", "targetid", "is_odd"} & set(names)
    assert np.isfinite(features).all()
    sigma = ranking["band_sigma"].to_numpy()
    np.testing.assert_allclose(
        features[:, names.index("band_sigma")], np.sign(sigma) * np.log(1 + np.abs(sigma)), rtol=1e-6
    )
    assert (features[:, names.index("z_civ")] == 1).all()


def test_labels_that_agree_or_are_unsure_do_not_contradict():
    ranking = make_ranking()
    ids = ranking["targetid"].to_numpy()
    said = pd.DataFrame(
        {"targetid": ids[[0, 0, 1, 1, 2]], "label": ["artefact", "regular", "unsure", "anomaly", "regular"]}
    )
    again = al.rerank(ranking, said).set_index("targetid")["label"]
    assert (again[ids[0]], again[ids[1]]) == ("regular", "anomaly")


def table_of(ids, words):
    return pd.DataFrame({"targetid": np.asarray(ids), "label": words})


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (lambda ids: table_of(ids[[3, 3]], ["anomaly", "regular"]), "{3} contradict each other"),
        (lambda ids: table_of(ids[[3, 3]], ["artefact", "anomaly"]), "{3} contradict each other"),
        (lambda ids: table_of(np.repeat(ids[:9], 2), ["anomaly", "regular"] * 9), "others \\(9 in all\\) contradict"),
        (lambda ids: {7: "anomaly"}, "targetid 7 .* not in the ranking"),
        (lambda ids: dict.fromkeys(range(20), "anomaly"), "targetid 0, 1, 2, 3, 4 and others \\(20 in all\\)"),
        (lambda ids: {ids[0]: "anomal"}, "'anomal' is no label \\(targetid {0}\\), expected one of: anomaly, regular"),
        (lambda ids: {ids[0]: None}, "None is no label"),
        (lambda ids: table_of(ids[:1].astype(float), ["anomaly"]), "is a float"),
        (lambda ids: {float(ids[0]): "anomaly"}, "is a float"),
        (lambda ids: pd.DataFrame({"id": [1]}), "no column 'targetid'"),
    ],
    ids=[
        "contradiction",
        "artefact and anomaly",
        "many",
        "unknown",
        "many unknown",
        "word",
        "none",
        "float",
        "float key",
        "column",
    ],
)
def test_labels_that_cannot_be_meant_are_refused_by_name(labels, sentence):
    ranking = make_ranking()
    ids = ranking["targetid"].to_numpy()
    with pytest.raises(ValueError, match=sentence.replace("{0}", str(ids[0])).replace("{3}", str(ids[3]))):
        al.rerank(ranking, labels(ids))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop(columns="anomaly_score"), "no column 'anomaly_score'"),
        (lambda t: pd.concat([t, t.head(1)]), "more than once"),
        (lambda t: t.assign(anomaly_score=np.nan), "not a finite number"),
    ],
    ids=["column", "twice", "nan"],
)
def test_rankings_that_are_none_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        al.rerank(change(make_ranking()), {})


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method is 'pines', expected one of: aad, pine"):
        al.rerank(make_ranking(), {}, method="pines")


@pytest.mark.parametrize("n", [1, 3])
def test_tiny_rankings_work(n):
    ranking = make_ranking().head(n)
    again = al.rerank(ranking, dict(zip(ranking["targetid"], ["anomaly", "regular"], strict=False)))
    assert sorted(again["targetid"]) == sorted(ranking["targetid"])
