"""Absorption masked, from a catalogue or from the residuals, and what remains strange without it."""

import numpy as np
import pandas as pd
import pytest

import astrolab as al
from astrolab.anomaly.absorbers import describe_absorbers
from astrolab.simulation.rare import inject_bal

DIMS = ("object", "wavelength")
GRID = al.rest_grid(1200, 3800, 300)
N_BAL = 20


def to_rest(spectra):
    return al.normalize_flux(al.to_restframe(spectra, GRID))


@pytest.fixture(scope="module")
def hosts(quasars):
    """Bright quasars in which C IV and 25,000 km/s to its blue are seen."""
    return quasars.isel(object=np.flatnonzero((quasars.redshift.values > 1.7) & (quasars.snr.values > 7))[:N_BAL])


@pytest.fixture(scope="module")
def bals(hosts):
    flux = inject_bal(
        hosts.flux.values, hosts.wavelength.values, hosts.redshift.values, np.random.default_rng(0),
        velocity=6000, width=6000, depth=0.8, signal=hosts.flux.values,
    )  # fmt: skip
    return to_rest(hosts.assign(flux=(DIMS, flux)))


@pytest.fixture(scope="module")
def catalogue(hosts):
    row = {"kind": "BAL", "velocity_min": -13_000.0, "velocity_max": -5_500.0}
    return pd.DataFrame({"targetid": hosts.targetid.values} | row)


def test_lines_are_masked_where_they_are_in_either_frame(quasars):
    few = quasars.isel(object=slice(0, 5))
    rest = al.to_restframe(few, GRID)
    masked = al.mask_lines(rest, "C IV", width=4000)
    is_inside = np.abs(GRID / 1549.06 - 1) * 299_792.458 <= 2000
    assert (masked.ivar.values[:, is_inside] == 0).all()
    np.testing.assert_array_equal(masked.ivar.values[:, ~is_inside], rest.ivar.values[:, ~is_inside])
    np.testing.assert_array_equal(masked.flux, rest.flux)
    observed = al.mask_lines(few, ["Mg II", 1908.73], width=3000)
    for i, redshift in enumerate(few.redshift.values):
        emitted = few.wavelength.values / (1 + redshift)
        velocity = np.min([np.abs(emitted / line - 1) for line in (2798.75, 1908.73)], axis=0) * 299_792.458
        truth = np.where(velocity <= 1500, 0, few.ivar.values[i])
        np.testing.assert_array_equal(observed.ivar.values[i], truth)


def test_lines_stay_lazy_and_an_object_without_redshift_unmasked(quasars, in_chunks):
    few = quasars.isel(object=slice(0, 3)).assign_coords(redshift=("object", [2.0, np.nan, -1.0]))
    masked = al.mask_lines(in_chunks(few, 2), "C IV")
    assert masked.ivar.chunks is not None
    cut = few.assign(ivar=few["ivar"].variable.chunk({"object": 2, "wavelength": 100}))
    assert al.mask_lines(cut, "C IV").ivar.compute().equals(masked.ivar.compute())
    is_same = (masked.ivar == few.ivar).all("wavelength").values
    assert list(is_same) == [False, True, True]


@pytest.mark.parametrize(
    ("lines", "width", "message"),
    [
        ("C VI", 3000, "did you mean 'O VI"),
        ("Lya", 3000, "mean 'Lyα'"),
        ("Hbeta", 3000, "mean 'Hβ'"),
        (-5.0, 3000, "positive rest wavelength"),
        ("C IV", -1, "not negative"),
    ],
)
def test_what_is_no_line_is_said(rest_quasars, lines, width, message):
    with pytest.raises(ValueError, match=message):
        al.mask_lines(rest_quasars, lines, width=width)


def test_an_outflow_is_found_where_it_was_put(vae, bals, hosts):
    found = al.find_absorbers(vae, bals)
    in_civ = found[(found["kind"] == "BAL") & (found["line"] == "C IV")]
    assert in_civ["targetid"].nunique() >= 0.8 * N_BAL
    assert in_civ["velocity_min"].median() == pytest.approx(-12_500, abs=2_500)
    assert in_civ["velocity_max"].median() == pytest.approx(-5_500, abs=2_000)


def test_an_outflow_loses_its_rank_when_explained(vae, scale, bals, hosts, catalogue):
    nothing = catalogue.head(0)
    raw = al.score_unexplained(vae, bals, scale, absorbers=nothing)
    assert np.median(raw["rank_unexplained"]) == 1
    # what is left is as strange as the host would be with these pixels masked, and no stranger
    host = al.score_unexplained(vae, to_rest(hosts), scale, absorbers=catalogue)["score_unexplained"]
    for absorbers in (None, catalogue):
        table = al.score_unexplained(vae, bals, scale, absorbers=absorbers)
        explained = (table["explained_by"] != "").to_numpy()
        assert explained.mean() >= 0.8
        assert table["explained_by"][explained].str.contains("BAL trough").all()
        assert table["score_unexplained"][explained].median() < 0.35 * raw["score_unexplained"].median()
        assert table["score_unexplained"][explained].median() == pytest.approx(host.median(), abs=0.7)
        assert (table["rank_unexplained"] > raw["rank_unexplained"]).mean() >= 0.7


def test_a_strange_emission_line_stays_strange_and_the_same_bit_for_bit(vae, scale, hosts):
    rest = hosts.wavelength.values / (1 + hosts.redshift.values[:, None])
    level = np.median(hosts.flux.values, axis=1, keepdims=True)
    flux = hosts.flux.values + level * 3 * np.exp(-0.5 * ((rest - 2350) / 15) ** 2)
    spectra = to_rest(hosts.assign(flux=(DIMS, flux.astype("f4"))))
    scored = al.score_anomalies(vae, spectra, scale=scale).ranking
    scored = scored.set_index("targetid").loc[spectra.targetid.values]
    ranked = spectra.assign_coords({name: ("object", scored[name]) for name in ("anomaly_score", "anomaly_rank")})
    table = al.score_unexplained(vae, ranked, scale)
    untouched = (table["explained_by"] == "").to_numpy()
    assert untouched.mean() > 0.8
    assert list(table["score_unexplained"][untouched]) == list(scored["anomaly_score"][untouched])
    assert list(table["rank_unexplained"][untouched]) == list(scored["anomaly_rank"][untouched])
    assert np.median(table["rank_unexplained"]) <= np.median(scored["anomaly_rank"]) + 2


def test_ordinary_quasars_have_no_absorbers(vae, scale, rest_quasars):
    found = al.find_absorbers(vae, rest_quasars)
    assert found["targetid"].nunique() <= 3
    assert found["targetid"].dtype == "int64"
    few = rest_quasars.isel(object=slice(0, 8))
    none = al.score_unexplained(vae, few, scale, absorbers=found.head(0))
    plain = al.score_anomalies(vae, few, scale=scale).ranking.set_index("targetid").loc[few.targetid.values]
    assert list(none["score_unexplained"]) == list(plain["anomaly_score"])
    assert (none["explained_by"] == "").all()


def test_a_damped_absorber_and_metal_lines_are_found_at_their_redshift(vae, rest_quasars):
    bright = rest_quasars.isel(object=np.flatnonzero(rest_quasars.snr.values > 14)[:6])
    redshift, absorber = bright.redshift.values, bright.redshift.values - 0.3
    emitted = bright.wavelength_rest.values * (1 + redshift[:, None]) / (1 + absorber[:, None])
    depth = sum(np.exp(-0.5 * ((emitted / line - 1) * 3e5 / 600) ** 2) for line in (2799.1, 2600.17, 2382.76))
    flux = (bright.flux * (1 - np.minimum(0.9 * depth, 0.95))).astype("f4")
    found = al.find_absorbers(vae, bright.assign(flux=flux))
    metals = found[found["kind"] == "metal"]
    truth = pd.Series(absorber, index=bright.targetid.values)
    assert metals["targetid"].nunique() >= 4
    offset = (metals["redshift_absorber"] - truth.loc[metals["targetid"]].to_numpy()).abs()
    assert (offset < 0.006).mean() > 0.8


def test_a_catalogue_masks_what_it_names_and_nothing_else(rest_quasars):
    few = rest_quasars.isel(object=slice(0, 3)).assign(ivar=rest_quasars.ivar[:3] * 0 + 1)
    ids, redshift = few.targetid.values, few.redshift.values
    rows = [
        {"targetid": ids[0], "kind": "BAL", "line": "Mg II", "velocity_min": -9000, "velocity_max": -3000},
        {"targetid": ids[1], "kind": "metal", "redshift_absorber": redshift[1] - 0.4},
        {"targetid": 5, "kind": "DLA", "redshift_absorber": 2.0},
    ]
    masked = al.mask_absorbers(few, pd.DataFrame(rows)).ivar.values == 0
    step = 299_792.458 * np.log(GRID[1] / GRID[0])
    velocity = 299_792.458 * (GRID / 2798.75 - 1)
    assert masked[0][(velocity > -9000) & (velocity < -3000)].all()
    assert not masked[0][(velocity < -9000 - step) | (velocity > -3000 + step)].any()
    at = 2799.1 * (1 + redshift[1] - 0.4) / (1 + redshift[1])
    assert masked[1][np.argmin(np.abs(GRID - at))]
    assert 10 < masked[1].sum() < 60
    assert not masked[2].any()


def test_an_outflow_of_a_catalogue_is_masked_in_all_its_lines_in_either_frame(hosts, catalogue):
    masked = al.mask_absorbers(hosts, catalogue.head(1))
    emitted = hosts.wavelength.values / (1 + hosts.redshift.values[0])
    for line in (1396.76, 1549.06):
        velocity = 299_792.458 * (emitted / line - 1)
        assert (masked.ivar.values[0][(velocity > -13_000) & (velocity < -5_500)] == 0).all()
    np.testing.assert_array_equal(masked.ivar[1:], hosts.ivar[1:])


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"kind": "BAL"}, KeyError, "no column 'targetid'"),
        (
            {"targetid": 1.0, "kind": "DLA", "redshift_absorber": 2.0},
            ValueError,
            "targetid of the absorbers is a float",
        ),
        ({"targetid": 1, "kind": "LLS", "redshift_absorber": 2.0}, ValueError, "no kind 'LLS'"),
        ({"targetid": 1, "kind": "BAL", "line": "C 4", "velocity_min": -2, "velocity_max": -1}, ValueError, "'C 4'"),
        ({"targetid": 1, "kind": "DLA"}, ValueError, "targetid 1 has neither"),
    ],
)
def test_a_catalogue_that_says_nothing_is_refused(rest_quasars, row, error, message):
    with pytest.raises(error, match=message):
        al.mask_absorbers(rest_quasars, pd.DataFrame([row]))


def test_too_little_left_is_said_and_nothing_masked(vae, scale, rest_quasars):
    one = rest_quasars.isel(object=[7])
    row = {"targetid": one.targetid.values, "kind": "BAL", "line": "Mg II"}
    table = al.score_unexplained(
        vae, one, scale, absorbers=pd.DataFrame(row | {"velocity_min": -290_000, "velocity_max": 290_000})
    )
    assert "fewer than 50 pixels would be left" in table["explained_by"][0]
    none = al.score_unexplained(
        vae, one, scale, absorbers=pd.DataFrame(row | {"velocity_min": -2, "velocity_max": -1}).head(0)
    )
    assert table["score_unexplained"][0] == none["score_unexplained"][0]


def test_masked_pixels_do_not_matter(vae, scale, bals):
    changed = bals.assign(flux=bals.flux.where(bals.ivar > 0, 1e9).astype("f4"))
    pd.testing.assert_frame_equal(al.find_absorbers(vae, changed), al.find_absorbers(vae, bals))


def test_absorbers_in_words():
    rows = [
        {"targetid": 2, "kind": "BAL", "line": "C IV", "velocity_min": -12_400, "velocity_max": -4_100},
        {"targetid": 2, "kind": "DLA", "redshift_absorber": 2.3101},
        {"targetid": 3, "kind": "metal", "redshift_absorber": 0.7},
    ]
    words = describe_absorbers(pd.DataFrame(rows))
    assert words.loc[2] == "BAL trough -12,400 to -4,100 km/s of C IV; DLA at z 2.310"
    assert words.loc[3] == "metal absorber at z 0.700"


def test_the_observed_frame_is_refused(vae, scale, quasars):
    with pytest.raises(al.SchemaError, match="expected normalised ones in the rest frame"):
        al.score_unexplained(vae, quasars, scale)
