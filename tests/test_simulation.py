"""The simulated survey: deterministic, lazy, of the right shape, with the noise it states."""

import hashlib

import numpy as np
import pytest

from astrolab.schema import check_spectra
from astrolab.simulation.artefacts import ARTEFACTS
from astrolab.simulation.forest import LYA, effective_optical_depth, forest_transmission
from astrolab.simulation.grid import CAMERAS, N_WAVELENGTH, WAVELENGTH
from astrolab.simulation.instrument import coadd_ivar, observe
from astrolab.simulation.population import NSIDE, SurveyPlan, draw_population, healpix_to_sky
from astrolab.simulation.quasar_lines import BROAD_LINES
from astrolab.simulation.quasars import quasar_components, quasar_parameters
from astrolab.simulation.survey import simulate_block, simulate_survey


@pytest.fixture(scope="module")
def noisy_and_clean():
    both = [simulate_survey(512, seed=7, rare_fraction=0, with_noise=noise).compute() for noise in (True, False)]
    return both


def _digest(spectra):
    return hashlib.sha256(spectra["flux"].values.tobytes() + spectra["ivar"].values.tobytes()).hexdigest()


def _columns(spectra):
    return {name: column.values for name, column in spectra.coords.items() if column.dims == ("object",)}


def test_same_seed_gives_same_bytes_whatever_the_chunks():
    digests = {_digest(simulate_survey(280, seed=5, chunk_size=size).compute()) for size in (140, 256, 1000)}
    assert len(digests) == 1


def test_first_objects_do_not_depend_on_how_many_follow():
    few, many = simulate_survey(40, seed=5), simulate_survey(300, seed=5)
    assert _digest(few.compute()) == _digest(many.isel(object=slice(0, 40)).compute())
    for name, values in _columns(few).items():
        np.testing.assert_array_equal(values, _columns(many)[name][:40], err_msg=name)


def test_another_seed_gives_another_survey():
    one, other = (simulate_survey(16, seed=seed).compute() for seed in (0, 1))
    assert not np.array_equal(one["flux"], other["flux"])
    assert not np.array_equal(one["redshift"], other["redshift"])


def test_survey_keeps_to_the_schema_and_says_that_it_is_simulated():
    spectra = simulate_survey(600, seed=2)
    check_spectra(spectra)
    assert spectra["flux"].chunks == ((256, 256, 88), (N_WAVELENGTH,))
    assert spectra.attrs["is_simulated"] == 1
    assert "imulated" in spectra.attrs["title"]
    targetid = spectra["targetid"].values
    assert np.all(np.diff(targetid) > 0)
    assert targetid.min() > 2**53
    assert np.all(targetid >> 58 & 1)  # desitarget's bit for mocks


@pytest.mark.parametrize("n_objects", [0, -3, 2.5, True])
def test_number_of_objects_is_checked(n_objects):
    with pytest.raises(ValueError, match=r"n_objects is .* expected a whole number"):
        simulate_survey(n_objects)


def test_fractions_are_checked():
    with pytest.raises(ValueError, match="fractions"):
        simulate_survey(10, galaxy_fraction=0.7, star_fraction=0.5)


def test_noise_has_the_stated_inverse_variance(noisy_and_clean):
    noisy, clean = noisy_and_clean
    np.testing.assert_array_equal(noisy["ivar"], clean["ivar"])
    good = noisy["ivar"].values > 0
    chi = ((noisy["flux"] - clean["flux"]) * np.sqrt(noisy["ivar"])).values
    assert good.mean() > 0.99
    for camera in CAMERAS.values():
        values = chi[:, camera][good[:, camera]]
        assert abs(values.mean()) < 0.01
        assert values.std() == pytest.approx(1, abs=0.01)
        assert np.mean(np.abs(values) > 3) == pytest.approx(0.0027, rel=0.15)
    assert np.all(noisy["flux"].values[~good] == 0)


def test_population_looks_like_desis():
    blocks = [draw_population(SurveyPlan(seed=3, rare_fraction=0.2), block) for block in range(20)]
    column = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    kind = column["truth_spectype"]
    share = {name: np.mean(kind == name) for name in ("QSO", "GALAXY", "STAR", "SKY")}
    assert share["QSO"] == pytest.approx(0.90, abs=0.015)
    assert share["GALAXY"] == pytest.approx(0.04, abs=0.01)
    assert share["STAR"] == pytest.approx(0.04, abs=0.01)
    assert share["SKY"] == pytest.approx(0.02, abs=0.01)
    ordinary = (kind == "QSO") & (column["truth_rare"] == "")
    redshift = column["truth_redshift"][ordinary]
    assert np.median(redshift) == pytest.approx(1.65, abs=0.1)
    assert np.mean(redshift > 2.1) == pytest.approx(0.3, abs=0.05)
    assert redshift.min() >= 0.1
    assert redshift.max() <= 4.0
    magnitude = column["truth_magnitude"][ordinary]
    assert magnitude.min() >= 17
    assert magnitude.max() <= 23
    assert np.median(magnitude) == pytest.approx(21.6, abs=0.2)
    is_rare = column["truth_rare"] != ""
    assert np.all(kind[is_rare] == "QSO")
    assert is_rare[kind == "QSO"].mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(column["is_target"], kind != "SKY")


def test_recorded_redshift_is_wrong_only_where_planted():
    spectra = simulate_survey(4000, seed=1, rare_fraction=0.3)
    is_wrong = spectra["truth_rare"].values == "wrong_redshift"
    is_quasar = spectra["truth_spectype"].values == "QSO"
    offset = np.abs(spectra["redshift"] - spectra["truth_redshift"]).values / (1 + spectra["truth_redshift"].values)
    assert is_wrong.sum() > 20
    assert offset[is_wrong].min() > 0.01
    assert offset[is_quasar & ~is_wrong].max() < 0.006


def test_magnitude_is_that_of_the_flux(noisy_and_clean):
    clean = noisy_and_clean[1]
    in_band = (WAVELENGTH > 5620) & (WAVELENGTH < 7160)
    flux, good = clean["flux"].values[:, in_band], clean["ivar"].values[:, in_band] > 0
    mean = np.where(good, flux, np.nan)
    target = clean["is_target"].values
    measured = 22.5 - 2.5 * np.log10(np.nanmean(mean[target], axis=1) / 0.264)
    np.testing.assert_allclose(measured, clean["truth_magnitude"].values[target], atol=0.03)
    assert np.all(clean["flux"].values[~target] == 0)


def test_sky_lines_are_noisy_and_blue_end_is_poor():
    ivar = coadd_ivar(np.full((1, N_WAVELENGTH), 0.5, "float32"), np.ones(1), np.ones(1))[0]
    err = 1 / np.sqrt(ivar)
    at = lambda wavelength: err[np.argmin(np.abs(WAVELENGTH - wavelength))]  # noqa: E731
    assert at(5578.9) > 4 * at(5540)
    assert at(3650) > 3 * at(4500)
    assert at(8500) < at(4500)
    assert at(5780) > at(6200)  # the dichroic


def test_coadded_ivar_is_the_sum_of_the_cameras():
    flux = np.linspace(-1, 5, N_WAVELENGTH, dtype="float32")[None]
    one = np.ones(1)
    truth = np.zeros(N_WAVELENGTH)
    for name, pixels in CAMERAS.items():
        alone = coadd_ivar(flux, one, one, cameras=name)[0]
        assert np.all(alone[pixels] > 0)
        truth[pixels] += alone[pixels].astype(float)
    np.testing.assert_allclose(coadd_ivar(flux, one, one)[0], truth, rtol=1e-6)


def test_longer_exposures_and_clearer_nights_are_better():
    flux = np.ones((3, N_WAVELENGTH), "float32")
    ivar = coadd_ivar(flux, np.array([1, 4, 1]), np.array([1.0, 1.0, 1.3]))
    np.testing.assert_allclose(ivar[1], 4 * ivar[0], rtol=1e-5)
    assert np.all(ivar[2] > ivar[0])


def test_observing_nothing_gives_nothing_but_noise():
    flux, ivar = observe(np.zeros((64, N_WAVELENGTH), "float32"), np.ones(64), np.ones(64), np.random.default_rng(0))
    assert abs(np.median(flux * np.sqrt(ivar))) < 0.01


def test_broad_lines_are_where_they_belong():
    n = 300
    redshift = np.full(n, 1.9)
    parameters = quasar_parameters(redshift, np.full(n, 21.0), np.random.default_rng(0))
    mean = quasar_components(parameters).broad.mean(axis=0)
    for line, tolerance in ((1549.06, 8), (1908.73, 8), (2798.75, 4)):
        near = np.abs(WAVELENGTH / 2.9 - line) < 25
        peak = WAVELENGTH[near][mean[near].argmax()] / 2.9
        assert peak == pytest.approx(line, abs=tolerance)
        if line == 1549.06:
            assert line > peak  # C IV is blueshifted on average


def test_narrow_lines_are_where_they_belong():
    redshift = np.full(50, 0.4)
    parameters = quasar_parameters(redshift, np.full(50, 20.0), np.random.default_rng(0))
    mean = quasar_components(parameters).narrow.mean(axis=0)
    for line in (3728.48, 4960.30, 5008.24):
        near = np.abs(WAVELENGTH / 1.4 - line) < 15
        assert WAVELENGTH[near][mean[near].argmax()] / 1.4 == pytest.approx(line, abs=1.0)


def test_luminous_quasars_have_weaker_c_iv():
    n = 2000
    redshift = np.full(n, 2.0)
    magnitude = np.random.default_rng(0).uniform(18, 23, n)
    parameters = quasar_parameters(redshift, magnitude, np.random.default_rng(1))
    at = [line.wavelength for line in BROAD_LINES].index(1549.06)
    slope = np.polyfit(parameters.log_luminosity, np.log10(parameters.broad_strength[:, at]), 1)[0]
    assert slope == pytest.approx(-0.17, abs=0.04)


def test_line_carries_its_equivalent_width():
    """The flux of a broad line over the continuum is its equivalent width, measured on the spectrum itself."""
    parameters = quasar_parameters(np.full(40, 1.7), np.full(40, 21.0), np.random.default_rng(3))
    parts = quasar_components(parameters)
    near = np.abs(WAVELENGTH / 2.7 - 1549.06) < 45
    level = np.median(parts.continuum[:, near], axis=1)
    measured = parts.broad[:, near].sum(axis=1) * 0.8 / 2.7 / level
    at = [line.wavelength for line in BROAD_LINES].index(1549.06)
    np.testing.assert_allclose(np.median(measured / parameters.broad_strength[:, at]), 1, atol=0.15)


@pytest.mark.parametrize("absorber", [2.2, 2.8, 3.3])
def test_forest_has_the_mean_transmission(absorber):
    redshift = np.full(256, absorber + 0.2)
    transmission = forest_transmission(redshift, np.random.default_rng(0))
    low, high = np.searchsorted(WAVELENGTH, [LYA * (0.97 + absorber), LYA * (1.03 + absorber)])
    assert transmission[:, low:high].mean() == pytest.approx(np.exp(-effective_optical_depth(absorber)), abs=0.012)
    assert np.all(transmission[:, LYA * (1 + redshift[0]) < WAVELENGTH] == 1)


def test_no_forest_in_front_of_near_quasars():
    assert np.all(forest_transmission(np.full(3, 1.5), np.random.default_rng(0)) == 1)


def test_positions_lie_in_their_healpix_pixel():
    """Corners of base pixels known from Gorski et al. (2005): where faces meet at the equator and at the poles."""
    assert healpix_to_sky(0, 0.0, 0.0) == pytest.approx((45.0, 0.0))
    assert healpix_to_sky(NSIDE**2 - 1, 1.0, 1.0)[1] == pytest.approx(90)
    assert healpix_to_sky(4 * NSIDE**2, 0.0, 0.0) == pytest.approx((0.0, -41.8103), abs=1e-4)
    assert healpix_to_sky(8 * NSIDE**2, 0.0, 0.0)[1] == pytest.approx(-90)
    # nside 64: healpy.pix2ang(64, [8193, 9144, 11000], nest=True, lonlat=True)
    for pixel, centre in (
        (8193, (225.703125, 1.19374844)),
        (9144, (217.96875, 32.08995126)),
        (11000, (182.54716981, 50.48004426)),
    ):
        assert healpix_to_sky(pixel, 0.5, 0.5) == pytest.approx(centre, abs=1e-6)


def test_beyond_the_sky_is_refused():
    with pytest.raises(ValueError, match="beyond the sky"):
        draw_population(SurveyPlan(), 50_000)


def test_artefacts_are_planted():
    family = np.concatenate([draw_population(SurveyPlan(rare_fraction=1.0), block)["truth_rare"] for block in range(2)])
    assert set(ARTEFACTS) <= set(family)


def test_dead_amplifier_is_masked_in_the_survey():
    plan = SurveyPlan(seed=0, rare_fraction=1.0)
    flux, ivar = simulate_block(plan, 0)
    is_dead = draw_population(plan, 0)["truth_rare"] == "dead_amplifier"
    n_masked = (ivar == 0).sum(axis=1)
    assert is_dead.sum() > 3
    assert n_masked[is_dead].min() > 900
    assert n_masked[~is_dead].max() < 30
    assert np.all(flux[ivar == 0] == 0)


def test_real_noise_is_like_the_simulated(real_data):
    """Inverse variance of a real DESI coadd of one long exposure, camera by camera, to a quarter of its sigma."""
    from astrolab.readers.desi import read_desi

    real = read_desi(real_data / "desi" / "coadd-sv3-dark-9144.fits").compute()
    flux = np.full((1, N_WAVELENGTH), 0.5, "float32")
    simulated = coadd_ivar(flux, np.ones(1), np.ones(1))[0]
    for pixels in CAMERAS.values():
        inside = slice(pixels.start + 60, pixels.stop - 60)
        weight = real["ivar"].values[1, inside]
        ratio = np.sqrt(simulated[inside][weight > 0] / weight[weight > 0])
        assert np.median(ratio) == pytest.approx(1, abs=0.15)
        assert np.percentile(ratio, 10) > 0.7
        assert np.percentile(ratio, 90) < 1.4
