"""Sums over windows, against plain numpy."""

import numpy as np
import pytest

from astrolab.anomaly.windows import measured_range, running_sums, window_powers, windows_inside
from astrolab.largest import EITHER_SIGN, NEGATIVE, POSITIVE, first_largest


@pytest.mark.parametrize("width", [1, 4, 16, 64])
@pytest.mark.parametrize("seed", range(5))
def test_the_most_significant_window_is_that_of_plain_numpy(width, seed):
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random(200) < 0.3, 0, rng.random(200)).astype("float32")
    weight[: 40 * (seed % 3)] = weight[200 - 30 * (seed % 2) :] = 0  # no object covers the whole grid
    residual = np.where(weight > 0, rng.normal(size=200), 0).astype("float32")
    weighted, total, count = np.zeros((3, 201))
    low, high = measured_range(weight)
    assert (low, high) == (np.flatnonzero(weight)[0], np.flatnonzero(weight)[-1] + 1)
    running_sums(residual, weight, low, high, weighted, total, count)
    first, last = windows_inside(low, high, width, 200)
    power = np.zeros(200 - width + 1, "float32")
    window_powers(weighted[first:], total[first:], count[first:], width, 0.5, power[first:last])
    truth = np.zeros(len(power))
    for k in range(len(power)):
        inside = slice(k, k + width)
        if (weight[inside] > 0).sum() > 0.5 * width:
            sums = (residual[inside].astype("f8") * weight[inside]).sum(), weight[inside].sum(dtype="f8")
            truth[k] = np.sign(sums[0]) * sums[0] ** 2 / sums[1]
    np.testing.assert_allclose(power, truth, rtol=1e-5, atol=1e-6)
    assert first_largest(power, EITHER_SIGN) == np.argmax(np.abs(power))
    assert first_largest(power, NEGATIVE) == np.argmin(power)
    assert first_largest(power, POSITIVE) == np.argmax(power)


def test_the_first_of_equal_ones_and_none_at_all():
    values = np.array([0, 1, -2, 2, -2], "float32")
    assert first_largest(values, EITHER_SIGN) == first_largest(values, NEGATIVE) == 2
    assert first_largest(np.array([0, 3, 1], "float32"), NEGATIVE) == 0
    assert first_largest(np.zeros(4, "float32"), EITHER_SIGN) == 0


def test_where_nothing_is_measured_there_is_no_window():
    low, high = measured_range(np.zeros(50, "float32"))
    assert (low, high) == (0, 0)
    weighted, total, count = np.ones((3, 51))
    running_sums(np.zeros(50, "float32"), np.zeros(50, "float32"), low, high, weighted, total, count)
    assert not np.any([weighted, total, count])
    assert windows_inside(low, high, 4, 50) == (0, 0)
    assert windows_inside(0, 50, 64, 50) == (0, 0)  # wider than the grid
