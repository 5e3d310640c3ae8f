"""Other classes than quasars: fitted as plain least squares would, and told apart."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.polynomial import Legendre

import astrolab as al
from astrolab.anomaly.classes import CLASSES, _templates, class_score, class_weights, fit_classes, mean_chi2
from astrolab.anomaly.scores import raw_scores, reconstruct
from astrolab.models.pretrained import pretrained_vae, start_vaes
from astrolab.simulation.stars import STAR_CLASSES, star_flux

GRID = al.rest_grid(1000, 7500, 1500)


def in_rest_frame(survey, flux, redshift):
    """Return a survey with other light in it, of S/N 10 a pixel, as the ranking gets it."""
    names = survey["flux"].dims
    noise = np.random.default_rng(5).normal(size=flux.shape)
    spectra = survey.assign(flux=(names, (10 * flux + noise).astype("f4")), ivar=(names, np.ones(flux.shape, "f4")))
    spectra = spectra.assign_coords(redshift=("object", redshift))
    return al.normalize_flux(al.to_restframe(spectra, GRID)).compute()


def slow_chi2(flux, weight, basis):
    root = np.sqrt(weight)
    amplitude, *_ = np.linalg.lstsq((basis * root).T, flux * root, rcond=None)
    return (weight * (flux - amplitude @ basis) ** 2).sum(), amplitude


def slow_fit(flux, weight, redshift):
    """Fit every class to one spectrum in float64, star by star; return ln χ² a pixel and the class."""
    templates, n_good = _templates(tuple(GRID[[0, -1]]), len(GRID)), (weight > 0).sum()
    flux, weight, chi2 = flux.astype("float64"), weight.astype("float64"), []
    first = templates.first - round(np.log1p(redshift) / np.log(GRID[1] / GRID[0]))
    for star in templates.stars.vectors:
        on_grid = np.zeros((3, len(GRID)))
        for k in range(star.shape[1]):
            if 0 <= first + k < len(GRID):
                on_grid[:, first + k] = star[:, k]
        inside = (on_grid[0] != 0) & (weight > 0)
        own, amplitude = slow_chi2(flux, np.where(inside, weight, 0), on_grid)
        is_star = amplitude[0] > 0 and inside.sum() > 0.5 * n_good
        chi2.append(own + n_good - inside.sum() if is_star else np.inf)
    chi2.append(slow_chi2(flux, weight, templates.galaxy.vectors[0].astype("float64"))[0])
    chi2.append(
        slow_chi2(flux, weight, np.array([Legendre.basis(i)(np.linspace(-1, 1, len(GRID))) for i in range(3)]))[0]
    )
    return mean_chi2(min(chi2), n_good), int(np.argmin(chi2))


@pytest.fixture(scope="module")
def mixed():
    """Quasars, galaxies and stars of a simulated survey, at the redshifts that they have."""
    survey = al.simulate_survey(200, seed=3).compute()
    survey = survey.isel(object=np.isfinite(survey.redshift.values) & survey.is_target.values)
    return al.normalize_flux(al.to_restframe(survey, GRID)).compute(), survey["truth_spectype"].values.astype(str)


def test_the_fit_is_that_of_plain_least_squares(mixed):
    rest, _ = mixed
    flux, ivar, redshift = rest.flux.values, rest.ivar.values, rest.redshift.values
    weight = class_weights(flux, ivar)
    fitted = fit_classes(np.where(ivar > 0, flux, 0), weight, GRID, redshift)
    for row in range(0, len(flux), 23):
        if (ivar[row] > 0).sum() < 50:
            continue
        log_chi2, index = slow_fit(np.where(ivar[row] > 0, flux[row], 0), weight[row], redshift[row])
        assert fitted[row, 0] == pytest.approx(log_chi2, abs=0.01)
        assert CLASSES[int(fitted[row, 1])] == CLASSES[index] or fitted[row, 0] == pytest.approx(log_chi2, abs=1e-3)


@pytest.mark.parametrize("claimed", [0.0, 0.7, 2.1])
def test_a_star_is_known_at_whatever_redshift_it_was_given(claimed):
    survey = al.simulate_survey(60, seed=0).compute()
    rest = in_rest_frame(survey, star_flux(np.zeros(60), np.random.default_rng(2)), np.full(60, claimed))
    flux, ivar = rest.flux.values, rest.ivar.values
    log_chi2, index = fit_classes(flux, class_weights(flux, ivar), GRID, rest.redshift.values).T
    assert np.median(np.exp(log_chi2)) < 1.5
    assert (index < len(STAR_CLASSES)).mean() > 0.9


def test_the_score_tells_stars_from_quasars(mixed):
    rest, truth = mixed
    table = raw_scores(pretrained_vae(), rest)
    is_ranked = (table["n_good"] >= 50).to_numpy()
    score, truth = class_score(table["log_chi2_model"], table["log_chi2_class"])[is_ranked], truth[is_ranked]
    assert (score[truth == "QSO"] <= 0).mean() > 0.8
    assert np.median(score[truth == "STAR"]) > 1


def test_the_shipped_model_is_asked_with_the_same_weights(mixed):
    rest, _ = mixed
    some = rest.isel(object=slice(0, 40))
    table = raw_scores(pretrained_vae(), some)
    np.testing.assert_allclose(table["log_chi2_shipped"], table["log_chi2_model"], rtol=1e-5, atol=1e-6)
    flux, ivar = some.flux.values, some.ivar.values
    power = class_weights(flux, ivar) * (flux - reconstruct(pretrained_vae(), flux, ivar)[0]) ** 2
    expected = mean_chi2(power.sum(axis=1), np.maximum((ivar > 0).sum(axis=1), 1))
    np.testing.assert_allclose(table["log_chi2_shipped"], expected, rtol=1e-4, atol=1e-5)
    short = some.isel(wavelength_rest=slice(0, 300))
    assert raw_scores(al.VAE(n_wavelength=300), short)["log_chi2_shipped"].isna().all()


def test_stars_stay_strange_to_models_that_many_stars_have_taught():
    survey = al.simulate_survey(250, seed=8, star_fraction=0.25, rare_fraction=0)
    survey = al.select_objects(survey, spectype="any")[0]
    stars = survey["targetid"].values[survey["truth_spectype"].values == "STAR"]
    # a star is among quasars because somebody gave it a quasar's redshift
    redshift = np.random.default_rng(0).uniform(0.5, 3, len(survey["redshift"]))
    redshift = np.where(survey["targetid"].isin(stars), redshift, survey["redshift"])
    rest = al.normalize_flux(al.to_restframe(survey.assign_coords(redshift=("object", redshift)), GRID)).compute()
    (vae,), learning_rate, _ = start_vaes(GRID)
    al.fit(vae, rest, n_epochs=25, learning_rate=learning_rate, progress=False)
    ranking, _, scale = al.score_anomalies(vae, rest)
    nobody_asked = replace(scale, members=tuple(replace(one, shipped=np.full(3, np.nan)) for one in scale.members))
    alone = al.score_anomalies(vae, rest, scale=nobody_asked).ranking
    (asked, is_star), (unasked, _) = (
        (one["score_class"].to_numpy(), one["targetid"].isin(stars).to_numpy())
        for one in (one.sort_values("targetid") for one in (ranking, alone))
    )
    assert np.median(asked[is_star]) > 1.3 * np.median(unasked[is_star]) > 0
    assert np.mean(asked[~is_star] > 0) < np.mean(unasked[~is_star] > 0) + 0.03


def test_a_spectrum_without_a_good_pixel_spoils_no_other(mixed):
    rest, _ = mixed
    flux, ivar, redshift = (part[:20].copy() for part in (rest.flux.values, rest.ivar.values, rest.redshift.values))
    whole = fit_classes(flux, class_weights(flux, ivar), GRID, redshift)
    ivar[7] = 0
    fitted = fit_classes(np.where(ivar > 0, flux, 0), class_weights(flux, ivar), GRID, redshift)
    assert np.isfinite(fitted).all()
    others = np.arange(20) != 7
    np.testing.assert_array_equal(fitted[others], whole[others])
