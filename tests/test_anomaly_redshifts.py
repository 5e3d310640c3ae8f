"""Anomaly or wrong redshift: objects scored at the redshifts they might have instead."""

import numpy as np
import pandas as pd
import pytest

import astrolab as al
from astrolab.anomaly.redshifts import alternative_redshifts, line_evidence
from astrolab.anomaly.scores import raw_scores
from astrolab.anomaly.shape import LINE_WINDOWS
from astrolab.simulation.rare import inject_bal

DIMS = ("object", "wavelength")
GRID = al.rest_grid(1200, 3800, 300)


def recorded_at(spectra, redshift):
    return spectra.assign_coords(redshift=("object", redshift))


def test_each_score_is_the_one_of_the_spectrum_at_that_redshift(vae, scale, quasars):
    few = quasars.isel(object=[3, 50])
    given = pd.DataFrame({"targetid": few.targetid.values, "redshift_2": few.redshift.values})
    own = few.redshift.values + 0.23  # no confusion of lines, no neighbour
    table = al.score_redshifts(vae, recorded_at(few, own), scale, GRID, alternatives=given)
    at_best = al.normalize_flux(al.to_restframe(recorded_at(few, table["redshift_best"].to_numpy()), GRID))
    truth = al.score_anomalies(vae, at_best, scale=scale).ranking.set_index("targetid")["anomaly_score"]
    np.testing.assert_allclose(table["score_best_redshift"], truth.loc[table["targetid"]], atol=0.1)
    np.testing.assert_allclose(table["rank_best_redshift"], scale.rank_of(table["score_best_redshift"]), atol=1)
    assert list(table["targetid"]) == list(few.targetid.values)
    assert (table["redshift"] == own).all()


@pytest.mark.parametrize("velocity", [-20_000, 8_000, 20_000, 50_000])
def test_a_wrong_redshift_is_doubted_and_the_right_one_found(vae, scale, quasars, velocity):
    wrong = (1 + quasars.redshift.values) * (1 + velocity / 299_792.458) - 1
    rows = np.flatnonzero((wrong > 1.3) & (wrong < 2.3) & (quasars.snr.values > 5))[:30]
    table = al.score_redshifts(vae, recorded_at(quasars, wrong).isel(object=rows), scale, GRID)
    doubtful = table["is_redshift_doubtful"].to_numpy()
    assert doubtful.mean() > 0.6
    error = 299_792.458 * ((1 + table["redshift_best"]) / (1 + quasars.redshift.values[rows]) - 1)
    assert (error.abs()[doubtful] < 3_500).mean() > 0.85
    assert (table["redshift_best_reason"][doubtful] != "").all()


def test_ordinary_quasars_and_outflows_are_seldom_doubted(vae, scale, quasars):
    some = quasars.isel(object=slice(0, 60))
    assert al.score_redshifts(vae, some, scale, GRID)["is_redshift_doubtful"].mean() < 0.05
    bal = inject_bal(
        some.flux.values, some.wavelength.values, some.redshift.values, np.random.default_rng(0), depth=0.8
    )
    assert al.score_redshifts(vae, some.assign(flux=(DIMS, bal)), scale, GRID)["is_redshift_doubtful"].mean() < 0.05


def test_a_line_taken_for_another_is_named(vae, scale, quasars):
    rows = np.flatnonzero((quasars.redshift.values < 1.5) & (quasars.snr.values > 8))
    wrong = (1 + quasars.redshift.values[rows]) * 1908.73 / 1549.06 - 1
    table = al.score_redshifts(vae, recorded_at(quasars.isel(object=rows), wrong), scale, GRID)
    doubted = table[table["is_redshift_doubtful"]]
    assert len(doubted) > 0.5 * len(table)
    assert (doubted["redshift_best_reason"] == "C III] was taken for C IV").mean() > 0.5


def test_redshifts_tried_are_physical_and_other_than_its_own():
    tried = alternative_redshifts(np.arange(3), np.array([0.05, 2.0, np.nan]))
    assert list(tried[tried["reason"] == ""]["row"]) == [0, 1, 2]
    others = tried[tried["reason"] != ""]
    assert others["redshift"].between(0, 7, inclusive="neither").all()
    assert set(others["row"]) == {0, 1}
    assert others[others["row"] == 1]["redshift"].min() < 0.2
    assert not np.isclose(others[others["row"] == 1]["redshift"], 2.0, atol=0.004).any()


def test_given_redshifts_are_tried_and_those_of_strangers_and_nan_are_not():
    given = pd.DataFrame(
        {"targetid": [11, 99, 11], "redshift": [0.5, 0.6, np.nan], "redshift_2": [0.7, 0.8, 0.9], "redshift_err": 1e-4}
    )
    tried = alternative_redshifts(np.array([10, 11]), np.array([2.0, 2.0]), given)
    found = tried[tried["reason"].str.endswith("given")]
    assert sorted(found["redshift"]) == [0.5, 0.7, 0.9]
    assert set(found["row"]) == {1}
    with pytest.raises(al.SchemaError, match="targetid of the alternatives is a float"):
        alternative_redshifts(np.array([10]), np.array([2.0]), given.astype({"targetid": float}))
    with pytest.raises(KeyError, match="expected 'targetid' and 'redshift'"):
        alternative_redshifts(np.array([10]), np.array([2.0]), given[["targetid"]])


def test_lines_speak_for_a_quasar_and_a_power_law_against_it(vae, scale, rest_quasars):
    bright = rest_quasars.isel(object=rest_quasars.snr.values > 10)
    law = (bright.wavelength_rest / 2000.0) ** -1.5
    flat = bright.assign(flux=xr_like(bright.flux, np.broadcast_to(law.values, bright.flux.shape)))
    assert np.median(line_evidence(raw_scores(vae, bright), scale.ordinary)) > 5
    assert np.median(line_evidence(raw_scores(vae, flat), scale.ordinary)) < -5


def test_line_evidence_is_the_plain_numpy_truth(vae, scale, rest_quasars):
    table = raw_scores(vae, rest_quasars.isel(object=slice(0, 3)))
    for i, evidence in enumerate(line_evidence(table, scale.ordinary)):
        total = 0.0
        for k, name in enumerate(LINE_WINDOWS):
            value, error = float(table[f"line_{name}"][i]), float(table[f"line_{name}_err"][i])
            if np.isfinite(value):
                there = np.hypot(scale.ordinary["line_scatter"][k], error)
                absent = np.hypot(0.1, error)
                ratio = -0.5 * ((value - scale.ordinary["line_median"][k]) / there) ** 2 - np.log(there)
                ratio += 0.5 * ((value - np.log(1.2)) / absent) ** 2 + np.log(absent)
                total += min(max(ratio, -8), 8)
        assert evidence == pytest.approx(total, abs=1e-4)


def test_lazy_spectra_and_masked_pixels_make_no_difference(vae, scale, quasars, in_chunks):
    few = quasars.isel(object=slice(0, 10))
    table = al.score_redshifts(vae, few, scale, GRID)
    pd.testing.assert_frame_equal(al.score_redshifts(vae, in_chunks(few, 3), scale, GRID), table)
    changed = few.assign(flux=few.flux.where(few.ivar > 0, 1e9).astype("f4"))
    pd.testing.assert_frame_equal(al.score_redshifts(vae, changed, scale, GRID), table)


def test_an_object_without_a_redshift_keeps_its_row(vae, scale, quasars):
    redshift = quasars.redshift.values[:3].copy()
    redshift[1] = np.nan
    table = al.score_redshifts(vae, recorded_at(quasars.isel(object=slice(0, 3)), redshift), scale, GRID)
    assert list(table["score_best_redshift"].isna()) == [False, True, False]
    assert not table["is_redshift_doubtful"][1]
    assert table["rank_best_redshift"][1] == 0


def test_other_frames_and_grids_are_refused(vae, scale, quasars, rest_quasars):
    with pytest.raises(al.SchemaError, match="expected the observed frame"):
        al.score_redshifts(vae, rest_quasars, scale, GRID)
    with pytest.raises(al.SchemaError, match="the model expects"):
        al.score_redshifts(vae, quasars, scale, GRID[:-1])


def xr_like(array, values):
    return array.copy(data=np.ascontiguousarray(values, dtype="float32"))
