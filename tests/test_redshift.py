"""Classes and redshifts: the scan against plain numpy, the refinement against brute force, answers against truth."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from astropy.io import fits
from scipy.interpolate import CubicSpline

import astrolab as al
from astrolab.redshift import classify, hypotheses
from astrolab.redshift.build import fit_vectors
from astrolab.redshift.candidates import velocity_between
from astrolab.redshift.network import COLUMNS, classifier_card, judge_spectra, probability_near
from astrolab.redshift.refine import CHI2, refine_minima
from astrolab.redshift.scan import (
    LOG_BIN,
    bin_edges,
    bin_spectra,
    clean_spectra,
    plan_scan,
    scan_batch,
)
from astrolab.redshift.templates import TemplateSet, open_templates, save_templates, templates_card
from astrolab.simulation.injections import smooth_spectra
from astrolab.simulation.rare import inject_bal

SPEED_OF_LIGHT = 299792.458


@pytest.fixture(scope="module")
def survey():
    """60 simulated spectra, in memory: mostly quasars, some galaxies, stars and sky."""
    return al.simulate_survey(
        60, seed=11, rare_fraction=0, galaxy_fraction=0.25, star_fraction=0.2, sky_fraction=0.1
    ).load()


@pytest.fixture(scope="module")
def answers(survey):
    return al.classify_spectra(survey)


def _free(one):
    """The same set with free amplitudes: then the evidence is χ²."""
    free = np.full(len(one.vectors), np.inf)
    return TemplateSet(
        one.spectype, one.subtype, one.vectors, free, one.log_first, one.log_step, one.redshift_min, one.redshift_max,
        one.scan_stride,
    )  # fmt: skip


def _set(subtype, spectype="QSO"):
    return next(one for one in open_templates() if (one.spectype, one.subtype) == (spectype, subtype))


def _basis(one, wavelength, redshift):
    at = np.log10(wavelength) - np.log10(1 + redshift)
    return CubicSpline(one.log_wavelength, one.vectors, axis=1)(at).T


def _columns(survey):
    return tuple(survey[name].values for name in ("flux", "ivar"))


# --- the scan


def test_scan_is_its_plain_numpy_truth(survey):
    flux, weight, _ = clean_spectra(*(one[:5] for one in _columns(survey)), survey.wavelength.values)
    binned = bin_spectra(flux, weight, survey.wavelength.values)
    for one in (_set("LOZ"), _set("BAL"), _free(_set("", "GALAXY"))):
        plan = plan_scan(one, survey.wavelength.values)
        gain = scan_batch(*binned, plan).numpy()
        n_bin = binned[0].shape[1]
        n = len(one.vectors)
        for k in range(0, len(plan.redshift), 211):
            basis = plan.vectors[:n, k * plan.stride : k * plan.stride + n_bin].numpy().astype("float64").T
            for i in range(5):
                w, wf = (part[i].numpy().astype("float64") for part in binned)
                normal, right = basis.T * w @ basis, basis.T @ wf
                amplitude2 = max(right[0] / normal[0, 0], 0.3 / np.sqrt(normal[0, 0])) ** 2
                precision = np.where(np.isfinite(one.prior_err), 1 / (amplitude2 * one.prior_err**2), 0)
                system = normal * (1 + 1e-6 * np.eye(n)) + np.diag(precision)
                wanted = right @ np.linalg.solve(system, right)
                if precision.any():
                    wanted += np.log(precision[precision > 0]).sum() - np.linalg.slogdet(system)[1]
                    wanted = wanted if right[0] > 0 else 0
                scale = max(abs(right @ np.linalg.solve(system, right)), 1.0)
                assert gain[i, k] == pytest.approx(wanted, abs=0.02 + 1e-5 * scale)


def test_chi2_of_free_amplitudes_is_that_of_a_brute_force_fit(survey):
    one = _free(_set("MIDZ"))
    quasars = survey.isel(object=np.flatnonzero(survey.truth_spectype == "QSO")[:3])
    flux, weight, _ = clean_spectra(*_columns(quasars), survey.wavelength.values)
    redshift = np.full(3, 1.9)
    fit = refine_minima(flux, weight, np.log10(survey.wavelength.values), one, redshift, (0.8, 3.4), n_group=1)
    for i in range(3):
        root = np.sqrt(weight[i].astype("float64"))
        basis = _basis(one, survey.wavelength.values, fit[i, 0])
        residual = np.linalg.lstsq(root[:, None] * basis, root * flux[i], rcond=None)[1][0]
        assert fit[i, 2] == pytest.approx(residual, rel=1e-5)


def test_refinement_finds_the_minimum_between_the_steps(survey):
    one = _set("", "GALAXY")
    rng = np.random.default_rng(5)
    wavelength = survey.wavelength.values
    for redshift in (0.12345, 0.71234, 1.2001):
        ivar = np.full(len(wavelength), 400.0, "float32")
        flux = _basis(one, wavelength, redshift)[:, 0]
        flux /= np.median(flux)
        flux = (flux + rng.normal(size=flux.size) / 20).astype("float32")
        f, w, _ = clean_spectra(flux[None], ivar[None], wavelength)
        coarse = 10 ** (LOG_BIN * np.round(np.log10(1 + redshift) / LOG_BIN)) - 1
        fit = refine_minima(f, w, np.log10(wavelength), one, np.array([coarse]), (0.0, 1.7))[0]
        assert SPEED_OF_LIGHT * abs(fit[0] - redshift) / (1 + redshift) < 15
        assert abs(fit[0] - redshift) < 5 * fit[1] + 1e-5
        around = fit[:1] + (1 + redshift) * np.array([[-5e-5], [0], [5e-5]])
        finer = [refine_minima(f, w, np.log10(wavelength), one, z, (0.0, 1.7), n_turns=0)[0, CHI2] for z in around]
        assert finer[1] == min(finer)


def test_pixels_in_groups_say_of_broad_lines_what_single_pixels_say(survey):
    one, wavelength = _set("MIDZ"), survey.wavelength.values
    rows = np.flatnonzero((survey.truth_spectype == "QSO") & (survey.truth_redshift > 1) & (survey.truth_redshift < 3))
    flux, weight, _ = clean_spectra(*(part[rows[:12]] for part in _columns(survey)), wavelength)
    weight[:, 1000:1003] = 0  # a group of which one pixel is left
    own = flux, weight, np.log10(wavelength), one, survey["truth_redshift"].values[rows[:12]], (0.8, 3.4)
    grouped, single = refine_minima(*own), refine_minima(*own, n_group=1)
    assert len(grouped) > 8
    velocity = SPEED_OF_LIGHT * np.abs(grouped[:, 0] - single[:, 0]) / (1 + single[:, 0])
    assert np.median(velocity * (1 + single[:, 0]) / SPEED_OF_LIGHT / single[:, 1]) < 0.25  # of sigma
    at_truth = [refine_minima(*own, n_turns=0, n_group=n)[:, CHI2] for n in (None, 1)]
    # what is left is the forest, in which templates have structure narrower than a group
    np.testing.assert_allclose(*at_truth, rtol=3e-3)


def test_redshift_err_is_the_scatter_of_repeated_measurements():
    one, wavelength = _set("", "GALAXY"), 10 ** (1e-4 * np.arange(35800, 39800))
    rng = np.random.default_rng(2)
    flux = _basis(one, wavelength, 0.5)[:, 0]
    flux /= np.median(flux)
    n = 120
    noisy = (flux + 0.2 * rng.normal(size=(n, flux.size))).astype("float32")
    f, w, _ = clean_spectra(noisy, np.full(noisy.shape, 25.0, "float32"), wavelength)
    fit = refine_minima(f, w, np.log10(wavelength), one, np.full(n, 0.5), (0.0, 1.7))
    pull = (fit[:, 0] - 0.5) / fit[:, 1]
    assert 0.75 < 1.4826 * np.median(np.abs(pull)) < 1.3


def test_bins_hold_every_pixel_once(survey):
    for wavelength in (survey.wavelength.values, 10 ** (1e-4 * np.arange(35400, 40251))):
        first, starts = bin_edges(wavelength)
        assert starts[0] == 0
        assert starts[-1] == len(wavelength)
        centre = first + np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        assert np.abs(np.log10(wavelength) / LOG_BIN - centre).max() <= 0.5 + 1e-6


def test_curve_has_its_minimum_at_the_answer(survey, answers):
    is_good = (answers["subtype"] == "MIDZ") & (answers["redshift_warning"] == 0)
    row = int(np.flatnonzero(is_good)[0])
    curve = hypotheses.chi2_curve(survey.isel(object=[row]), _set("MIDZ"))
    assert curve["redshift"].is_monotonic_increasing
    assert curve["redshift"][curve["chi2"].idxmin()] == pytest.approx(answers["redshift"][row], abs=0.01)


# --- answers


def test_simulated_spectra_get_their_class_and_redshift(survey, answers):
    """SIMULATED: templates and spectra come from one simulator, so this says that the engine works, no more."""
    truth, redshift = survey["truth_spectype"].values, survey["truth_redshift"].values
    velocity = SPEED_OF_LIGHT * np.abs(answers["redshift"].to_numpy() - redshift) / (1 + redshift)
    limit = np.where(truth == "QSO", 3000, 1000)
    good = (answers["redshift_warning"] == 0).to_numpy() & (truth != "SKY")
    right = (velocity < limit) & (answers["spectype"].to_numpy() == truth)
    assert good.sum() >= 0.6 * np.count_nonzero(truth != "SKY")
    assert right[good].mean() > 0.93
    assert not (answers["redshift_warning"][truth == "SKY"] == 0).any()


def test_sky_fibres_are_doubtful_even_when_nobody_says_that_they_are_sky(survey):
    sky = al.simulate_survey(300, seed=4, sky_fraction=1.0, star_fraction=0, galaxy_fraction=0).isel(object=slice(60))
    answers = al.classify_spectra(sky.drop_vars("is_target").load())
    assert np.count_nonzero(answers["redshift_warning"] == 0) <= 1


def test_every_object_has_a_row_and_hypotheses_are_sorted(survey, answers):
    assert answers["targetid"].tolist() == survey["targetid"].values.tolist()
    assert answers["targetid"].dtype == "int64"
    assert answers["redshift_warning"].dtype == "int64"
    assert set(answers["spectype"]) <= {"QSO", "GALAXY", "STAR"}
    assert answers["probability"].between(0, 1).all()
    next_best = answers[[f"delta_chi2_{k}" for k in range(2, 6)]].to_numpy()
    assert (np.diff(next_best, axis=1)[np.isfinite(np.diff(next_best, axis=1))] >= 0).all()


def test_every_opinion_is_kept(survey, answers):
    scan = al.classify_spectra(survey, with_network=False)
    has = scan["spectype"] != ""
    alone = answers.loc[has & (answers["source"] == "scan") & (answers["spectype_scan"] == scan["spectype"])]
    settled = np.where(alone["spectype"] == "QSO", 2000.0, 1.0)  # km/s that a quasar may move after the scan
    assert (velocity_between(alone["redshift_scan"], scan["redshift"][alone.index]) < settled).all()
    assert scan["bal_probability"].isna().all()
    assert (scan["spectype_network"] == "").all()
    truth = survey["truth_spectype"].values
    assert (answers["spectype_network"] == truth)[truth != "SKY"].mean() > 0.8
    assert answers["bal_probability"].between(0, 1).all()
    assert answers["probability_network"].between(0, 1.0001).all()
    assert set(answers["source"]) <= {"scan", "network", "trough"}
    assert answers["redshift_network"].isna().equals(answers["spectype_network"] == "")


def test_network_gives_its_own_probability_where_it_was_asked(survey):
    flux, weight, _ = clean_spectra(*(one[:20] for one in _columns(survey)), survey.wavelength.values)
    judgement, log_probability = judge_spectra(flux, weight, survey.wavelength.values)
    column = dict(zip(COLUMNS, judgement.T, strict=True))
    np.testing.assert_allclose(np.exp(log_probability).sum(axis=1), 1, atol=1e-4)
    found = probability_near(log_probability, np.full((20, 1), "QSO"), column["redshift_qso"][:, None])[:, 0]
    np.testing.assert_allclose(found, column["p_qso"] * column["p_bin_qso"], atol=0.1)
    nothing = probability_near(log_probability, np.array([[""]] * 20), np.zeros((20, 1)))[:, 0]
    np.testing.assert_allclose(nothing, column["p_nothing"], atol=1e-6)


def test_shipped_network_has_a_card_and_is_small():
    path = Path(classify.__file__).with_name("classifier.safetensors")
    card = classifier_card()
    assert path.stat().st_size < 600_000
    assert card["command"].startswith("python -m astrolab.redshift.train_classifier")
    assert card["figures_real_held_out"]["QSO"]["n"] > 100


def test_chunks_do_not_matter(survey, answers, in_chunks):
    pd.testing.assert_frame_equal(al.classify_spectra(in_chunks(survey, 17)), answers)


def test_masked_pixels_do_not_matter(survey, answers):
    changed = survey.copy(deep=True)
    changed["flux"].values[survey["ivar"].values == 0] = 1e6
    pd.testing.assert_frame_equal(al.classify_spectra(changed), answers)


def _spoilt(survey):
    bad = survey.isel(object=slice(6)).copy(deep=True)
    flux, ivar = bad["flux"].values, bad["ivar"].values
    ivar[0] = 0  # nothing measured
    flux[1], ivar[1] = np.nan, 1
    flux[2, 100:200], ivar[2, 300:310] = np.nan, -1
    flux[3] = 1e30
    ivar[4, 1500:] = 0  # a part of one arm
    flux[5, 50], ivar[5, 60] = np.inf, np.inf
    return bad.assign_coords(targetid=("object", np.arange(6)))


def test_bad_spectra_get_warnings_and_spoil_nothing(survey, answers):
    bad = _spoilt(survey)
    mixed = xr.concat([bad, survey], dim="object")
    found = al.classify_spectra(mixed)
    pd.testing.assert_frame_equal(found.iloc[6:].reset_index(drop=True), answers)  # bit for bit
    warning = found["redshift_warning"].to_numpy()
    for i in (0, 1, 3):
        assert warning[i] & classify.NO_DATA
        assert warning[i] & al.schema.NO_REDSHIFT
        assert np.isnan(found["redshift"][i])
        assert found["spectype"][i] == ""
        assert found["probability"][i] == 0
    assert warning[2] & classify.POOR_DATA
    assert warning[5] & classify.POOR_DATA
    assert warning[4] & classify.LITTLE_COVERAGE
    assert not warning[0] & classify.POOR_DATA
    assert np.isfinite(found["redshift"][[2, 4, 5]]).all()


def test_negative_light_is_never_a_good_answer(survey):
    negative = survey.isel(object=slice(20)).copy(deep=True)
    negative["flux"].values[:] = -np.abs(negative["flux"].values)
    assert not (al.classify_spectra(negative)["redshift_warning"] == 0).any()


def test_rest_frame_spectra_are_refused(rest_quasars):
    with pytest.raises(al.schema.SchemaError, match="rest frame"):
        al.classify_spectra(rest_quasars)


def test_a_sure_network_elsewhere_is_a_warning():
    found = {"redshift": np.array([[2.0], [2.0], [2.0], [2.0], [np.nan]])}
    opinions = {
        "redshift_network": np.array([2.02, 2.04, 2.04, np.nan, 2.0]),
        "probability_network": np.array([0.99, 0.99, 0.7, np.nan, 0.99]),
    }
    assert classify._disagreement(found, opinions).tolist() == [0, classify.DISAGREES, 0, 0, 0]


def test_answers_with_a_sure_network_elsewhere_are_improbable():
    """Iron absorption that no template holds: the scan goes astray, and the network sees it."""
    survey = al.simulate_survey(120, seed=77, rare_fraction=0.3, galaxy_fraction=0, star_fraction=0, sky_fraction=0)
    answers = al.classify_spectra(survey.load())
    differs = (answers["redshift_warning"] & classify.DISAGREES > 0).to_numpy()
    velocity = velocity_between(answers["redshift"], survey["truth_redshift"].values)
    assert differs.any()
    assert (velocity[differs] > 3000).mean() > 0.5
    assert (answers["probability"][differs] <= 0.3).all()


def test_probability_of_a_tie_is_a_half():
    found = {"score": np.array([[10.0, 10.0], [10.0, 1000.0], [np.nan, np.nan]]), "score_smooth": np.full((3, 2), 1e9)}
    np.testing.assert_allclose(classify.class_probability(found), 0.985 * np.array([0.5, 1, 0]), atol=1e-6)


def test_table_for_desi_tools(answers, tmp_path):
    classify.save_redrock(answers, tmp_path / "redshifts.fits")
    with fits.open(tmp_path / "redshifts.fits", checksum=True) as hdus:
        table = hdus["REDSHIFTS"].data
        assert table["TARGETID"].tolist() == answers["targetid"].tolist()
        assert table["SPECTYPE"].tolist() == answers["spectype"].tolist()
        np.testing.assert_array_equal(table["Z"], answers["redshift"])
        np.testing.assert_array_equal(table["ZWARN"], answers["redshift_warning"])


# --- real spectra


@pytest.fixture(scope="module")
def labelled(real_data):
    """Answers of real SDSS spectra beside their truth, weak labels left out; floors below are conservative."""
    truth = pd.read_csv(real_data / "sdss" / "truth.csv")
    truth = truth[~truth["truth_source"].str.contains("weak") | (truth["truth_class"] == "SKY")]
    spectra = al.read_sdss([str(real_data / "sdss" / file) for file in truth["file"]])
    number = truth["plate"].astype(str) + truth["mjd"].astype(str) + truth["fiber"].map("{:04d}".format)
    truth = truth.set_index(number.astype("int64")).loc[spectra["targetid"].values]
    table = al.classify_spectra(spectra).assign(truth_class=truth["truth_class"].array, truth_z=truth["truth_z"].array)
    table["is_inspected"] = truth["truth_source"].str.contains("visual").array
    table["velocity"] = velocity_between(table["redshift"], table["truth_z"])
    return table


@pytest.mark.real
@pytest.mark.parametrize(
    ("spectype", "limit", "n_near", "n_class"), [("QSO", 3000, 240, 245), ("GALAXY", 1000, 16, 16)]
)
def test_real_spectra_get_their_class_and_redshift(labelled, spectype, limit, n_near, n_class):
    """Redrock with its own templates, same files: of 252 quasars about 240 near and 245 of the class; 15 galaxies."""
    own = labelled[labelled["truth_class"] == spectype]
    assert (own["velocity"] < limit).sum() >= n_near
    assert (own["spectype"] == spectype).sum() >= n_class


@pytest.mark.real
def test_real_inspected_quasars_and_stars(labelled):
    inspected = labelled[labelled["is_inspected"]]
    quasars, stars = (inspected[inspected["truth_class"] == name] for name in ("QSO", "STAR"))
    assert (quasars["velocity"] < 3000).sum() >= 54
    assert (quasars["spectype"] == "QSO").sum() >= 55
    assert (stars["spectype"] == "STAR").sum() >= 25


@pytest.mark.real
def test_real_sky_fibres_have_no_confident_redshift(labelled):
    """Also without being told that they are sky."""
    sky = labelled[labelled["truth_class"] == "SKY"]
    assert len(sky) == 26
    assert (sky["redshift_warning"] & ~classify.SKY == 0).sum() <= 2


@pytest.mark.real
def test_confident_answers_on_real_spectra_are_right(labelled):
    known = labelled[labelled["truth_class"] != "SKY"]
    confident = known[known["redshift_warning"] == 0]
    limit = np.where(confident["truth_class"] == "QSO", 3000, 1000)
    wrong = (confident["velocity"] > limit) | (confident["spectype"] != confident["truth_class"])
    assert len(confident) > 0.8 * len(known)
    assert wrong.mean() < 0.04


@pytest.mark.real
def test_injected_absorption_leads_fewer_redshifts_astray(real_data):
    """Half as many as of the scan alone over all kinds (benchmarks.redshift); here few, and those that it loses."""
    truth = pd.read_csv(real_data / "sdss" / "truth.csv")
    is_own = (truth["truth_class"] == "QSO") & truth["truth_z"].between(2.2, 2.8) & (truth["source"] == "boss-picca")
    truth = truth[is_own].iloc[:24]
    spectra = al.read_sdss([str(real_data / "sdss" / file) for file in truth["file"]]).load()
    number = truth["plate"].astype(str) + truth["mjd"].astype(str) + truth["fiber"].map("{:04d}".format)
    redshift = truth.set_index(number.astype("int64")).loc[spectra["targetid"].values, "truth_z"].to_numpy()
    flux, wavelength = spectra["flux"].values, spectra["wavelength"].values
    signal = smooth_spectra(flux, spectra["ivar"].values, wavelength)
    absorbed = inject_bal(flux, wavelength, redshift, np.random.default_rng(0), kind="LO", signal=signal)
    answers = al.classify_spectra(spectra.assign(flux=(spectra["flux"].dims, absorbed.astype("float32"))))
    assert (velocity_between(answers["redshift"], redshift) > 3000).sum() <= 2
    assert (answers["bal_probability"] > 0.5).mean() > 0.8
    assert (answers["source"] == "trough").any()


@pytest.mark.real
def test_bright_real_objects_have_an_error(labelled):
    """Ripples of χ² near the minimum of bright quasars once hid its curvature."""
    known = labelled[labelled["truth_class"] != "SKY"]
    assert np.isfinite(known["redshift_err"]).all()
    assert not (known["redshift_warning"] & classify.BAD_MINIMUM).any()


@pytest.mark.real
def test_real_desi_quasars(real_data):
    truth = pd.read_csv(real_data / "desi" / "truth.csv").dropna(subset="truth_class").set_index("targetid")
    spectra = al.read_desi(str(real_data / "desi" / "coadd-*.fits"))
    answers = al.classify_spectra(spectra).set_index("targetid")
    assert len(answers) == spectra.sizes["object"]
    found = answers.loc[truth.index]
    velocity = velocity_between(found["redshift"], truth["truth_z"])
    assert ((velocity < 3000) & (found["spectype"] == truth["truth_class"])).sum() >= len(truth) - 1


@pytest.mark.real
def test_redrock_templates_work_unchanged(real_data):
    truth = pd.read_csv(real_data / "sdss" / "truth.csv")
    truth = truth[truth["source"] == "boss-squeze"].iloc[:40]
    spectra = al.read_sdss([str(real_data / "sdss" / file) for file in truth["file"]])
    number = truth["plate"].astype(str) + truth["mjd"].astype(str) + truth["fiber"].map("{:04d}".format)
    truth = truth.set_index(number.astype("int64")).loc[spectra["targetid"].values]
    answers = al.classify_spectra(spectra, open_templates(real_data / "redrock-templates"))
    assert (answers["spectype"].array == truth["truth_class"].array).mean() > 0.85


# --- templates


def test_own_templates_have_a_card_and_cover_every_class():
    templates = open_templates()
    assert {(one.spectype, one.subtype) for one in templates if one.spectype == "QSO"} == {
        ("QSO", "LOZ"), ("QSO", "MIDZ"), ("QSO", "HIZ"), ("QSO", "BAL"),
    }  # fmt: skip
    reach = {
        spectype: (
            min(one.redshift_min for one in templates if one.spectype == spectype),
            max(one.redshift_max for one in templates if one.spectype == spectype),
        )
        for spectype in ("QSO", "GALAXY", "STAR")
    }
    assert reach["QSO"][1] >= 6
    assert reach["GALAXY"][1] >= 1.7
    assert reach["STAR"] == (-0.005, 0.005)
    assert "python -m astrolab.redshift.build" in templates_card()["command"]
    size = Path(classify.__file__).with_name("templates.safetensors").stat().st_size
    assert size < 1_000_000


def test_templates_survive_a_round_trip(tmp_path):
    own = open_templates()
    save_templates(own, tmp_path / "t.safetensors", {"made_from": "a test"})
    again = open_templates(tmp_path / "t.safetensors")
    for one, other in zip(own, again, strict=True):
        assert (one.spectype, one.subtype, one.log_first) == (other.spectype, other.subtype, other.log_first)
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-3 * np.abs(one.vectors).max())
    assert json.loads((tmp_path / "t.json").read_text())["made_from"] == "a test"


def test_redrock_files_are_read(tmp_path):
    vectors = np.vstack([np.linspace(1, 2, 3000), np.linspace(-1, 1, 3000) ** 2])
    header = fits.Header({"CRVAL1": 3.4, "CDELT1": 2e-4, "LOGLAM": 1, "RRTYPE": "QSO", "RRSUBTYP": "HIZ"})
    hdus = [fits.PrimaryHDU(vectors, header), fits.ImageHDU(np.array([0.5, 0.6]), name="REDSHIFTS")]
    fits.HDUList(hdus).writeto(tmp_path / "rrtemplate-QSO-HIZ.fits")
    (one,) = open_templates(tmp_path)
    assert (one.spectype, one.subtype, one.redshift_min, one.redshift_max) == ("QSO", "HIZ", 0.5, 0.6)
    wanted = np.interp(3.5, 3.4 + 2e-4 * np.arange(3000), vectors[0]) / np.sqrt(np.mean(vectors[0] ** 2))
    assert np.interp(3.5, one.log_wavelength, one.vectors[0]) == pytest.approx(wanted, rel=1e-3)
    assert np.isinf(one.prior_err).all()


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\0\0\0\0\0\0\0{}      "])
@pytest.mark.parametrize("name", ["rrtemplate-X.fits", "own.safetensors"])
def test_a_file_that_is_not_one_is_refused(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a"):
        open_templates(tmp_path / name)


def test_templates_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rrtemplate-\*\.fits"):
        open_templates(tmp_path)


def test_templates_that_do_not_cover_the_grid_are_refused(survey):
    short = TemplateSet("STAR", "G", np.ones((2, 500)), np.full(2, np.inf), 3.6, 1e-4, -0.005, 0.005)
    with pytest.raises(ValueError, match="STAR G covers the grid 3600–9824 Å at none of its redshifts"):
        al.classify_spectra(survey, [short])


@pytest.mark.parametrize("templates", [[], "templates.safetensors"])
def test_what_is_no_template_set_is_refused(survey, templates):
    with pytest.raises(ValueError, match="expected some, as open_templates"):
        al.classify_spectra(survey, templates)


def test_templates_are_saved_under_a_name_that_opens_again(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        save_templates(open_templates(), tmp_path / "templates.fits")
    assert list(tmp_path.iterdir()) == []


def test_vectors_are_those_that_made_the_spectra():
    rng = np.random.default_rng(0)
    place = np.linspace(0, 1, 200)
    made = np.stack([1 + place, np.sin(9 * place), np.cos(17 * place)])
    amplitude = np.column_stack([np.ones(80), rng.normal(0, 0.3, 80), rng.normal(0, 0.2, 80)])
    flux = (amplitude @ made).astype("float32")
    weight = (rng.random(flux.shape) > 0.3).astype("float32") * 100
    vectors = fit_vectors(flux, weight, 3)
    rest = made - made @ np.linalg.pinv(vectors) @ vectors
    assert np.abs(rest).max() < 0.02


def test_device_of_the_products_does_not_matter(survey, answers):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = al.classify_spectra(survey, device="cuda")
    np.testing.assert_allclose(found["redshift"], answers["redshift"], atol=1e-4)
