"""Uncertainty of redshifts: coverage on simulated spectra, densities that integrate to one; and template matching."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import astrolab as al
from astrolab.redshift.candidates import velocity_between

SPEED_OF_LIGHT = 299792.458


@pytest.fixture(scope="module")
def known():
    """Simulated spectra of other seeds than those from which the scatter was measured, their answers and truth."""
    survey = al.simulate_survey(
        420, seed=31, rare_fraction=0, galaxy_fraction=0.3, star_fraction=0.2, sky_fraction=0
    ).load()
    return survey, al.classify_spectra(survey)


@pytest.mark.parametrize("level", [0.68, 0.95])
def test_intervals_contain_the_truth_as_often_as_they_say(known, level):
    """SIMULATED, and few: within three of the sampling's own sigmas; benchmarks.redshift measures it to 3 %."""
    survey, answers = known
    truth = survey["truth_redshift"].values
    limit = np.where(survey["truth_spectype"].values == "QSO", 3000, 1000)
    is_right = (answers["spectype"] == survey["truth_spectype"].values) & (answers["redshift_warning"] == 0)
    is_right &= velocity_between(answers["redshift"], truth) < limit
    low, high = al.redshift_intervals(answers, level)
    inside = ((low <= truth) & (truth <= high))[is_right]
    assert len(inside) > 300
    assert inside.mean() == pytest.approx(level, abs=0.01 + 3 * np.sqrt(level * (1 - level) / len(inside)))


def test_level_must_be_a_probability(known):
    with pytest.raises(ValueError, match="level is 68"):
        al.redshift_intervals(known[1], 68)


def test_density_is_one_and_peaks_at_the_answer(known):
    survey, answers = known
    rows = np.flatnonzero((answers["redshift_warning"] == 0).to_numpy())[:6]
    table = al.scan_redshifts(survey.isel(object=rows))
    for _, own in table.groupby("targetid"):
        pdf = al.redshift_pdf(own)
        assert np.trapezoid(pdf["density"], pdf["redshift"]) == pytest.approx(1, abs=0.06)
        assert pdf["redshift"][pdf["density"].idxmax()] == pytest.approx(own["redshift"].iloc[0], abs=1e-4)
        parts = pdf[[f"density_{name}" for name in ("QSO", "GALAXY", "STAR")]].sum(axis=1)
        np.testing.assert_allclose(parts, pdf["density"])


def test_density_is_of_one_object(known):
    table = al.scan_redshifts(known[0].isel(object=[0, 1]), n_best=1)
    with pytest.raises(ValueError, match="the hypotheses are of 2 objects, expected one"):
        al.redshift_pdf(table)


def test_density_of_nothing_is_zero(known):
    table = al.scan_redshifts(known[0].isel(object=[0])).assign(chi2=np.nan)
    pdf = al.redshift_pdf(table, [0.0, 1.0])
    assert (pdf["density"] == 0).all()


def test_bootstrap_scatters_by_the_error(known):
    survey, answers = known
    ratio = []
    for row in np.flatnonzero((answers["spectype"] == "GALAXY") & (answers["redshift_warning"] == 0))[:8]:
        one = answers.iloc[row]
        drawn = al.bootstrap_redshift(survey.isel(object=[row]), one.spectype, one.subtype, one.redshift, n_draws=40)
        ratio.append(1.4826 * np.median(np.abs(drawn - np.median(drawn))) / one.redshift_err)
    assert 0.5 < np.median(ratio) < 1.6
    with pytest.raises(ValueError, match="no template set 'QSO XL'"):
        al.bootstrap_redshift(survey.isel(object=[0]), "QSO", "XL", 1.0)


def test_the_nearest_known_spectrum_is_its_own_twin(known):
    survey, answers = known
    rows = np.flatnonzero((answers["spectype"] == "GALAXY") & (answers["redshift_warning"] == 0))[:6]
    library = survey.isel(object=rows).assign_coords(redshift=("object", answers["redshift"].to_numpy()[rows]))
    twin = library.isel(object=[2])
    shifted = twin.assign_coords(redshift=twin["redshift"] * 1.0 + 1e-3, targetid=("object", [7]))
    table = al.match_templates(shifted, library)
    best = table[table["kind"] == "spectrum"].iloc[0]
    assert best["targetid"] == twin["targetid"].item()
    # noise and all are the same, so the shift is exact to a part of a pixel
    wanted = SPEED_OF_LIGHT * np.log((1 + twin["redshift"].item()) / (1 + shifted["redshift"].item()))
    assert best["velocity"] == pytest.approx(wanted, abs=15)
    assert best["velocity_err"] > 0
    archetype = table[table["kind"] == "archetype"].iloc[0]
    assert archetype["spectype"] == "GALAXY"
    assert archetype["redshift"] == pytest.approx(twin["redshift"].item(), abs=1e-3)


def test_matching_takes_one_object(known):
    with pytest.raises(ValueError, match="there are 2 objects, expected one"):
        al.match_templates(known[0].isel(object=[0, 1]))


def test_matching_survives_spectra_that_do_not_overlap(known):
    survey = known[0]
    other = survey.isel(object=[3]).assign_coords(redshift=("object", [40.0]))
    table = al.match_templates(survey.isel(object=[0]), other)
    assert isinstance(table, pd.DataFrame)
    assert (table["kind"] == "archetype").all()


def test_a_grid_that_goes_on_beyond_what_was_measured_and_beyond_templates_is_matched():
    survey = al.simulate_survey(3, seed=3, rare_fraction=0).compute()
    one = survey.isel(object=[0])
    step = np.log(one.wavelength.values[-1] / one.wavelength.values[0]) / (one.sizes["wavelength"] - 1)
    beyond = one.wavelength.values[-1] * np.exp(step * np.arange(1, 3000))
    shape = {"flux": (("object", "wavelength"), np.zeros((1, len(beyond)), "f4"))}
    shape["ivar"] = shape["flux"]
    empty = one.drop_vars(["flux", "ivar", "wavelength"]).assign(shape).assign_coords(wavelength=beyond)
    longer = xr.concat(
        [one, empty], "wavelength", data_vars="minimal", coords="minimal", compat="override", join="outer"
    )
    longer = longer.transpose("object", "wavelength").assign_attrs(one.attrs)
    table, plain = (al.match_templates(spectrum) for spectrum in (longer, one))
    assert table["subtype"].tolist() == plain["subtype"].tolist()
    assert table["redshift"].to_numpy() == pytest.approx(plain["redshift"].to_numpy(), abs=1e-6)
