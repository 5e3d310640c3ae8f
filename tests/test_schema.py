"""The data model: what check_spectra lets through, and what it says about the rest."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from astrolab.medians import median_snr
from astrolab.schema import REQUIRED_COLUMNS, SchemaError, check_spectra, check_targetid, flux_err, spectral_dim


def make_spectra(dim="wavelength"):
    n_objects, n_wavelength = 4, 6
    columns = dict.fromkeys(("ra", "dec", "redshift", "redshift_err"), np.zeros(n_objects))
    columns |= {
        "targetid": np.arange(n_objects) + 2**60,
        "redshift_warning": np.zeros(n_objects, np.int64),
        "spectype": np.array(["QSO", "", "STAR", "GALAXY"]),
        "survey": np.array(["main"] * n_objects, object),
    }
    array = (("object", dim), np.ones((n_objects, n_wavelength), np.float32))
    coords = {dim: np.linspace(4000, 5000, n_wavelength), **{name: ("object", v) for name, v in columns.items()}}
    return xr.Dataset({"flux": array, "ivar": array}, coords)


@pytest.mark.parametrize("dim", ["wavelength", "wavelength_rest"])
def test_good_spectra_come_back_unchanged(dim):
    spectra = make_spectra(dim)
    assert check_spectra(spectra) is spectra
    assert spectral_dim(spectra) == dim
    check_spectra(spectra.chunk(object=2).assign_coords({name: c.load() for name, c in spectra.coords.items()}))
    check_spectra(spectra.isel(object=slice(0, 0)))


@pytest.mark.parametrize("dtype", [object, "U8", np.dtypes.StringDType()])
def test_any_kind_of_string_is_text(dtype):
    spectra = make_spectra()
    check_spectra(spectra.assign_coords(spectype=("object", spectra.spectype.values.astype(dtype))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.rename(wavelength="lambda"), "expected 'object' and one of"),
        (lambda s: s.drop_vars("ivar"), "no variable 'ivar'"),
        (lambda s: s.transpose("wavelength", "object"), "transpose"),
        (lambda s: s.assign(flux=s.flux.astype("f8")), "expected float32"),
        (lambda s: s.drop_vars("wavelength"), "has no values"),
        (lambda s: s.assign_coords(wavelength=s.wavelength.astype("f4")), "expected float64"),
        (lambda s: s.isel(wavelength=[0]), "has 1 pixels, expected at least 2"),
        (lambda s: s.isel(wavelength=[0, 2, 1]), "strictly increasing"),
        (lambda s: s.assign_coords(wavelength=s.wavelength - 4000), "positive"),
        (lambda s: s.assign_coords(wavelength=[1, 2, 3, 4, 5, np.nan]), "finite"),
        (lambda s: s.assign_coords(targetid=s.targetid.astype("f8")), r"above 2\*\*53"),
        (lambda s: s.assign_coords(redshift=s.redshift.astype("f4")), "expected float64"),
        (lambda s: s.assign_coords(redshift_warning=s.redshift_warning.astype("i4")), "expected int64"),
        (lambda s: s.assign_coords(spectype=s.redshift), "expected strings"),
        (lambda s: s.assign_coords(snr=s.redshift), "expected float32"),
        (lambda s: s.assign_coords(ra=s.ra.chunk()), "lazy"),
        (lambda s: s.assign_coords(ra=1.0), "has dims"),
        (lambda s: s.reset_coords("ra"), "a data variable"),
        (lambda s: s.assign_coords(targetid=s.targetid.where(s.targetid != s.targetid[0], s.targetid[1])), "2 times"),
    ],
)
def test_what_is_wrong_is_said(change, message):
    with pytest.raises(SchemaError, match=message):
        check_spectra(change(make_spectra()))


@pytest.mark.parametrize("name", REQUIRED_COLUMNS)
def test_every_required_column_is_asked_for(name):
    with pytest.raises(SchemaError, match=f"'{name}' is missing"):
        check_spectra(make_spectra().drop_vars(name))


def test_other_things_are_not_spectra():
    with pytest.raises(TypeError, match=r"expected an xarray\.Dataset"):
        check_spectra(np.zeros(3))


def test_flux_err_has_no_value_where_a_pixel_is_masked():
    spectra = make_spectra()
    spectra["ivar"] = spectra.ivar.copy(data=np.tile(np.float32([0, 4, 1, 0.25, 100, 1]), (4, 1)))
    np.testing.assert_allclose(flux_err(spectra)[0], [np.nan, 0.5, 1, 2, 0.1, 1])


def test_median_snr_counts_good_pixels_only():
    rng = np.random.default_rng(0)
    flux = rng.normal(3, 1, (6, 101)).astype("f4")
    ivar = rng.gamma(3, 1, flux.shape).astype("f4")
    ivar[rng.random(flux.shape) < 0.3] = 0
    ivar[2] = 0
    ivar[3, 1:] = 0
    snr = median_snr(flux, ivar)
    assert snr.dtype == np.float32
    for i in range(6):
        good = ivar[i] > 0
        expected = np.median((flux[i] * np.sqrt(ivar[i]))[good]) if good.any() else 0
        assert snr[i] == pytest.approx(expected, rel=1e-6)
    spoilt = np.where(ivar > 0, flux, 1e9).astype("f4")
    np.testing.assert_array_equal(median_snr(spoilt, ivar), snr)


def test_identifiers_that_went_through_a_float_are_refused_and_none_are_fine():
    check_targetid(pd.Series([2**60]), "labels")
    check_targetid(pd.Series([], dtype="float64"), "labels")
    with pytest.raises(SchemaError, match=r"the targetid of the labels is a float, expected int64; above 2\*\*53"):
        check_targetid(pd.Series([1.0, np.nan]), "labels")
