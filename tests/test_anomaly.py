"""Scores, calibration, reasons and the ranking."""

from dataclasses import replace
from typing import NamedTuple

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster
from scipy.stats import norm, spearmanr

import astrolab as al
from astrolab.anomaly.calibration import Anchors, PeerGroups, compare_with_peers
from astrolab.anomaly.classes import CLASSES
from astrolab.anomaly.combination import PEER_SCORES
from astrolab.anomaly.faults import FAULT_COLUMNS
from astrolab.anomaly.reasons import describe_reasons
from astrolab.anomaly.scale import load_scale, save_scale
from astrolab.anomaly.scores import BAND_WIDTHS, TROUGH_WIDTHS, block_columns, member_table, raw_scores
from astrolab.models.files import MODELS, model_to_bytes

DIMS = ("object", "wavelength_rest")


def slow_scores(model, wavelength, flux, ivar):
    """Return the raw scores of one spectrum, window by window, in float64."""
    with torch.inference_mode():
        out = model(torch.from_numpy(flux[None]), torch.from_numpy(ivar[None]))
    flux_model, ivar_model = out.flux_model[0].double().numpy(), out.ivar_model[0].double().numpy()
    good = ivar > 0
    residual, weight = np.where(good, flux - flux_model, 0), np.where(good, ivar_model, 0)
    columns = {"n_good": good.sum(), "snr_rest": (flux * np.sqrt(ivar))[good].mean()}
    columns["log_chi2"] = np.log((residual**2 * weight).sum() / good.sum())
    for kind, widths in (("band", BAND_WIDTHS), ("trough", TROUGH_WIDTHS)):
        for width in widths:
            best, at = 0.0, 0
            for start in range(len(flux) - width + 1):
                window = slice(start, start + width)
                if good[window].sum() > 0.5 * width:
                    sigma = (residual[window] * weight[window]).sum() / np.sqrt(weight[window].sum())
                    if abs(sigma) > abs(best) and (kind == "band" or sigma < 0):
                        best, at = sigma, 0.5 * (wavelength[start] + wavelength[start + width - 1])
            columns |= {f"{kind}_{width}": -best if kind == "trough" else best, f"{kind}_at_{width}": at}
    return columns | {f"latent_{i}": value for i, value in enumerate(out.latent_mean[0].numpy())}


def test_raw_scores_are_the_plain_numpy_truth(vae, rest_quasars):
    table = raw_scores(vae, rest_quasars)
    assert list(table.columns) == block_columns(4)
    wavelength = rest_quasars.wavelength_rest.values
    for i in (0, 17, 299):
        truth = slow_scores(vae, wavelength, rest_quasars.flux[i].values, rest_quasars.ivar[i].values)
        np.testing.assert_allclose(table.iloc[i][list(truth)].astype(float), list(truth.values()), rtol=2e-4, atol=3e-4)


def test_several_models_score_as_each_alone_and_give_the_rank_an_interval(vae, rest_quasars):
    other = al.VAE(n_wavelength=300, n_latent=4, n_hidden=64, seed=1)
    al.fit(other, rest_quasars, n_epochs=20, seed=1, progress=False)
    both = raw_scores([vae, other], rest_quasars)
    for i, model in enumerate((vae, other)):
        own = [name for name in block_columns(4) if name not in FAULT_COLUMNS]  # those are of all models together
        pd.testing.assert_frame_equal(member_table(both, i)[own], raw_scores(model, rest_quasars)[own])
    ranking = al.score_anomalies([vae, other], rest_quasars).ranking
    assert (ranking["rank_low"] <= ranking["rank_high"]).all()
    assert (
        (ranking["rank_low"] <= ranking["anomaly_rank"]) & (ranking["anomaly_rank"] <= ranking["rank_high"])
    ).mean() > 0.5


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("a narrow absorption line", lambda w: np.where(np.abs(w - 2700) < 8, -0.8, 0), "missing flux"),
        ("a broad trough", lambda w: np.where(np.abs(w - 1500) < 25, -0.5, 0), "blueward of C IV"),
        ("a strange emission line", lambda w: 3 * np.exp(-0.5 * ((w - 2350) / 15) ** 2), "excess flux"),
    ],
)
def test_a_planted_anomaly_comes_first(vae, rest_quasars, name, change, word):
    bright = int(np.argmin(np.abs(rest_quasars.snr.values - 15)))
    flux = rest_quasars.flux.values.copy()
    planted = change(rest_quasars.wavelength_rest.values)
    flux[bright] += np.where(rest_quasars.ivar[bright] > 0, planted, 0).astype("f4")
    ranking = al.score_anomalies(vae, rest_quasars.assign(flux=(DIMS, flux))).ranking
    first = ranking.iloc[0]
    assert first["targetid"] == int(rest_quasars.targetid[bright]), name
    assert word in first["reasons"]


def test_a_score_does_not_merely_follow_signal_to_noise_or_redshift(ranking):
    for column in ("snr", "redshift", "n_good"):
        for score in ("anomaly_score", "raw_score", "artefact_score", *PEER_SCORES):
            assert abs(spearmanr(ranking[score], ranking[column]).statistic) < 0.15, (score, column)


def test_masked_pixels_do_not_matter(vae, rest_quasars, ranking):
    changed = rest_quasars.flux.where(rest_quasars.ivar > 0, 1e9).astype("f4")
    again = al.score_anomalies(vae, rest_quasars.assign(flux=changed)).ranking
    pd.testing.assert_frame_equal(again, ranking)


def test_the_order_of_the_objects_does_not_matter(vae, rest_quasars, ranking):
    shuffled = rest_quasars.isel(object=np.random.default_rng(0).permutation(300))
    again = al.score_anomalies(vae, shuffled).ranking
    assert list(again["targetid"].head(20)) == list(ranking["targetid"].head(20))
    np.testing.assert_allclose(again["anomaly_score"], ranking["anomaly_score"], rtol=1e-3, atol=1e-3)


def test_the_same_bytes_on_one_and_two_workers_and_in_this_process(vae, rest_quasars, in_chunks):
    lazy = in_chunks(rest_quasars, 100)
    here = al.score_anomalies(vae, lazy).ranking
    for n_workers in (1, 2):
        options = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": ":0"}
        with LocalCluster(**options) as cluster, Client(cluster):
            there = al.score_anomalies(vae, lazy).ranking
        pd.testing.assert_frame_equal(there, here, check_exact=True)


@pytest.mark.parametrize("lazy", [{"flux": (70, 80)}, {"ivar": (70, -1)}, {"flux": (70, -1), "ivar": (50, 200)}])
def test_flux_and_ivar_may_be_in_chunks_of_their_own(vae, rest_quasars, ranking, lazy):
    mixed = {name: (DIMS, da.from_array(rest_quasars[name].values, chunks=chunks)) for name, chunks in lazy.items()}
    again = al.score_anomalies(vae, rest_quasars.assign(mixed)).ranking
    np.testing.assert_allclose(
        again.set_index("targetid")["anomaly_score"],
        ranking.set_index("targetid")["anomaly_score"].loc[again["targetid"]],
        atol=1e-3,
    )


def test_every_object_is_ranked_or_says_why_not(vae, rest_quasars):
    redshift, ivar = rest_quasars.redshift.values.copy(), rest_quasars.ivar.values.copy()
    redshift[:3] = np.nan, -1, np.inf
    ivar[3], ivar[4, 30:] = 0, 0
    spectra = rest_quasars.assign_coords(redshift=("object", redshift)).assign(ivar=(DIMS, ivar))
    ranking, not_ranked, _ = al.score_anomalies(vae, spectra)
    assert sorted([*ranking["targetid"], *not_ranked["targetid"]]) == sorted(spectra.targetid.values)
    assert (
        list(not_ranked["reason"])
        == ["no redshift was measured"] * 3 + ["fewer than 50 good pixels on the rest grid"] * 2
    )
    may_be_missing = [name for name in ranking if name.startswith(("z_", "rank_"))]
    assert np.isfinite(ranking.drop(columns=may_be_missing).select_dtypes("number")).all(axis=None)
    assert list(ranking["anomaly_rank"]) == list(range(1, 296))
    assert (np.diff(ranking["anomaly_score"]) <= 0).all()
    assert ranking["targetid"].dtype == "int64"


def test_nothing_to_rank_is_said(vae, rest_quasars):
    with pytest.raises(ValueError, match="none of 300 objects can be ranked"):
        al.score_anomalies(vae, rest_quasars.assign(ivar=rest_quasars.ivar * 0))
    with pytest.raises(ValueError, match="none of 0 objects can be ranked \\(there are none\\)"):
        al.score_anomalies(vae, rest_quasars.isel(object=slice(0)))


def test_spectra_of_another_grid_or_frame_are_refused(vae, rest_quasars, quasars):
    with pytest.raises(al.SchemaError, match="the model expects 300"):
        al.score_anomalies(vae, rest_quasars.isel(wavelength_rest=slice(0, 200)))
    with pytest.raises(al.SchemaError, match="observed frame"):
        al.score_anomalies(vae, quasars)
    with pytest.raises(al.SchemaError, match="expected normalised spectra: normalize_flux"):
        al.score_anomalies(vae, al.to_restframe(al.simulate_survey(5, seed=0), rest_quasars["wavelength_rest"].values))


def test_the_strangest_come_with_their_spectra(vae, rest_quasars, ranking, in_chunks):
    ranked = al.rank_anomalies(vae, in_chunks(rest_quasars, 64), n_top=7)
    al.check_spectra(ranked)
    assert list(ranked.targetid.values) == list(ranking["targetid"].head(7))
    assert ranked.attrs["n_ranked"] == 300
    for i, targetid in enumerate(ranked.targetid.values):
        row = int(np.flatnonzero(rest_quasars.targetid == targetid)[0])
        np.testing.assert_array_equal(ranked.flux[i], rest_quasars.flux[row])
        one = [torch.from_numpy(rest_quasars[key].values[row : row + 1]) for key in ("flux", "ivar")]
        np.testing.assert_allclose(ranked.flux_model[i], vae(*one).flux_model[0].detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ranked.latent[i], vae.encode(*one)[0].detach(), rtol=1e-4, atol=1e-4)


def slow_peer_score(values, place, row, n_peers):
    """Return one calibrated score: a plane through the peers by least squares, and the spread around it."""
    distance = ((place - place[row]) ** 2).sum(axis=1)
    near = np.array([other for other in np.argsort(distance, kind="stable") if other != row][:n_peers])
    peers = values[near]
    median = np.median(peers)
    limit = 3 * 1.4826 * np.median(np.abs(peers - median))
    offset = (place[near] - place[row]) / np.sqrt(((place[near] - place[row]) ** 2).mean(axis=0))
    design = np.column_stack([np.ones(n_peers), offset])
    normal = design.T @ design + 1e-3 * n_peers * np.eye(design.shape[1])
    plane = np.linalg.inv(normal) @ design.T @ np.clip(peers - median, -limit, limit)
    residual = peers - median - design @ plane
    middle = np.median(residual)
    return (values[row] - median - plane[0] - middle) / (1.4826 * np.median(np.abs(residual - middle)))


def peer_scores(values, matched):
    groups = PeerGroups(matched)
    return compare_with_peers(groups.fit(values), values, Anchors(groups, matched))


def test_peer_scores_are_the_plain_numpy_truth():
    rng = np.random.default_rng(0)
    matched, values = rng.normal(size=(400, 2)), rng.normal(size=400)
    scores = peer_scores(values[:, None], matched)[:, 0]
    place = norm.ppf((1 + np.argsort(np.argsort(matched, axis=0), axis=0)) / 401)
    for row in (0, 11, 399):
        assert scores[row] == pytest.approx(slow_peer_score(values, place, row, 40))


def test_peer_scores_of_a_large_survey_have_no_trend_and_are_close_to_normal():
    rng = np.random.default_rng(0)
    matched = rng.normal(size=(60_000, 3))
    values = 5 * matched[:, :1] + np.exp(0.3 * matched[:, 1:2]) * rng.normal(size=(60_000, 1))
    scores = peer_scores(values, matched)[:, 0]
    assert abs(spearmanr(scores, matched[:, 0]).statistic) < 0.02
    assert np.percentile(scores, [16, 50, 84]) == pytest.approx([-1, 0, 1], abs=0.08)


def test_peer_scores_are_finite_when_all_peers_are_alike():
    assert np.isfinite(peer_scores(np.zeros((50, 1)), np.zeros((50, 1)))).all()
    assert peer_scores(np.zeros((1, 2)), np.zeros((1, 1))).shape == (1, 2)


def test_reasons_are_in_order_of_weight_and_leave_out_what_is_ordinary():
    table = pd.DataFrame(
        {
            "redshift": [2.0, 2.0, 2.0, 2.0, 2.0],
            "score_trough": [9.0, 1.0, 0.5, 8.0, 1.0],
            "score_chi2": [4.0, 3.0, 1.0, 1.0, 8.0],
            "score_lines": [1.0, 2.5, 1.0, 1.0, 1.0],
            "score_continuum": [1.0, 1.0, 1.0, 1.0, 3.0],
            "score_latent": [1.0, 6.0, 1.9, 1.0, 1.0],
            "band_sigma": [-12.0, 3.0, 3.0, 20.0, 20.0],
            "band_wavelength": [1490.0, 2800.0, 4000.0, 2225.0, 2225.0],
            "band_width": [6400.0, 400.0, 400.0, 400.0, 400.0],
            "trough_sigma": [-12.0, -3.0, -3.0, -20.0, -2.0],
            "trough_wavelength": [1490.0, 2800.0, 4000.0, 2225.0, 2225.0],
            "trough_width": [6400.0, 400.0, 400.0, 400.0, 400.0],
            "chi2": [2.0, 1.5, 1.0, 1.0, 1.0],
            "score_class": [-3.0, -3.0, -3.0, 3.0, -3.0],
            "class_index": [0, 0, 0, CLASSES.index("star of class M3"), 0],
            "log_chi2_class": np.log([9.0, 9.0, 9.0, 1.2, 9.0]),
            "log_chi2_model": np.log([2.0, 2.0, 2.0, 3.0, 2.0]),
            "z_C IV": [0.0, -4.0, 0.0, 0.0, np.nan],
            "z_Mg II": [0.0, -2.0, 0.0, np.nan, 0.0],
        }
    )
    trough, isolated, ordinary, dip, spike = describe_reasons(table)
    assert trough.startswith("missing flux blueward of C IV (-11,400 km/s), 1490 Å rest, 4470 Å observed")
    assert "misfit, χ² per pixel 2, most of all missing flux" in trough
    assert isolated.startswith("unusual combination of features in latent space (6.0σ above its peers); misfit")
    assert isolated.endswith("emission lines weak or missing: C IV -4.0σ, Mg II -2.0σ (2.5σ above its peers)")
    assert ordinary.startswith("ordinary")
    assert "narrow and at no known line: perhaps a cosmic ray or sky residual" in spike
    assert spike.endswith("continuum of a shape that no tilt makes ordinary (3.0σ above its peers)")
    assert "narrow and at no known line: perhaps an intervening absorber or a bad pixel" in dip
    assert dip.endswith("another class explains it better: star of class M3, χ² per pixel 1.2 against 3")
    *_, taught, _ = describe_reasons(table.assign(log_chi2_model=0.0))
    assert taught.endswith("star of class M3, χ² per pixel 1.2 against 3 of a model that knows quasars alone")


def test_a_model_travels_to_a_worker_in_few_megabytes(vae):
    described, weights = model_to_bytes(vae)
    assert described[0] == "VAE"
    assert len(weights) < 10e6


def test_a_grid_narrower_than_the_widest_band_is_refused(rest_quasars):
    with pytest.raises(al.SchemaError, match="63 pixels, expected at least 64"):
        al.score_anomalies(al.VAE(n_wavelength=63), rest_quasars.isel(wavelength_rest=slice(0, 63)))


def test_the_narrowest_grid_that_is_allowed_is_ranked(rest_quasars):
    spectra = rest_quasars.isel(wavelength_rest=slice(100, 164))
    ranking, not_ranked, _ = al.score_anomalies(al.VAE(n_wavelength=64), spectra)
    assert len(ranking) + len(not_ranked) == 300
    assert len(ranking) > 0


def test_a_ranking_of_other_spectra_is_refused(vae, rest_quasars, ranking):
    with pytest.raises(ValueError, match="is not among the spectra"):
        al.attach_spectra(vae, rest_quasars.isel(object=slice(0, 20)), ranking.head(50))


def test_identifiers_that_went_through_a_float_are_refused(vae, rest_quasars, ranking):
    floats = ranking.astype({"targetid": float})
    with pytest.raises(al.SchemaError, match="targetid of the ranking is a float, expected int64"):
        al.attach_spectra(vae, rest_quasars, floats)
    with pytest.raises(al.SchemaError, match="targetid of the table to add is a float"):
        al.add_columns(ranking, floats[["targetid"]])


@pytest.mark.parametrize(
    ("is_reference", "message"),
    [
        (np.ones(3, bool), "shape \\(3,\\), expected True or False for each of 300 objects"),
        (np.arange(300), "is_reference is int64"),
        (np.zeros(300, bool), "leaves no object that can be ranked"),
    ],
)
def test_what_cannot_be_a_reference_is_refused(vae, rest_quasars, is_reference, message):
    with pytest.raises(ValueError, match=message):
        al.score_anomalies(vae, rest_quasars, is_reference=is_reference)


class Plain(torch.nn.Module):
    """The smallest model that keeps the contract: the survey's mean, and what is above and below it."""

    class Answer(NamedTuple):
        flux_model: torch.Tensor
        ivar_model: torch.Tensor

    def __init__(self, n_wavelength, n_latent=2):
        super().__init__()
        self.config = {"n_wavelength": n_wavelength, "n_latent": n_latent}
        self.mean = torch.nn.Parameter(torch.ones(n_wavelength))

    def forward(self, flux, ivar):
        return self.Answer(self.mean.expand_as(flux), ivar / (1 + 0.01 * ivar))

    def loss(self, flux, ivar):
        return torch.where(ivar > 0, (flux - self.mean) ** 2 * ivar.clamp_max(100), 0).mean(dim=1)

    def encode(self, flux, ivar):
        above = torch.where(ivar > 0, flux - self.mean, 0)
        return torch.stack([above.clamp_min(0).mean(dim=1), above.clamp_max(0).mean(dim=1)], dim=1)


def test_a_model_that_keeps_the_contract_and_no_more_is_trained_ranked_and_explained(rest_quasars, monkeypatch):
    monkeypatch.setitem(MODELS, "Plain", Plain)
    plain = Plain(300)
    history = al.fit(plain, rest_quasars, n_epochs=3, learning_rate=0.05, progress=False)
    assert history["loss_train"].iloc[-1] < history["loss_train"].iloc[0]
    scored = al.score_anomalies(plain, rest_quasars)
    latent = plain.encode(*(torch.from_numpy(rest_quasars[name].values) for name in ("flux", "ivar"))).detach()
    of_first = scored.ranking.set_index("targetid").loc[rest_quasars["targetid"].values[0], ["latent_0", "latent_1"]]
    np.testing.assert_allclose(of_first.to_numpy("float32"), latent[0], rtol=1e-5)
    top = al.attach_spectra(plain, rest_quasars, scored.ranking.head(2))
    assert set(al.explain_anomaly(plain, top, scored.scale)["targetid"]) <= set(top["targetid"].values)


def test_models_of_two_kinds_are_no_ensemble(vae, rest_quasars):
    with pytest.raises(ValueError, match="different n_latent"):
        al.score_anomalies([vae, al.VAE(n_wavelength=300, n_latent=5)], rest_quasars)


def test_no_models_and_no_places_are_said(vae, rest_quasars):
    with pytest.raises(ValueError, match="there is no model to rank with"):
        al.rank_anomalies([], rest_quasars)
    with pytest.raises(ValueError, match="n_top is -1, expected at least 1"):
        al.rank_anomalies(vae, rest_quasars, n_top=-1)


def test_a_scale_places_an_object_where_it_was_also_after_it_was_saved(vae, rest_quasars, tmp_path):
    ranking, _, scale = al.score_anomalies(vae, rest_quasars)
    save_scale(scale, tmp_path / "scale.safetensors")
    loaded = load_scale(tmp_path / "scale.safetensors")
    few = rest_quasars.isel(object=[5, 250, 31])
    placed = al.score_anomalies(vae, few, scale=loaded).ranking.set_index("targetid")
    whole = ranking.set_index("targetid").loc[placed.index]
    np.testing.assert_allclose(placed["anomaly_score"], whole["anomaly_score"], atol=0.05)
    assert list(loaded.rank_of(whole["anomaly_score"])) == pytest.approx(list(whole["anomaly_rank"]), abs=1)


def test_what_is_no_scale_is_refused(tmp_path):
    (tmp_path / "html").write_text("<html>")
    al.save_model(al.VAE(n_wavelength=10), tmp_path)
    for name, message in (("html", "is no scale, or a damaged one"), ("weights.safetensors", "it has no 'shared'")):
        with pytest.raises(ValueError, match=message):
            load_scale(tmp_path / name)


def test_a_scale_of_another_version_is_refused(vae, rest_quasars, tmp_path):
    scale = al.score_anomalies(vae, rest_quasars).scale
    older = replace(scale, members=(replace(scale.members[0], tails=np.ones(5)),))
    save_scale(older, tmp_path / "scale.safetensors")
    with pytest.raises(ValueError, match="made by another version of AstroLab"):
        load_scale(tmp_path / "scale.safetensors")


def test_a_cosmic_ray_tops_the_pipeline_ranking_and_not_the_science_ranking(vae, rest_quasars):
    row = int(np.argmin(np.abs(rest_quasars.snr.values - 8)))
    flux, ivar = rest_quasars.flux.values.copy(), rest_quasars.ivar.values
    pixel = int(np.argmin(np.abs(rest_quasars.wavelength_rest.values - 2200)))  # at no line
    assert ivar[row, pixel - 2 : pixel + 3].all()
    flux[row, pixel] += 150 / np.sqrt(ivar[row, pixel])
    ranking = al.score_anomalies(vae, rest_quasars.assign(flux=(DIMS, flux))).ranking.set_index("targetid")
    hit = ranking.loc[int(rest_quasars.targetid[row])]
    assert hit["raw_rank"] <= 5
    assert hit["pipeline_rank"] == 1
    assert hit["anomaly_rank"] > 100
    assert hit["artefact_evidence"].startswith("spike of a pixel at")
