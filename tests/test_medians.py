"""Medians by counting, and normalisation by them, against plain numpy."""

import numpy as np
import pytest

import astrolab as al
from astrolab.medians import good_median


@pytest.mark.parametrize("n_wavelength", [1, 2, 7, 8, 301, 40_000])
@pytest.mark.parametrize("seed", range(4))
def test_the_median_of_good_pixels_is_that_of_numpy(n_wavelength, seed):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=n_wavelength) * 10.0 ** rng.uniform(-30, 30, n_wavelength)).astype("f4").round(seed)
    ivar = (rng.random(n_wavelength) < 0.8).astype("f4")
    values[ivar == 0] = np.nan
    good = values[ivar > 0]
    tops = np.empty(n_wavelength, np.int16)
    assert good_median(values, ivar, tops) == (np.median(good) if len(good) else 0)


@pytest.mark.parametrize("brightness", [-1, 0, 0.03, 0.3, 30])
def test_a_spectrum_is_divided_by_its_median_or_its_noise(quasars, brightness):
    rng = np.random.default_rng(0)
    flux = (brightness + 0.2 * rng.normal(size=quasars.flux.shape)).astype("f4")
    ivar = np.where(rng.random(flux.shape) < 0.9, rng.uniform(20, 30, flux.shape), 0).astype("f4")
    ivar[3] = 0
    dims = quasars.flux.dims
    some = al.normalize_flux(quasars.assign(flux=(dims, flux), ivar=(dims, ivar)))
    for i in range(len(flux)):
        good = ivar[i] > 0
        scale = max(np.median(flux[i][good]), 1 / np.sqrt(np.median(ivar[i][good]))) if good.any() else 1
        np.testing.assert_allclose(some.flux[i], np.where(good, flux[i] / scale, 0), rtol=1e-6)
        np.testing.assert_allclose(some.ivar[i], ivar[i] * scale**2, rtol=1e-6)
