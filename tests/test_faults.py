"""Faults of a camera: found where light is off by one factor, and not where an object is strange."""

import numpy as np
import pytest
import torch

from astrolab.anomaly.artefacts import rest_masks
from astrolab.anomaly.faults import FAULT_COLUMNS, fault_evidence, model_directions
from astrolab.models.vae import VAE

WAVELENGTH = np.geomspace(1000.0, 7500.0, 1500)
REDSHIFT = 1.0
OBSERVED = WAVELENGTH * (1 + REDSHIFT)
IS_MEASURED = (OBSERVED > 3600) & (OBSERVED < 9800)


def gaussian(centre, sigma):
    return np.exp(-0.5 * ((WAVELENGTH - centre) / sigma) ** 2)


MODEL = (WAVELENGTH / 3000) ** -1.5 * (1 + 0.8 * gaussian(2799, 30) + 0.5 * gaussian(1909, 25) + gaussian(4862, 45))
# the model may change the slope and each of its lines
DIRECTIONS = np.stack([MODEL, gaussian(2799, 30), gaussian(1909, 25), gaussian(4862, 45), np.log(WAVELENGTH / 3000)])


def evidence(factor=1.0, added=0.0, seed=0, directions=DIRECTIONS):
    """Return what is measured on one spectrum of S/N 10 that follows the model but for a factor or added light."""
    noise = np.random.default_rng(seed).normal(0, 0.1, len(WAVELENGTH))
    flux = np.where(IS_MEASURED, MODEL * factor + added + noise, np.nan).astype("f4")[None]
    weight = (100.0 * IS_MEASURED).astype("f4")[None]
    row = fault_evidence(flux, weight, MODEL[None].astype("f4"), directions, WAVELENGTH, np.array([REDSHIFT]))[0]
    assert np.isfinite(row).all()
    return dict(zip(FAULT_COLUMNS, row.astype(float), strict=True))


def between(first, last):
    return (first < OBSERVED) & (last > OBSERVED)


def test_light_that_an_amplifier_lost_is_found_whole_and_explains_what_is_strange():
    found = evidence(1 - 0.4 * between(6000, 6800))
    assert found["fault_first"] == pytest.approx(6000, rel=0.01)
    assert found["fault_last"] == pytest.approx(6800, rel=0.01)
    assert found["fault_power"] > 4.5 > 3 > found["fault_left"]
    assert found["fault_gain"] > 0.3


def test_an_ordinary_spectrum_has_no_fault():
    powers = np.array([[row["fault_power"], row["dip_power"]] for row in (evidence(seed=i) for i in range(10))])
    assert (powers < 3.5).all()
    assert np.median(powers, axis=0) == pytest.approx([1.5, 2.5], abs=1)


def test_what_the_model_could_have_changed_is_no_fault():
    assert evidence(added=0.5 * gaussian(2799, 30))["fault_power"] < 3
    assert evidence((WAVELENGTH / 3000) ** 0.7)["fault_power"] < 3


def test_a_line_that_the_model_does_not_know_explains_more_than_any_loss():
    found = evidence(added=4 * gaussian(3727, 20))
    assert found["fault_left"] >= found["fault_power"]
    assert found["dip_left"] >= found["dip_power"]


def test_a_camera_whose_flux_is_off_is_a_fault_brighter_or_fainter():
    for factor in (0.75, 1.3):
        found = evidence(np.where(OBSERVED < 5780, factor, 1))
        assert found["fault_power"] > 3 > found["fault_left"]
        assert found["fault_last"] == pytest.approx(5780, rel=0.01)
    assert evidence(np.where(OBSERVED < 6900, 0.75, 1))["fault_last"] != pytest.approx(6900, rel=0.01)


def test_a_dip_counts_where_nothing_absorbs():
    dip = evidence(1 - 0.4 * gaussian(3200, 20))
    assert dip["dip_power"] > 4 > 3.5 > dip["dip_left"]
    assert dip["dip_at"] == pytest.approx(6400, rel=0.005)
    trough = evidence(1 - 0.4 * gaussian(2740, 20))  # the outflow of a LoBAL in front of Mg II
    assert trough["dip_power"] <= max(trough["dip_left"], 3)


def test_the_bump_of_dust_is_no_fault():
    found = evidence(1 - 0.4 * gaussian(2175, 120))
    assert found["fault_power"] <= max(found["fault_left"], 3)


def test_the_significance_is_that_of_a_weighted_fit():
    """The slow truth: one least-squares fit with everything in it, on the cells that the search is done in."""
    factor = 1 - 0.4 * between(6000, 6800)
    found = evidence(factor)
    noise = np.random.default_rng(0).normal(0, 0.1, len(WAVELENGTH))
    flux = np.where(IS_MEASURED, MODEL * factor + noise, 0)
    cells = [values.reshape(*values.shape[:-1], -1, 2) for values in (flux, 100.0 * IS_MEASURED, MODEL, DIRECTIONS)]
    weight = cells[1].sum(axis=-1)
    flux = (cells[0] * cells[1]).sum(axis=-1) / np.maximum(weight, 1e-9)
    model = (cells[2] * cells[1]).sum(axis=-1) / np.maximum(weight, 1e-9)
    observed = np.geomspace(1000.0, 7500.0, 1500).reshape(-1, 2).mean(axis=1) * 2
    box = model * ((observed > found["fault_first"] - 1) & (observed < found["fault_last"] + 1))
    tilts = model * np.linspace(-1, 1, 750) ** np.arange(3)[:, None]
    design = np.concatenate([cells[3].mean(axis=-1), tilts, -box[None]]).T * np.sqrt(weight)[:, None]
    covariance = np.linalg.pinv(design.T @ design, rcond=1e-10)
    missing = (covariance @ design.T @ (flux * np.sqrt(weight)))[-1]
    assert missing == pytest.approx(0.4, abs=0.05)
    assert found["fault_power"] == pytest.approx(missing / np.sqrt(covariance[-1, -1] + 0.07**2), rel=0.01)


def test_a_spectrum_in_company_is_measured_as_alone():
    rng = np.random.default_rng(3)
    flux = (MODEL * (1 - 0.3 * between(5000, 5800)) + rng.normal(0, 0.1, (4, 1500))).astype("f4")
    weight = np.broadcast_to(100.0 * IS_MEASURED, flux.shape).astype("f4").copy()
    weight[2] = 0
    model, redshift = np.broadcast_to(MODEL, flux.shape).astype("f4"), np.array([1.0, 0.5, 1.0, np.nan])
    rows = fault_evidence(flux, weight, model, DIRECTIONS, WAVELENGTH, redshift)
    np.testing.assert_array_equal(rows[2, [0, 1, 2, 5, 6]], 0)  # nothing measured
    for i in (0, 1):
        one = slice(i, i + 1)
        alone = fault_evidence(flux[one], weight[one], model[one], DIRECTIONS, WAVELENGTH, redshift[one])
        np.testing.assert_array_equal(rows[one], alone)


def test_directions_are_those_of_the_decoders():
    models = [VAE(n_wavelength=100, seed=seed) for seed in (0, 1)]
    directions = model_directions(models)
    assert directions.shape == (11, 100)
    np.testing.assert_allclose(directions[1:] @ directions[1:].T, np.eye(10), atol=1e-10)
    assert model_directions([_WithoutDecoder()]).shape == (0, 100)


class _WithoutDecoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"n_wavelength": 100, "n_latent": 2}


def test_without_directions_a_fault_is_still_found():
    found = evidence(1 - 0.6 * between(6000, 6800), directions=np.empty((0, 1500)))
    assert found["fault_first"] == pytest.approx(6000, rel=0.01)
    assert found["fault_power"] > found["fault_left"]


def test_every_window_is_looked_at_as_a_least_squares_fit_would():
    """The slow truth of the search for dips: each window projected off the basis that a QR decomposition gives."""
    rng = np.random.default_rng(7)
    for factor in (1.0, 1 - 0.3 * gaussian(3200, 25), 1 - 0.5 * gaussian(4400, 60)):
        flux = (MODEL * factor + rng.normal(0, 0.15, len(WAVELENGTH)))[None].astype("f4")
        weight = (44.4 * (IS_MEASURED & (rng.random(len(WAVELENGTH)) > 0.05))).astype("f4")[None]
        found = fault_evidence(flux, weight, MODEL[None].astype("f4"), DIRECTIONS, WAVELENGTH, np.array([REDSHIFT]))
        found = dict(zip(FAULT_COLUMNS, found[0].astype(float), strict=True))
        power, middle, fit = slow_dips(flux[0], weight[0])
        assert found["dip_power"] == pytest.approx(power, rel=1e-4)
        assert found["dip_at"] == pytest.approx(middle * (1 + REDSHIFT), rel=1e-6)
        left = slow_dips(flux[0], weight[0], fit)[0] if power > 3 else power
        assert found["dip_left"] == pytest.approx(left, rel=1e-4)


def slow_dips(flux, weight, fault=None):
    """Return significance, middle (rest Å) and cells of the strongest dip; with one given, what is left of anything."""
    weights = weight.astype(float).reshape(-1, 2)
    total = weights.sum(axis=1)
    mean = [(weights * of.reshape(-1, 2)).sum(axis=1) / np.maximum(total, 1e-30) for of in (flux, MODEL)]
    wavelength = WAVELENGTH.reshape(-1, 2).mean(axis=1)
    is_measured = total > 0
    low, high = np.flatnonzero(is_measured)[[0, -1]] + [0, 1]
    model = np.where(is_measured, mean[1], 0.1)
    vectors = [*DIRECTIONS.reshape(len(DIRECTIONS), -1, 2).mean(axis=2)]
    vectors += [model * np.linspace(-1, 1, len(total)) ** power for power in range(3)]
    if fault is not None:
        vectors.append(np.where((np.arange(len(total)) >= fault[0]) & (np.arange(len(total)) < fault[1]), model, 0))
    root = np.sqrt(total[low:high])
    basis = np.linalg.qr((np.array(vectors)[:, low:high] * root).T)[0]
    residual = root * mean[0][low:high]
    residual -= basis @ (basis.T @ residual)
    gas = np.concatenate([[0], np.cumsum(rest_masks(wavelength)[1])])
    dust = (wavelength > 1950) & (wavelength < 2420)
    both = np.concatenate([[0], np.cumsum(rest_masks(wavelength)[1] | dust)])
    strongest, n = (0.0, 0.0, (0, 1)), high - low
    anything = [0.0]
    pixel = 299_792.458 * np.log(WAVELENGTH[1] / WAVELENGTH[0])
    for q, kms in enumerate((2_500, 4_500, 9_000, 18_000, 28_000, 38_000, 52_000)):
        width = max(round(kms / (2 * pixel)), 2)
        share = (0.1, 0.1, 0.1, 0.2, 0.6, 0.75, 0.75)[q]
        beyond = int(0.4 * width)
        for start in range(-beyond, n - width + beyond + 1, max(width // 8, 1)):
            first, last = max(start, 0), min(start + width, n)
            if is_measured[low:high][first:last].sum() < 0.6 * width:
                continue
            box = np.zeros(n)
            box[first:last] = (root * model[low:high])[first:last]
            own = box - basis @ (basis.T @ box)
            information = own @ own
            if information <= 0.05 * (box @ box):
                continue
            sigma = -(own @ residual) / np.sqrt(information * (1 + 0.07**2 * information))
            anything.append(abs(sigma))
            ends = [min(max(at + low, 0), len(total)) for at in (start, start + width)]
            absorbed = gas if q < 3 else both
            is_open = absorbed[ends[1]] - absorbed[ends[0]] <= share * width
            if q < 3 and is_open and sigma > strongest[0]:
                middle = np.sqrt(wavelength[low:high][first] * wavelength[low:high][last - 1])
                strongest = sigma, middle, (first + low, last + low)
    return strongest if fault is None else (max(anything), *strongest[1:])
