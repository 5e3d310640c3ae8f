"""Kinds of stars, and what is known of their velocities before a spectrum is looked at."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import astrolab as al
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.refine import CHI2, refine_minima
from astrolab.redshift.scan import bin_spectra, clean_spectra, plan_scan, scan_batch
from astrolab.redshift.templates import open_templates, templates_card
from astrolab.simulation.stellar_kinds import STELLAR_KINDS, draw_stars

WAVELENGTH = 3600 + 0.8 * np.arange(7781)


def spectra_of(flux, seed=0, signal_to_noise=12.0):
    """Noisy spectra of noiseless ones, as a reader gives them."""
    rng = np.random.default_rng(seed)
    sigma = flux.mean(axis=1, keepdims=True) / signal_to_noise * np.ones_like(flux)
    survey = al.simulate_survey(len(flux), seed=0, sky_fraction=0).load()
    flux = (flux + sigma * rng.normal(size=flux.shape)).astype("float32")
    return survey.assign(flux=(survey.flux.dims, flux), ivar=(survey.ivar.dims, (sigma**-2).astype("float32")))


def ratio(flux, inside, beside):
    """Mean flux in one window relative to that in another."""
    windows = [(low < WAVELENGTH) & (high > WAVELENGTH) for low, high in (inside, beside)]
    return flux[:, windows[0]].mean(axis=1) / flux[:, windows[1]].mean(axis=1)


@pytest.mark.parametrize("kind", STELLAR_KINDS)
def test_every_kind_is_light(kind):
    flux = draw_stars(kind, WAVELENGTH, 8, np.random.default_rng(1))
    assert np.isfinite(flux).all()
    assert (flux >= 0).all()
    assert np.allclose(np.median(flux, axis=1), 1)
    assert np.array_equal(flux, draw_stars(kind, WAVELENGTH, 8, np.random.default_rng(1)))


@pytest.mark.parametrize(
    ("kind", "inside", "beside", "is_deep"),
    [
        ("DB", (5867, 5887), (6000, 6100), True),  # He I
        ("DA", (4852, 4872), (5100, 5200), True),  # Hβ
        ("DZ", (3925, 3945), (4100, 4150), True),  # Ca II K
        ("DC", (4852, 4872), (4820, 4840), False),
        ("C", (5120, 5160), (5180, 5240), True),  # C2, which begins at 5166 Å and fades to the blue
        ("sdM", (6760, 6880), (6560, 6640), True),  # CaH
        ("L", (7660, 7710), (8000, 8100), True),  # K I
    ],
)
def test_kinds_have_their_features(kind, inside, beside, is_deep):
    found = ratio(draw_stars(kind, WAVELENGTH, 40, np.random.default_rng(0)), inside, beside)
    assert np.median(found) < 0.95 if is_deep else np.all(np.abs(found - 1) < 0.03)


def test_accreting_stars_emit():
    flux = draw_stars("CV", WAVELENGTH, 40, np.random.default_rng(0))
    assert (ratio(flux, (6560, 6570), (6700, 6800)) > 1.05).mean() > 0.9


def test_an_unknown_kind_is_a_sentence():
    with pytest.raises(ValueError, match="no kind of stars 'Z', expected one of OB, DA"):
        draw_stars("Z", WAVELENGTH, 1, np.random.default_rng(0))


def test_the_prior_on_velocity_is_the_one_that_is_stated():
    """Scan and refinement both add (z / σ)², and nothing where σ is infinite."""
    one = next(one for one in open_templates() if (one.spectype, one.subtype) == ("STAR", "G"))
    free = dataclasses.replace(one, redshift_sigma=np.inf)
    assert one.redshift_sigma * SPEED_OF_LIGHT == pytest.approx(200)
    survey = al.simulate_survey(4, seed=0).load()
    flux, weight, _ = clean_spectra(survey.flux.values, survey.ivar.values, WAVELENGTH)
    plans = plan_scan(one, WAVELENGTH), plan_scan(free, WAVELENGTH)
    with_prior, without = (scan_batch(*bin_spectra(flux, weight, WAVELENGTH), plan).numpy() for plan in plans)
    assert np.allclose(without - with_prior, (plans[0].redshift / one.redshift_sigma) ** 2, atol=1e-6)
    redshift = np.array([-0.004, 0.0, 0.001, 0.003])
    own = flux, weight, np.log10(WAVELENGTH)
    chi2 = [refine_minima(*own, s, redshift, (-0.005, 0.005), n_turns=0)[:, CHI2] for s in (one, free)]
    assert np.allclose(chi2[0] - chi2[1], (redshift / one.redshift_sigma) ** 2, atol=1e-6)


def test_a_choice_of_redshifts_costs():
    """-2 ln of the prior density, relative to a star at rest; what is at one place alone pays nothing."""
    for one in open_templates():
        expected = 0.0
        if one.spectype in ("QSO", "GALAXY"):
            density = 1 / (one.redshift_max - one.redshift_min), 1 / (np.sqrt(2 * np.pi) * 200 / SPEED_OF_LIGHT)
            expected = -2 * np.log(density[0] / density[1])
            assert 13 < expected < 16
        assert one.redshift_volume == pytest.approx(expected)
    table = al.scan_redshifts(al.simulate_survey(3, seed=1, sky_fraction=0), n_best=2)
    volume = {(one.spectype, one.subtype): one.redshift_volume for one in open_templates()}
    own = [volume[key] for key in zip(table["spectype"], table["subtype"], strict=True)]
    assert np.allclose(table["score"] - table["chi2"], own, atol=1e-6)


def test_a_star_without_lines_is_at_rest_and_one_with_lines_where_they_are():
    featureless = draw_stars("DC", WAVELENGTH, 4, np.random.default_rng(2))
    fast = draw_stars("sdM", WAVELENGTH / (1 + 700 / SPEED_OF_LIGHT), 4, np.random.default_rng(3))
    answers = al.classify_spectra(spectra_of(np.concatenate([featureless, fast]), signal_to_noise=30))
    velocity = SPEED_OF_LIGHT * answers["redshift"].to_numpy()
    assert (answers["spectype"] == "STAR").all()
    assert (np.abs(velocity[:4]) < 400).all()
    assert (np.abs(velocity[4:] - 700) < 150).all()


def test_no_scanned_set_has_seen_a_real_spectrum():
    card = templates_card()
    assert card["made_from"] == "AstroLab's simulator alone"
    subtypes = {one.subtype for one in open_templates() if one.spectype == "STAR"}
    assert subtypes >= set(STELLAR_KINDS) - {"M"} | {"A", "F", "G", "K", "M0", "M3", "M6"}


@pytest.mark.real
def test_real_stars_are_stars(real_data):
    """Also the M dwarf of S/N 2.3, whose flux calibration is off, and the cool white dwarf without a line."""
    truth = pd.read_csv(real_data / "sdss" / "truth.csv")
    stars = truth[truth["truth_class"] == "STAR"]
    answers = al.classify_spectra(al.read_sdss([str(real_data / "sdss" / file) for file in stars["file"]]))
    is_near = SPEED_OF_LIGHT * answers["redshift"].abs() < 1000
    assert len(answers) == 32
    assert ((answers["spectype"] == "STAR") & is_near).sum() >= 31
    kind = answers.set_index("targetid")["subtype"]
    assert kind[10000573460021] in ("sdM", "M0", "M3", "M6")
    assert kind[7102566660388] == "DC"
