"""Simulated surveys as DESI files, and surveys drawn from Redrock templates."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from astrolab.readers.desi import read_desi
from astrolab.simulation.desi_files import split_cameras, write_desi_files
from astrolab.simulation.grid import CAMERAS, N_WAVELENGTH, WAVELENGTH
from astrolab.simulation.survey import simulate_survey
from astrolab.simulation.templates import read_templates


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    spectra = simulate_survey(300, seed=11, rare_fraction=0.2)
    folder = tmp_path_factory.mktemp("survey") / "desi"
    return spectra.compute(), folder, write_desi_files(spectra, folder, progress=False)


def _slow_coadd(hdus, row):
    """Plain coadd of one object, pixel by pixel."""
    flux, ivar = np.zeros(N_WAVELENGTH), np.zeros(N_WAVELENGTH)
    for camera in "BRZ":
        wavelength = hdus[f"{camera}_WAVELENGTH"].data
        for at, f, i, m in zip(
            wavelength, hdus[f"{camera}_FLUX"].data[row], hdus[f"{camera}_IVAR"].data[row],
            hdus[f"{camera}_MASK"].data[row], strict=True,
        ):  # fmt: skip
            if m == 0:
                pixel = round((at - 3600) / 0.8)
                flux[pixel] += float(i) * float(f)
                ivar[pixel] += float(i)
    return np.divide(flux, ivar, out=np.zeros_like(flux), where=ivar > 0), ivar


def test_files_have_desis_layout(written):
    _, folder, paths = written
    names = [path.relative_to(folder).as_posix() for path in paths]
    assert names == [f"healpix/main/dark/81/{pixel}/coadd-main-dark-{pixel}.fits" for pixel in (8192, 8193)]
    for path in paths:
        assert path.with_name(path.name.replace("coadd", "redrock")).exists()
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            assert all({"CHECKSUM", "DATASUM"} <= set(hdu.header) for hdu in hdus)
            assert all(hdu.header["SIMULATD"] for hdu in hdus)
            assert "SIMULATED" in str(hdus[0].header["COMMENT"])
            assert hdus["B_MASK"].data.dtype == np.dtype(">i4")
            assert hdus["R_FLUX"].shape == (len(hdus["FIBERMAP"].data), 2326)
            np.testing.assert_allclose(hdus["Z_WAVELENGTH"].data[[0, -1]], [7520, 9824])


def test_plain_coadd_of_the_files_is_the_survey(written):
    spectra, _, paths = written
    with fits.open(paths[0]) as hdus:
        for row in (0, 7):
            flux, ivar = _slow_coadd(hdus, row)
            np.testing.assert_allclose(ivar, spectra["ivar"].values[row], rtol=3e-7)
            wrong = np.abs(flux - spectra["flux"].values[row]) * np.sqrt(ivar)
            assert wrong.max() < 1e-4


def test_read_desi_reads_the_survey_back(written):
    spectra, folder, _ = written
    back = read_desi(folder).compute()
    back = back.isel(object=np.argsort(back["targetid"].values))
    for name in (
        "targetid", "ra", "dec", "redshift", "redshift_err", "redshift_warning", "spectype", "survey", "program",
        "healpix", "objtype", "fiberstatus", "is_target",
    ):  # fmt: skip
        np.testing.assert_array_equal(back[name].values, spectra[name].values, err_msg=name)
    np.testing.assert_allclose(back["ivar"], spectra["ivar"], rtol=3e-7)
    wrong = np.abs(back["flux"] - spectra["flux"]) * np.sqrt(spectra["ivar"])
    assert float(wrong.max()) < 1e-4
    alone = np.ones(N_WAVELENGTH, bool)
    alone[2700:2751] = alone[4900:5026] = False
    np.testing.assert_array_equal(back["flux"].values[:, alone], spectra["flux"].values[:, alone])
    np.testing.assert_array_equal(back["ivar"].values[:, alone], spectra["ivar"].values[:, alone])


def test_truth_lies_beside_the_files(written):
    spectra, folder, _ = written
    truth = pd.read_csv(folder / "truth.csv", keep_default_na=False, dtype={"targetid": "int64"})
    np.testing.assert_array_equal(truth["targetid"], spectra["targetid"])
    np.testing.assert_array_equal(truth["truth_rare"], spectra["truth_rare"])
    assert all((folder / name).exists() for name in truth["file"].unique())


def test_same_survey_gives_the_same_files(written, tmp_path):
    spectra, _, paths = written
    again = write_desi_files(spectra, tmp_path / "again", progress=False)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_a_part_of_a_survey_can_be_written(tmp_path):
    spectra = simulate_survey(300, seed=4).isel(object=[3, 280, 17])
    write_desi_files(spectra, tmp_path / "part", progress=False)
    back = read_desi(tmp_path / "part")
    assert sorted(back["targetid"].values) == sorted(spectra["targetid"].values)


def test_overlapping_cameras_differ_by_their_noise():
    rng = np.random.default_rng(0)
    ivar = np.full((200, N_WAVELENGTH), 4, "float32")
    flux = rng.normal(0, 0.5, ivar.shape).astype("float32")
    cameras = split_cameras(flux, ivar, rng)
    for camera, (own, weight) in cameras.items():
        assert own.shape == (200, CAMERAS[camera].stop - CAMERAS[camera].start)
        good = weight > 0
        assert np.std(own[good] * np.sqrt(weight[good])) == pytest.approx(1, abs=0.01)
    blue, red = cameras["r"], cameras["z"]
    chi = (blue[0][:, -126:] - red[0][:, :126]) / np.sqrt(1 / blue[1][:, -126:] + 1 / red[1][:, :126])
    assert np.std(chi) == pytest.approx(1, abs=0.02)


def test_only_simulated_spectra_on_desis_grid_are_written(tmp_path):
    spectra = simulate_survey(5)
    with pytest.raises(ValueError, match="is_simulated"):
        write_desi_files(spectra.assign_attrs(is_simulated=0), tmp_path / "a")
    with pytest.raises(ValueError, match="observed wavelengths"):
        write_desi_files(spectra.isel(wavelength=slice(0, 100)), tmp_path / "b")
    with pytest.raises(ValueError, match="healpix"):
        write_desi_files(spectra.drop_vars("healpix"), tmp_path / "c")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_desi_files(spectra, tmp_path / "full")


def _write_template(path, kind, subtype, first, vectors, coefficients=None, **keywords):
    hdu = fits.PrimaryHDU(vectors)
    hdu.header.update({"CRVAL1": first, "RRTYPE": kind, "RRSUBTYP": subtype, **keywords})
    hdus = [hdu] if coefficients is None else [hdu, fits.ImageHDU(coefficients, name="ARCHETYPE_COEFF")]
    fits.HDUList(hdus).writeto(path)


def test_stars_are_drawn_from_templates(tmp_path):
    wavelength = 3000 + np.arange(80001) * 0.1
    step = np.where(wavelength > 6000, 2.0, 1.0)
    _write_template(tmp_path / "rrtemplate-STAR-X.fits", "STAR", "X", 3000.0, step[None], np.array([[3.0]]), CDELT1=0.1)
    spectra = simulate_survey(
        40, star_fraction=1, galaxy_fraction=0, sky_fraction=0, templates_path=tmp_path, with_noise=False
    )
    flux, good = spectra["flux"].values, spectra["ivar"].values > 0
    ratio = flux / np.median(flux[:, WAVELENGTH > 6100], axis=1, keepdims=True)
    redward, blueward = good & (WAVELENGTH > 6020), good & (WAVELENGTH < 5980)
    np.testing.assert_allclose(ratio[redward], 1, rtol=1e-3)
    np.testing.assert_allclose(ratio[blueward], 0.5, rtol=1e-3)


def test_quasars_take_the_shape_of_templates(tmp_path):
    """With a single smooth eigenvector there can be no emission line left."""
    log_wavelength = 2.6 + 1e-4 * np.arange(14000)
    vector = 10 ** (-1.5 * (log_wavelength - 3.5))
    _write_template(tmp_path / "rrtemplate-QSO-X.fits", "QSO", "X", 2.6, vector[None], CDELT1=1e-4, LOGLAM=1)
    options = {"star_fraction": 0, "galaxy_fraction": 0, "sky_fraction": 0, "rare_fraction": 0, "with_noise": False}
    spectra = simulate_survey(60, seed=2, templates_path=tmp_path / "rrtemplate-QSO-X.fits", **options)
    near = spectra.isel(object=(spectra["truth_redshift"] > 1.0) & (spectra["truth_redshift"] < 1.8)).compute()
    flux, good = near["flux"].values, near["ivar"].values > 0
    rest = WAVELENGTH / (1 + near["truth_redshift"].values[:, None])
    line = np.nanmedian(np.where(good & (np.abs(rest - 2798) < 10), flux * rest**1.5, np.nan), axis=1)
    side = np.nanmedian(np.where(good & (np.abs(rest - 2700) < 10), flux * rest**1.5, np.nan), axis=1)
    np.testing.assert_allclose(line / side, 1, atol=0.1)  # dust; an emission line would stand out by 1.3 and more


def test_what_is_no_template_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Redrock template"):
        simulate_survey(5, templates_path=tmp_path)
    fits.PrimaryHDU(np.ones((2, 5))).writeto(tmp_path / "rrtemplate-bad.fits")
    with pytest.raises(ValueError, match="not a Redrock template"):
        simulate_survey(5, templates_path=tmp_path / "rrtemplate-bad.fits")


def test_real_templates_make_quasars_and_stars(real_data):
    folder = real_data / "redrock-templates"
    kinds = {(template.spectype, template.subtype) for template in read_templates(str(folder))}
    assert {("QSO", "LOZ"), ("QSO", "HIZ"), ("STAR", "M"), ("STAR", "WD")} <= kinds
    spectra = simulate_survey(256, seed=1, star_fraction=0.2, templates_path=folder, rare_fraction=0).compute()
    assert np.all(np.isfinite(spectra["flux"]))
    analytic = simulate_survey(256, seed=1, star_fraction=0.2, rare_fraction=0).compute()
    np.testing.assert_array_equal(spectra["truth_spectype"], analytic["truth_spectype"])
    is_quasar = (spectra["truth_spectype"] == "QSO").values
    differ = np.abs(spectra["flux"] - analytic["flux"]).values.max(axis=1) > 0
    assert differ[is_quasar].mean() > 0.95
