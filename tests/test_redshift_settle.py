"""Redshifts of quasars, settled: against a brute-force χ², against truth, and nothing else is touched."""

import numpy as np
import pandas as pd
import pytest

import astrolab as al
from astrolab.redshift.build import build_quasar_templates
from astrolab.redshift.candidates import velocity_between
from astrolab.redshift.hypotheses import block_hypotheses
from astrolab.redshift.refine import CHI2, refine_minima
from astrolab.redshift.scan import clean_spectra
from astrolab.redshift.settle import settle_quasars, settling_sets
from astrolab.redshift.templates import TemplateSet, open_quasar_templates, open_templates

STEP = 100 / 299792.458


@pytest.fixture(scope="module")
def quasars():
    """Bright simulated quasars, in memory, and what the scan gives for them."""
    survey = al.simulate_survey(40, seed=8, rare_fraction=0, galaxy_fraction=0, star_fraction=0, sky_fraction=0).load()
    flux, weight, _ = clean_spectra(survey["flux"].values, survey["ivar"].values, survey.wavelength.values)
    return survey, flux, weight, np.log10(survey.wavelength.values)


def test_settled_redshift_is_a_minimum_of_chi2(quasars):
    survey, flux, weight, log_wavelength = quasars
    truth = survey["truth_redshift"].values
    settled, err = settle_quasars(flux, weight, log_wavelength, open_quasar_templates(), truth, np.zeros(40, bool))
    rows = np.flatnonzero(np.isfinite(settled) & (truth > 1.3) & (err < 1e-3))[:8]
    assert len(rows) == 8
    one = open_quasar_templates()[1]
    for i in rows:
        near = settled[i] + (1 + settled[i]) * STEP * np.array([-1.0, 0.0, 1.0])
        own = np.repeat(flux[[i]], 3, axis=0), np.repeat(weight[[i]], 3, axis=0)
        chi2 = refine_minima(*own, log_wavelength, one, near, (0.8, 3.4), n_turns=0)[:, CHI2]
        assert chi2.argmin() == 1


def test_only_quasars_within_range_are_settled(quasars):
    _, flux, weight, log_wavelength = quasars
    redshift = np.array([np.nan, 5.0, 2.0])
    settled, err = settle_quasars(
        flux[:3], np.zeros_like(weight[:3]), log_wavelength, open_quasar_templates(), redshift, np.zeros(3, bool)
    )
    assert np.isnan(settled).all()
    assert np.isnan(err).all()


def test_one_quasar_does_not_hang_on_the_others(quasars):
    survey, flux, weight, log_wavelength = quasars
    rest = log_wavelength, open_quasar_templates(), survey["truth_redshift"].values
    every = settle_quasars(flux, weight, *rest, np.zeros(40, bool))[0]
    one = settle_quasars(flux[7:8], weight[7:8], *rest[:2], rest[2][7:8], np.zeros(1, bool))[0]
    assert one[0] == every[7]


def test_sets_of_other_origin_are_left_as_they_are():
    one = open_templates()[0]
    other = TemplateSet(one.spectype, "X", one.vectors, one.prior_err, one.log_first, one.log_step, 0.0, 1.4)
    assert settling_sets([other]) == ()
    assert settling_sets([*open_templates(), other]) == ()
    assert settling_sets(open_templates()) == open_quasar_templates()


def test_only_the_best_redshift_and_its_error_change(quasars):
    survey = quasars[0]
    own = survey["flux"].values, survey["ivar"].values, survey.wavelength.values, open_templates(), 3
    plain, settled = block_hypotheses(*own), block_hypotheses(*own, settling=open_quasar_templates())
    changed = np.flatnonzero((plain != settled) & np.isfinite(plain))
    assert set(changed % plain.shape[1]) == {17, 18}
    assert (velocity_between(plain[:, 17], settled[:, 17]) < 2000).all()


@pytest.mark.real
def test_sets_that_never_saw_them_settle_quasars(real_data):
    """Held out, half of the quasars: Redrock's scatter on all of them is 103 km/s."""
    table = pd.read_csv(real_data / "sdss" / "truth.csv")
    table = table[(table["truth_class"] == "QSO") & ~table["truth_source"].str.contains("weak")]
    spectra = al.read_sdss([str(real_data / "sdss" / file) for file in table["file"]]).load()
    number = table["plate"].astype(str) + table["mjd"].astype(str) + table["fiber"].map("{:04d}".format)
    table = table.set_index(number.astype("int64")).loc[spectra["targetid"].values]
    truth, is_first = table["truth_z"].to_numpy(), (table["object_group"] % 2 == 0).to_numpy()
    flux, ivar = spectra["flux"].values, spectra["ivar"].values
    sets = build_quasar_templates(flux[is_first], ivar[is_first], truth[is_first], n_objects=600)
    wavelength = spectra.wavelength.values
    clean = [one[~is_first] for one in clean_spectra(flux, ivar, wavelength)[:2]]
    start = truth[~is_first] + 3 * STEP * (1 + truth[~is_first])
    settled, _ = settle_quasars(*clean, np.log10(wavelength), sets, start, np.zeros(len(start), bool))
    velocity = (299792.458 * (settled - truth[~is_first]) / (1 + truth[~is_first]))[np.isfinite(settled)]
    assert len(velocity) > 100
    assert 1.4826 * np.median(np.abs(velocity - np.median(velocity))) < 125
