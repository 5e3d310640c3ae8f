"""Artefacts: evidence for each kind, and none against an object's own features."""

import numpy as np
import pytest
from scipy.stats import norm, poisson

from astrolab.anomaly.artefacts import ARTEFACT_COLUMNS, artefact_evidence, rest_masks
from astrolab.anomaly.shared import count_places, shared_excess

WAVELENGTH = np.geomspace(1000.0, 7500.0, 1500)
REDSHIFT = 1.5
OBSERVED = WAVELENGTH * (1 + REDSHIFT)


def evidence(residual, noise=None):
    """Return what is measured on one spectrum of unit noise, which is measured from 3,600 to 9,800 Å."""
    is_measured = (OBSERVED > 3600) & (OBSERVED < 9800)
    noise = np.random.default_rng(0).normal(size=len(WAVELENGTH)) if noise is None else noise
    columns = artefact_evidence(
        np.where(is_measured, residual + noise, 0)[None],
        is_measured[None].astype("f4"),
        WAVELENGTH,
        np.array([REDSHIFT]),
    )
    return dict(zip(ARTEFACT_COLUMNS, columns[0], strict=True))


QUIET = evidence(np.zeros(1500))


def at(rest, width):
    """Return a Gaussian of the given rest wavelength and width in km/s."""
    return np.exp(-0.5 * ((WAVELENGTH / rest - 1) * 299_792 / width) ** 2)


def test_a_spike_is_found_and_a_line_is_not():
    spike = np.zeros(1500)
    spike[np.searchsorted(WAVELENGTH, 2100)] = 40
    found = evidence(spike)
    assert found["artefact_spike"] > QUIET["artefact_spike"] + 1.5
    assert found["spike_at"] == pytest.approx(2100 * 2.5, rel=2e-3)
    for rest, width in ((2798.75, 300), (2100, 1500)):  # a narrow line at its place, a broad one anywhere
        assert evidence(40 * at(rest, width))["artefact_spike"] < QUIET["artefact_spike"] + 0.5


def test_a_step_counts_where_cameras_meet_only():
    assert evidence(3.0 * (OBSERVED > 5780))["artefact_step"] > QUIET["artefact_step"] + 0.5
    assert evidence(3.0 * (OBSERVED > 5780))["step_at"] == 5780
    assert evidence(3.0 * (OBSERVED > 6400))["artefact_step"] < QUIET["artefact_step"] + 0.2
    assert evidence(20 * at(5400 / 2.5, 1000))["artefact_step"] < QUIET["artefact_step"] + 0.2


def test_light_is_missed_where_nothing_absorbs():
    lost = evidence(-2.0 * ((WAVELENGTH > 3000) & (WAVELENGTH < 3200)))
    assert lost["artefact_loss"] > QUIET["artefact_loss"] + 1
    assert lost["loss_at"] == pytest.approx(3100 * 2.5, rel=0.02)
    outflow = evidence(-2.0 * ((WAVELENGTH > 1450) & (WAVELENGTH < 1530)))
    assert outflow["artefact_loss"] < QUIET["artefact_loss"] + 0.5


def test_masked_pixels_do_not_matter():
    noise = np.random.default_rng(0).normal(size=1500)
    noise[(OBSERVED < 3600) | (OBSERVED > 9800)] = 1e6
    assert evidence(np.zeros(1500), noise) == QUIET


def slow_evidence(residual, weight, redshift):
    """Return the first six columns of one spectrum, pixel by pixel, as they are defined."""
    is_near_line, is_absorbed = rest_masks(WAVELENGTH)
    observed, n = WAVELENGTH * (1 + redshift), len(WAVELENGTH)
    residual, weight = residual.astype("f8"), weight.astype("f8")
    sigma, good = residual * np.sqrt(weight), weight > 0
    ordinary = max(np.sqrt(np.minimum(sigma[good] ** 2, 25).mean()), 0.3)

    height = np.zeros(n)
    for k in range(2, n - 2):
        if good[k - 2] and good[k] and good[k + 2] and not is_near_line[k]:
            height[k] = sigma[k] - 2 * max(abs(sigma[k - 2]), abs(sigma[k + 2]))
    spike = height.argmax()

    def step(k, span=12):
        means, errors2 = [], []
        for side in (slice(k - span, k), slice(k, k + span)):
            if good[side].sum() < 0.6 * span:
                return 0
            means.append((residual[side] * weight[side]).sum() / weight[side].sum())
            errors2.append(1 / weight[side].sum())
        return abs(means[1] - means[0]) / np.sqrt(sum(errors2))

    steps = {0.0: 0.0}
    for edge in (5780, 6000, 7570):
        middle = np.searchsorted(observed, edge)
        around = [k for k in range(middle - 24, middle + 24) if 12 <= k < n - 12]
        at_edge = max(step(k) for k in around if abs(k - middle) <= 1)
        steps[edge] = at_edge - max(step(k) for k in around if abs(k - middle) > 6)
    step_at = max(steps, key=steps.get)

    losses = {}
    for width in (8, 16, 32, 64):
        for k in range(n - width + 1):
            inside = slice(k, k + width)
            if good[inside].sum() > 0.6 * width and is_absorbed[inside].sum() <= int(0.1 * width):
                total = (residual[inside] * weight[inside]).sum()
                losses[observed[k + width // 2], width] = -total / np.sqrt(weight[inside].sum())
    loss_at, _ = max(losses, key=losses.get)
    heights = np.array([max(height[spike], 0), max(steps[step_at], 0), max(max(losses.values()), 0)])
    spike_height, step_height, loss = np.log1p(heights / ordinary)
    return [spike_height, step_height, loss, observed[spike], step_at, loss_at]


@pytest.mark.parametrize("seed", range(4))
def test_evidence_is_the_plain_truth(seed):
    rng = np.random.default_rng(seed)
    redshift = (1.5, 0.7, 1.5, 2.3)[seed]
    observed = WAVELENGTH * (1 + redshift)
    is_good = (observed > 3600) & (observed < 9800) & (rng.random(1500) < 0.97)
    weight = np.where(is_good, rng.uniform(0.2, 2, 1500), 0).astype("f4")
    residual = np.where(is_good, rng.normal(size=1500) + (observed > 5780) * (seed == 2), 0).astype("f4")
    found = artefact_evidence(residual[None], weight[None], WAVELENGTH, np.array([redshift]))[0]
    np.testing.assert_allclose(found[:6], slow_evidence(residual, weight, redshift), rtol=1e-5, atol=1e-5)


def test_a_feature_that_other_redshifts_share_is_the_instruments():
    rng = np.random.default_rng(0)
    redshift = rng.uniform(0.5, 3.0, 3_000)
    observed = rng.uniform(3800, 9500, 3_000)
    observed[:40] = 5200 + rng.normal(0, 10, 40)  # one dip, many redshifts
    observed[40:80], redshift[40:80] = 8300, 1.96  # one line, one redshift
    is_significant = np.ones(3_000, bool)
    is_significant[2_900:] = False
    excess = shared_excess(count_places(observed, redshift, is_significant), observed, redshift, is_significant)
    assert np.median(excess[:40]) > 4
    assert np.median(excess[40:80]) < 1
    assert np.mean(excess[80:2_900] > 3) < 0.03
    assert (excess[2_900:] == 0).all()


def test_shared_excess_is_the_plain_truth():
    rng = np.random.default_rng(1)
    redshift, observed = rng.uniform(0.5, 3.0, 400), np.geomspace(3800, 9500, 400)
    counted = np.ones(400, bool)
    excess = shared_excess(count_places(observed, redshift, counted), observed, redshift, counted)
    bins = np.floor((np.log(observed) - np.log(3000)) * 299_792.458 / 500).astype(int)
    layers = np.floor(np.log1p(redshift) / 0.05).astype(int)
    for i in (0, 111, 399):
        near, around = (np.bincount(layers[np.abs(bins - bins[i]) <= n], minlength=40) for n in (3, 20))
        n_bins = [np.sum(np.abs(np.arange(831) - bins[i]) <= n) for n in (3, 20)]
        usual = (around - near) / (n_bins[1] - n_bins[0]) * n_bins[0]
        near = np.minimum(near, 3 * usual + 3)
        is_other = np.abs(np.arange(40) - layers[i]) > 1
        near, usual = near[is_other].sum(), max(usual[is_other].sum(), 0.1)
        tail = 1 - sum(poisson.pmf(k, usual) for k in range(int(np.ceil(near))))
        truth = 0 if near == 0 else max(0, norm.isf(tail))
        assert excess[i] == pytest.approx(truth, abs=1e-6)
