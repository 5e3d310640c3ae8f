"""p-values among like objects: the plain truth, uniformity on normals, and control of false discoveries."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, kstest

from astrolab.anomaly.conformal import conformal_p_values, fit_cells


def survey(n, seed):
    """Return scores whose spread and skewness follow redshift and S/N, and what they follow."""
    rng = np.random.default_rng(seed)
    matched = np.column_stack([rng.uniform(0, 4, n), rng.lognormal(1, 1, n), rng.integers(300, 1500, n)])
    scores = rng.gamma(1 + matched[:, 0], 1, n) * np.log1p(matched[:, 1])
    return scores, matched


def test_p_values_of_one_cell_are_the_plain_truth():
    scores, matched = survey(300, 0)
    scores[7] = scores[8]  # a tie
    p = conformal_p_values(fit_cells(scores, matched), scores, matched, np.ones(300, bool))
    others, other_matched = survey(20, 1)
    p_others = conformal_p_values(fit_cells(scores, matched), others, other_matched, np.zeros(20, bool))
    for i in (0, 7, 8, 299):
        n_above = sum(1 for j in range(300) if j != i and scores[j] >= scores[i])
        assert p[i] == pytest.approx((1 + n_above) / 300)
    for i in range(20):
        assert p_others[i] == pytest.approx((1 + (scores >= others[i]).sum()) / 301)


def test_p_values_of_normals_are_uniform_at_every_redshift_and_signal_to_noise():
    reference = survey(40_000, 2)
    scores, matched = survey(20_000, 3)
    p = conformal_p_values(fit_cells(*reference), scores, matched, np.zeros(20_000, bool))
    assert kstest(p, "uniform").statistic < 0.015
    for column in (0, 1):
        for part in np.array_split(np.argsort(matched[:, column]), 5):
            assert kstest(p[part], "uniform").statistic < 0.06
    # without cells the same scores are far from it
    alone = (1 + reference[0].size - np.searchsorted(np.sort(reference[0]), scores)) / (1 + reference[0].size)
    assert kstest(alone[matched[:, 0] > 3], "uniform").statistic > 0.2


def test_few_of_what_is_called_a_discovery_is_ordinary_when_the_reference_is():
    reference = survey(40_000, 4)
    false, found = [], []
    for seed in range(20):
        scores, matched = survey(2_000, 10 + seed)
        scores[:60] *= 12
        p = conformal_p_values(fit_cells(*reference), scores, matched, np.zeros(2_000, bool))
        is_called = false_discovery_control(p) < 0.1
        false.append((is_called[60:].sum()) / max(is_called.sum(), 1))
        found.append(is_called[:60].mean())
    assert np.mean(false) < 0.12
    assert np.mean(found) > 0.3


def test_anomalies_in_the_reference_make_p_larger_never_smaller():
    scores, matched = survey(5_000, 5)
    asked = survey(500, 6)
    clean = conformal_p_values(fit_cells(scores, matched), *asked, np.zeros(500, bool))
    scores[:200] = 1e3
    contaminated = conformal_p_values(fit_cells(scores, matched), *asked, np.zeros(500, bool))
    assert (contaminated >= clean - 1e-12).all()
