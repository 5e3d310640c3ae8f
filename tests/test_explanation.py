"""Explanations name what made the score: the right place, and pixels without which the score falls."""

import numpy as np
import pandas as pd
import pytest

import astrolab as al
from astrolab.anomaly.faults import FAULT_COLUMNS
from astrolab.anomaly.rescoring import Rescorer
from astrolab.anomaly.scale import place_on_scale
from astrolab.anomaly.scores import raw_scores
from astrolab.lines import SPEED_OF_LIGHT
from benchmarks.ranking.families import ASTRO, FAMILIES, make_hosts

DIMS = ("object", "wavelength_rest")
CIV = 1549.06


@pytest.fixture(scope="module")
def troughs(rest_quasars):
    """Forty bright quasars with a Gaussian trough each in C IV, and its velocity (km/s)."""
    rows = np.flatnonzero((rest_quasars.snr > 8) & (rest_quasars.redshift > 1.75))[:40]
    rng = np.random.default_rng(0)
    velocity, sigma = rng.uniform(-20_000, -8_000, len(rows)), rng.uniform(800, 2_500, len(rows))
    some = rest_quasars.isel(object=rows)
    wavelength = some.wavelength_rest.values
    offset = SPEED_OF_LIGHT * (wavelength / CIV - 1)
    depth = 0.7 * np.exp(-0.5 * ((offset - velocity[:, None]) / sigma[:, None]) ** 2)
    level = np.median(some.flux.values[:, (wavelength > 1440) & (wavelength < 1470)], axis=1)
    flux = some.flux.values - np.where(some.ivar > 0, depth * level[:, None], 0)
    return some.assign(flux=(DIMS, flux.astype("f4"))), velocity


@pytest.fixture(scope="module")
def regions(vae, scale, troughs):
    return al.explain_anomaly(vae, troughs[0], scale)


def slow_score_without(vae, scale, one, is_removed):
    """Return the score of one object without some pixels by the survey's own functions; peers and fault are its own."""
    peers = raw_scores(vae, one)[["n_good", "snr_rest", *FAULT_COLUMNS]]
    without = one.assign(ivar=one.ivar.where(~is_removed, 0).astype("f4"))
    table = raw_scores(vae, without).assign(**peers, redshift=one.redshift.values)
    return place_on_scale(scale, table)["anomaly_score"].item()


def test_a_planted_trough_is_named_at_its_velocity_within_the_error(regions, troughs):
    first = regions[regions["region"] == 1].set_index("targetid").loc[troughs[0].targetid.values]
    assert (first["line"] == "C IV").all()
    assert first["what"].isin(["trough", "absorption"]).all()
    pull = (first["velocity"].to_numpy() - troughs[1]) / first["velocity_err"].to_numpy()
    print(f"rms pull {np.sqrt(np.mean(pull**2)):.2f}, median error {first['velocity_err'].median():.0f} km/s")
    assert 0.2 < np.sqrt(np.mean(pull**2)) < 1.2
    assert np.abs(pull).max() < 4
    assert first["velocity_err"].median() < 400  # a third of a pixel
    assert (first["significance"] < -3).all()
    assert (first["attribution_share"] > 20).mean() > 0.8


def test_a_region_says_what_the_score_would_be_without_it(vae, scale, regions, troughs):
    wavelength = troughs[0].wavelength_rest
    for row in regions.iloc[[0, 7, -1]].itertuples():
        one = troughs[0].isel(object=troughs[0].targetid.values == row.targetid)
        is_removed = (wavelength > row.wavelength_min) & (wavelength < row.wavelength_max)
        assert row.score_without == pytest.approx(slow_score_without(vae, scale, one, is_removed), abs=1e-3)
        assert row.rank_without == scale.rank_of(row.score_without)


def test_a_fault_explains_as_much_without_some_pixels_as_with_them(vae, scale, troughs):
    one = troughs[0].isel(object=[0])
    rescorer = Rescorer(vae, scale, one.wavelength_rest.values)
    pixels = one.flux.values, one.ivar.values
    raw = rescorer.raw(*pixels, one.redshift.values)
    nothing = np.zeros(pixels[0].shape, bool)
    assert rescorer.score_without(*pixels, raw, nothing) == pytest.approx(rescorer.place(raw)["anomaly_score"])
    explained = raw.assign(fault_power=10.0, fault_left=0.0)
    assert rescorer.score_without(*pixels, explained, nothing) < rescorer.score_without(*pixels, raw, nothing) - 1


def test_the_text_is_an_astronomers(regions):
    text = regions.loc[0, "text"]
    row = regions.loc[0]
    assert text.startswith(f"trough at \N{MINUS SIGN}{abs(round(row['velocity'], -2)):,.0f} ± ")
    assert " km/s from C IV, " in text
    assert text.endswith(f" % of the excess χ²; without it rank {row['rank_without']:,}")


def test_masked_pixels_do_not_matter_and_have_no_attribution(vae, scale, regions, troughs):
    some, is_masked = troughs[0], troughs[0].ivar.values == 0
    changed = some.assign(flux=some.flux.where(some.ivar > 0, 1e9).astype("f4"))
    pd.testing.assert_frame_equal(al.explain_anomaly(vae, changed, scale), regions)
    attribution = al.attribute_anomaly(vae, changed, scale)
    assert is_masked.any()
    assert (attribution.values[is_masked] == 0).all()
    np.testing.assert_allclose(np.abs(attribution).sum("wavelength_rest"), 1, rtol=1e-5)


def test_an_object_is_explained_alike_alone_and_among_others(vae, scale, regions, troughs):
    alone = al.explain_anomaly(vae, troughs[0].isel(object=[33]), scale)
    among = regions[regions["targetid"] == alone["targetid"][0]].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, among, rtol=1e-3, atol=1e-2)


def test_a_missing_line_is_named_as_one(vae, scale, rest_quasars):
    row = int(np.argmax(np.where(rest_quasars.redshift < 1.7, rest_quasars.snr, 0)))
    one = rest_quasars.isel(object=[row])
    wavelength = one.wavelength_rest.values
    sides = [(np.abs(wavelength - centre) < 20) for centre in (2680, 2920)]
    level = np.interp(wavelength, [2680, 2920], [np.median(one.flux.values[0, side]) for side in sides])
    noise = np.random.default_rng(0).normal(size=300) / np.sqrt(np.maximum(one.ivar.values, 1e-9))
    is_line = (wavelength > 2690) & (wavelength < 2910) & (one.ivar.values > 0)
    weak = one.assign(flux=(DIMS, np.where(is_line, level + noise, one.flux.values).astype("f4")))
    texts = al.explain_anomaly(vae, weak, scale)["text"]
    assert texts.str.contains("Mg II emission weaker than the survey's").any()


@pytest.fixture(scope="module")
def injected(quasars):
    """The survey with 80 injections of ten families, at middle and high doses, and where they are."""
    rng = np.random.default_rng(0)
    hosts = make_hosts(*(quasars[name].values for name in ("flux", "ivar", "wavelength", "redshift")), rng)
    flux, ivar, redshift = (part.copy() for part in (hosts.flux, hosts.ivar, hosts.redshift))
    is_free = np.ones(300, bool)
    # no [O III] and no damped Lyα at these redshifts
    families = [family for family in FAMILIES if family.kind == ASTRO and family.name not in ("strong_oiii", "dla")]
    for family in families:
        is_possible = is_free & (hosts.redshift >= family.redshift_min) & (hosts.redshift <= family.redshift_max)
        for dose in (family.doses[3], family.doses[5]):
            rows = rng.choice(np.flatnonzero(is_possible & is_free), 4, replace=False)
            flux[rows], ivar[rows], redshift[rows] = family.inject(hosts.rows(rows), dose, rng)
            is_free[rows] = False
    changed = {"flux": (quasars.flux.dims, flux.astype("f4")), "ivar": (quasars.ivar.dims, ivar.astype("f4"))}
    survey = quasars.assign(changed).assign_coords(redshift=("object", redshift))
    survey = al.normalize_flux(al.to_restframe(survey, al.rest_grid(1200, 3800, 300)))
    return survey, ~is_free


def random_windows(is_good, widths, rng):
    """Return as many good pixels as there are in windows of given widths (in good pixels), in windows elsewhere."""
    chosen = np.zeros(len(is_good), bool)
    for width in widths:
        left = np.flatnonzero(is_good & ~chosen)
        first = rng.integers(0, max(len(left) - width, 0) + 1)
        chosen[left[first : first + width]] = True
    return chosen


@pytest.fixture(scope="module")
def explained(vae, injected):
    survey, is_injected = injected
    ranking, _, scale = al.score_anomalies(vae, survey)
    some = survey.isel(object=is_injected)
    return ranking, scale, some, al.explain_anomaly(vae, some, scale)


def test_regions_of_an_object_are_numbered_and_do_not_overlap(explained):
    regions = explained[-1]
    assert set(regions["region"]) == {1, 2, 3}
    for _, own in regions.groupby("targetid", sort=False):
        assert list(own["region"]) == list(range(1, len(own) + 1))
        own = own.sort_values("wavelength_min")
        assert (own["wavelength_min"].to_numpy()[1:] >= own["wavelength_max"].to_numpy()[:-1] - 1e-6).all()
        assert own["chi2_share"].sum() <= 100 + 1e-6


def test_without_the_named_pixels_the_score_falls_more_than_without_random_ones(vae, explained):
    ranking, scale, some, regions = explained
    rng, n_random, wavelength = np.random.default_rng(1), 5, some.wavelength_rest.values
    is_removed = np.zeros((1 + n_random, len(some.targetid), 300), bool)
    for i, targetid in enumerate(some.targetid.values):
        is_good = some.ivar.values[i] > 0
        own = regions[regions["targetid"] == targetid]
        windows = [
            (wavelength > low) & (wavelength < high)
            for low, high in zip(own["wavelength_min"], own["wavelength_max"], strict=True)
        ]
        is_removed[0, i] = np.any(windows, axis=0)
        widths = [int((window & is_good).sum()) for window in windows]
        for draw in range(n_random):
            is_removed[1 + draw, i] = random_windows(is_good, widths, rng)
    peers = raw_scores(vae, some)[["n_good", "snr_rest"]].assign(redshift=some.redshift.values)
    scores = []
    for removed in is_removed:
        without = some.assign(ivar=(DIMS, np.where(removed, 0, some.ivar.values).astype("f4")))
        scores.append(place_on_scale(scale, raw_scores(vae, without).assign(**peers))["anomaly_score"].to_numpy())
    falls_more = scores[0] < np.array(scores[1:])  # (draw, object)
    rank = ranking.set_index("targetid")["anomaly_rank"].loc[some.targetid.values].to_numpy()
    is_found = rank <= 0.1 * len(ranking)
    print(f"{falls_more.mean():.1%} of {falls_more.size} deletions of {len(rank)} injected objects")
    print(f"{falls_more[:, is_found].mean():.1%} of those of the {is_found.sum()} in the top tenth of the list")
    assert len(rank) == 80
    assert falls_more.mean() >= 0.95
    assert falls_more[:, is_found].mean() >= 0.95


def test_what_cannot_be_explained_is_said(vae, scale, rest_quasars):
    few = rest_quasars.isel(object=[0, 1])
    with pytest.raises(ValueError, match="n_regions is 0"):
        al.explain_anomaly(vae, few, scale, n_regions=0)
    name = str(few.targetid.values[1])
    with pytest.raises(ValueError, match=f"targetid {name} has no good pixel or no redshift"):
        al.explain_anomaly(vae, few.assign_coords(redshift=("object", [2.0, np.nan])), scale)
    assert al.explain_anomaly(vae, rest_quasars.isel(object=[]), scale).empty


def test_nearest_ordinary_objects_are_the_plain_numpy_truth(vae, rest_quasars):
    ranking = al.score_anomalies(vae, rest_quasars).ranking
    asked = ranking["targetid"].head(3).to_numpy()
    found = al.nearest_ordinary(ranking, asked, n=4)
    latent = ranking[[f"latent_{i}" for i in range(4)]].to_numpy("float64")
    latent /= np.maximum(latent.std(axis=0), 0.1)
    for at, targetid in enumerate(asked):
        distance = np.sqrt(((latent - latent[at]) ** 2).sum(axis=1))
        z = ranking["redshift"]
        is_alike = (ranking["p_value"] > 0.2) & (np.abs(z - z[at]) < 0.05 * (1 + z[at])) & (z.index != at)
        nearest = ranking["targetid"].to_numpy()[np.argsort(np.where(is_alike, distance, np.inf))[:4]]
        assert list(found.loc[found["targetid"] == targetid, "targetid_ordinary"]) == list(nearest)
    with pytest.raises(ValueError, match="targetid 1 is not in the ranking"):
        al.nearest_ordinary(ranking, 1)
    with pytest.raises(ValueError, match="no latent_0"):
        al.nearest_ordinary(ranking[["targetid", "redshift", "p_value"]], asked)
