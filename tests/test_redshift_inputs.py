"""What a sceptic tries on the classifier: other units, other grids, and other things than templates."""

import numpy as np
import pytest

import astrolab as al
from astrolab.redshift import classify
from astrolab.redshift.scan import clean_spectra
from astrolab.redshift.templates import open_templates


@pytest.fixture(scope="module")
def survey():
    return al.simulate_survey(4, seed=4, sky_fraction=0).load()


@pytest.mark.parametrize("unit", [1e14, 1e-17])
def test_the_unit_of_flux_does_not_matter(survey, unit):
    """Also where float32 has no room for squares: 1e-17 is flux in erg."""
    dims = survey["flux"].dims
    flux, ivar = (survey[name].values.astype("float64") for name in ("flux", "ivar"))
    flux, ivar = (flux * unit).astype("float32"), (ivar / unit**2).astype("float32")
    answers = [al.classify_spectra(one) for one in (survey, survey.assign(flux=(dims, flux), ivar=(dims, ivar)))]
    assert answers[0]["spectype"].tolist() == answers[1]["spectype"].tolist()
    assert np.allclose(answers[0]["redshift"], answers[1]["redshift"], atol=1e-5)
    assert answers[0]["redshift_warning"].tolist() == answers[1]["redshift_warning"].tolist()


def test_one_wild_pixel_is_no_unit(survey):
    flux = survey["flux"].values.copy()
    flux[0, 3000] = 1e14
    rest = survey["ivar"].values, survey.wavelength.values
    scaled = [clean_spectra(one, *rest)[0] for one in (flux, survey["flux"].values)]
    kept = np.arange(flux.shape[1]) != 3000
    assert np.array_equal(scaled[0][:, kept], scaled[1][:, kept])


def test_a_grid_too_coarse_to_see_lines_on_is_refused(survey):
    coarse = survey.isel(wavelength=slice(None, None, 100))
    with pytest.raises(ValueError, match="km/s wide, expected at most 1400"):
        al.classify_spectra(coarse)


def test_one_template_set_is_no_sequence_of_them(survey):
    with pytest.raises(ValueError, match="expected some, as open_templates"):
        al.classify_spectra(survey, open_templates()[0])


def test_negative_light_has_no_probability(survey):
    dims = survey["flux"].dims
    answers = al.classify_spectra(survey.assign(flux=(dims, -np.abs(survey["flux"].values) - 1)))
    assert (answers["redshift_warning"] & classify.NEGATIVE_MODEL > 0).all()
    assert (answers["probability"] == 0).all()


def test_a_single_oxygen_line_beyond_redshift_one_is_a_galaxy(survey):
    """[O II] at redshift 1.5 in pure noise: no other line is in range."""
    wavelength, ivar = survey["wavelength"].values, survey["ivar"].values
    sigma = 1 / np.sqrt(np.median(ivar))
    flux = np.random.default_rng(0).normal(size=ivar.shape) / np.sqrt(np.maximum(ivar, 1e-9))
    for line, height in ((3727.09, 12), (3729.88, 15)):
        flux += height * sigma * np.exp(-0.5 * ((wavelength - 2.5 * line) / 2.2) ** 2)
    answers = al.classify_spectra(survey.assign(flux=(survey["flux"].dims, flux.astype("float32"))))
    assert (answers["spectype"] == "GALAXY").all()
    assert np.allclose(answers["redshift"], 1.5, atol=1e-3)
