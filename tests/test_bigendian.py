"""What compiled loops take from files, against plain numpy."""

import numpy as np
import pytest

from astrolab.readers.bigendian import add_arm, find_flags, sum_words


def test_words_are_summed_as_big_endian_numbers():
    raw = np.random.default_rng(0).bytes(4 * 1001)
    assert sum_words(np.frombuffer(raw, "u4")) == sum(np.frombuffer(raw, ">u4").tolist())


def slow_add(flux, ivar, masked, n_overlap, before_flux, before_ivar):
    """Return one spectrum with an arm added, and the numbers of bad pixels, as they are defined."""
    ivar = np.where(masked, 0, ivar).astype("f8")
    n_bad_ivar = np.sum(~((ivar >= 0) & (ivar < np.inf)))
    ivar = np.zeros_like(ivar) if n_bad_ivar else ivar
    flux = np.where(ivar == 0, 0, flux.astype("f8"))
    first = np.where(np.arange(len(flux)) < n_overlap, before_ivar.astype("f8"), 0)
    weight = first + ivar
    total = first * before_flux + ivar * flux
    mean = np.divide(total, weight, out=flux.copy(), where=first + ivar > 0)
    mean[n_overlap:] = flux[n_overlap:]
    mean[:n_overlap][weight[:n_overlap] == 0] = 0
    return mean, weight, [n_bad_ivar, np.sum(~np.isfinite(flux))]


@pytest.mark.parametrize("n_overlap", [0, 20, 64])
@pytest.mark.parametrize("has_mask", [True, False])
def test_an_arm_is_added_as_plain_numpy_would(n_overlap, has_mask):
    rng = np.random.default_rng(n_overlap)
    flux, ivar = rng.normal(size=(6, 64)).astype("f4"), rng.random((6, 64)).astype("f4")
    ivar[rng.random((6, 64)) < 0.2] = 0
    flux[ivar == 0] = np.nan
    ivar[1, 5], ivar[2, 7], ivar[3, 8], flux[4, 9], ivar[4, 9] = -1, np.nan, np.inf, np.inf, 1
    masked = rng.random((6, 64 if has_mask else 0)) < 0.3
    before = rng.random((2, 6, 64)).astype("f4")
    before[:, :, n_overlap:] = 0
    before[:, :, :5] = 0
    after, n_bad = before.copy(), np.zeros((6, 2), int)
    raw = [part.astype(">f4").view(np.uint32) for part in (flux, ivar)]
    add_arm(*raw, masked, np.arange(6), 0, n_overlap, *after, np.arange(6), n_bad)
    for row in range(6):
        mask = masked[row] if has_mask else np.zeros(64, bool)
        mean, weight, bad = slow_add(flux[row], ivar[row], mask, n_overlap, *before[:, row])
        np.testing.assert_array_equal(n_bad[row], bad)
        np.testing.assert_allclose(after[0, row], mean, rtol=1e-6)
        np.testing.assert_allclose(after[1, row], weight, rtol=1e-6)


@pytest.mark.parametrize("dtype", [">i4", ">i2"])
@pytest.mark.parametrize("zero", [0, 7, "lowest"])
@pytest.mark.parametrize("numbers", [[0, 1, 5, 30000], [-1, 0, 7, 8]])
def test_flags_are_found_as_plain_numpy_would(numbers, zero, dtype):
    zero = np.iinfo(dtype).min if zero == "lowest" else zero
    raw = np.random.default_rng(1).choice([zero, *numbers], (7, 13)).astype(dtype)
    is_set, has_negative = find_flags(raw, zero)
    np.testing.assert_array_equal(is_set, raw != zero)
    assert has_negative == (raw < zero).any()
