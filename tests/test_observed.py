"""Steps at the dichroic and the pattern of the airglow: found there and nowhere else, and as plain sums find them."""

import numpy as np
import pandas as pd
import pytest

from astrolab.anomaly.observed import OBSERVED_COLUMNS, observed_evidence, observed_scores
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.simulation.artefacts import inject_sky_residual
from astrolab.simulation.injections import inject_dichroic_step

WAVELENGTH = np.geomspace(1000.0, 7500.0, 1500)
PIXEL = np.log(WAVELENGTH[1] / WAVELENGTH[0])
REDSHIFT = 1.4  # the dichroic lies at 2500 Å, far from every major line


def measure(flux, snr=30.0, redshift=REDSHIFT):
    """Return what is measured on one spectrum of a flat model, noise included, from 3,600 to 9,800 Å observed."""
    observed = WAVELENGTH * (1 + redshift)
    is_measured = (observed > 3600) & (observed < 9800)
    noise = np.random.default_rng(3).normal(size=1500) / snr
    arrays = [np.where(is_measured, flux + noise, 0), np.where(is_measured, snr**2, 0), np.ones(1500)]
    found = observed_evidence(*(one[None].astype("f4") for one in arrays), WAVELENGTH, np.array([redshift]))
    return dict(zip(OBSERVED_COLUMNS, found[0].astype(float), strict=True))


def with_step(centre, redshift=REDSHIFT):
    """Return a flat spectrum with a step of 30 % at an observed wavelength."""
    observed, flat = WAVELENGTH * (1 + redshift), np.ones((1, 1500))
    return inject_dichroic_step(flat, observed, np.random.default_rng(0), signal=flat, step=0.3, centre=centre)[0]


def with_airglow(amplitude, shift=0.0, seed=1):
    """Return a flat spectrum with residuals of the airglow, averaged into the pixels from fine ones."""
    edges = WAVELENGTH[0] * np.exp(PIXEL * (np.arange(1501) - 0.5)) * (1 + REDSHIFT)
    fine = np.arange(2400.0, 18100.0, 0.5)
    zero = np.zeros((1, len(fine)))
    residual = inject_sky_residual(zero, zero + 1, fine + shift, np.random.default_rng(seed), amplitude=amplitude)[0]
    sums = np.interp(edges, fine, np.concatenate([[0], np.cumsum(residual)[:-1]]) * 0.5)
    return 1 + np.diff(sums) / np.diff(edges)


def test_a_step_counts_at_the_dichroic_alone():
    quiet, found = measure(np.ones(1500)), measure(with_step(6000))
    assert quiet["edge_power"] < 1.7 < 2.5 < found["edge_power"]
    for elsewhere in (5800, 6090, 6400):
        assert measure(with_step(elsewhere))["edge_power"] < found["edge_power"] / 2
    # where the spectrum has such steps in many places, one more is no evidence
    steps = 1 + 0.3 * (np.arange(1500) // 10 % 2)
    assert measure(steps * with_step(6000))["edge_power"] < 0.5 * found["edge_power"]


@pytest.mark.parametrize("rest", [5008.24, 4862.68, 1549.06])
def test_no_step_is_seen_where_the_objects_own_lines_make_one(rest):
    assert measure(with_step(6000, 6000 / rest - 1), redshift=6000 / rest - 1)["edge_power"] == 0


def test_airglow_is_found_by_its_pattern():
    quiet, found = measure(np.ones(1500)), measure(with_airglow(0.01))
    assert quiet["airglow_power"] < 2.5 < 5 < found["airglow_power"]
    assert measure(with_airglow(0.01, shift=60.0))["airglow_power"] < 0.5 * found["airglow_power"]
    # as large residuals of any other kind are not
    rough = 1 + np.random.default_rng(5).choice([-0.4, 0.4], 1500)
    assert measure(rough)["airglow_power"] < 3


def slow_edge(flux, weight, flux_model, redshift):
    """Return the step at the dichroic by plain fits: means of four windows, at the edge and in steps of a window."""
    power = weight * flux_model**2 / (1 + 0.07**2 * weight * flux_model**2)
    side = round(2000 / (PIXEL * SPEED_OF_LIGHT))

    def step(k):
        windows = [slice(k + j * side, k + (j + 1) * side) for j in (-2, -1, 0, 1)]
        totals = np.array([power[one].sum() for one in windows])
        if not np.all(totals > 0):
            return 0.0
        means = np.array([np.average((flux / flux_model - 1)[one], weights=power[one]) for one in windows])
        factors = np.array([0.5, -1.5, 1.5, -0.5])
        return abs(factors @ means) / np.sqrt((factors**2 / totals).sum())

    edge = round(np.log(6000 / (1 + redshift) / WAVELENGTH[0]) / PIXEL + 0.5)
    blocks = range(edge % side + 2 * side, 1500 - 2 * side + 1, side)
    elsewhere = [one for one in map(step, blocks) if one > 0] or [0.0]
    return max(step(k) for k in (edge - 1, edge, edge + 1)) / max(1.2533 * np.mean(elsewhere), 1)


def test_steps_are_what_plain_means_give():
    rng = np.random.default_rng(7)
    flux_model = 1 + 0.5 * np.sin(np.arange(1500) / 200)[None] * np.ones((40, 1))
    weight = rng.uniform(1, 400, (40, 1)) * (rng.random((40, 1500)) > 0.05)
    weight[5:, :300] = 0
    weight[7] = 0
    flux = np.where(weight > 0, flux_model + rng.normal(0, 0.2, (40, 1500)), 0)
    redshift = rng.uniform(0.7, 1.05, 40)  # Mg II is at 1.14, [O II] at 0.61
    found = observed_evidence(*(one.astype("f4") for one in (flux, weight, flux_model)), WAVELENGTH, redshift)
    truth = [slow_edge(*one) for one in zip(flux, weight, flux_model, redshift, strict=True)]
    np.testing.assert_allclose(found[:, 0], truth, rtol=2e-3, atol=1e-3)
    assert found[7].tolist() == [0, 0]


def test_it_depends_on_no_neighbour_and_on_no_order():
    rng = np.random.default_rng(8)
    arrays = [rng.normal(1, 0.3, (30, 1500)), rng.uniform(0, 20, (30, 1500)), np.ones((30, 1500))]
    arrays, redshift = [one.astype("f4") for one in arrays], rng.uniform(0.1, 4, 30)
    whole = observed_evidence(*arrays, WAVELENGTH, redshift)
    assert np.isfinite(whole).all()
    some = slice(20, 4, -3)
    assert np.array_equal(
        observed_evidence(*(one[some] for one in arrays), WAVELENGTH, redshift[some]),
        whole[some],
    )


def test_redshifts_that_are_none_give_no_evidence():
    ones = np.ones((4, 1500), "f4")
    found = observed_evidence(ones, ones, ones, WAVELENGTH, np.array([np.nan, -1.0, -2.0, 30.0]))
    assert np.array_equal(found, np.zeros((4, 2)))


def test_only_what_ordinary_spectra_do_not_have_counts():
    table = pd.DataFrame({"edge_power": [0.0, 1.7, 4.7], "airglow_power": [2.8, 4.8, 0.0]})
    np.testing.assert_allclose(observed_scores(table), [[0, 0], [0, 4], [6, 0]])
