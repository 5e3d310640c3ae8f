"""The readers: one contract for all, real files against their truth, damaged files against plain sentences."""

import gzip
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits

from astrolab.readers import desi, sdss
from astrolab.readers.desi import read_desi
from astrolab.readers.files import BadFileError, find_files
from astrolab.readers.fits import open_fits
from astrolab.readers.sdss import read_sdss
from astrolab.schema import NO_REDSHIFT, check_spectra

ARMS = {"B": slice(0, 300), "R": slice(280, 600), "Z": slice(590, 900)}


def write_coadd(path, targetids, *, seed=0, arms="BRZ", checksum=True, change=None, **columns):
    """Write a small DESI coadd with plain astropy; `change` may edit the list of HDUs."""
    rng = np.random.default_rng(seed)
    n = len(targetids)
    table = [fits.Column("TARGETID", "K", array=np.asarray(targetids))]
    table += [fits.Column(name, form, array=values) for name, (form, values) in columns.items()]
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table, name="FIBERMAP")])
    hdus[0].header.update(SURVEY="main", PROGRAM="dark", HPXPIXEL=10016)
    for camera in arms:
        wavelength = desi.WAVELENGTH[ARMS[camera]].copy()
        shape = (n, len(wavelength))
        mask = (rng.random(shape) < 0.05).astype(np.uint32)
        parts = {
            "WAVELENGTH": wavelength,
            "FLUX": rng.normal(2, 1, shape).astype("f4"),
            "IVAR": rng.gamma(5, 1, shape).astype("f4"),
            "MASK": mask,
            "RESOLUTION": np.ones((n, 3, len(wavelength)), "f4"),
        }
        hdus.extend(fits.ImageHDU(values, name=f"{camera}_{part}") for part, values in parts.items())
    if change:
        change(hdus)
    hdus.writeto(path, checksum=checksum, overwrite=True)
    return str(path)


def write_redrock(path, targetids, redshift):
    n = len(targetids)
    columns = [
        fits.Column("TARGETID", "K", array=np.asarray(targetids)),
        fits.Column("Z", "D", array=np.asarray(redshift)),
        fits.Column("ZERR", "D", array=np.full(n, 1e-4)),
        fits.Column("ZWARN", "K", array=np.full(n, 4)),
        fits.Column("SPECTYPE", "6A", array=np.array(["QSO"] * n)),
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="REDSHIFTS")]).writeto(path)


def coadd_slowly(path):
    """Coadd the cameras pixel after pixel, with astropy and float64."""
    with fits.open(path, memmap=False) as hdus:
        n = len(hdus["FIBERMAP"].data)
        flux, ivar = np.zeros((n, 7781)), np.zeros((n, 7781))
        for camera in "BRZ":
            if f"{camera}_FLUX" not in hdus:
                continue
            for j, wavelength in enumerate(hdus[f"{camera}_WAVELENGTH"].data):
                i = round((wavelength - 3600) / 0.8)
                weight = np.where(hdus[f"{camera}_MASK"].data[:, j] == 0, hdus[f"{camera}_IVAR"].data[:, j], 0.0)
                flux[:, i] += weight * hdus[f"{camera}_FLUX"].data[:, j]
                ivar[:, i] += weight
    return np.divide(flux, ivar, out=np.zeros_like(flux), where=ivar > 0), ivar


# the readers, each with the folder of real files that it reads and the number of objects in it
READERS = {"desi": (read_desi, desi, 13), "sdss": (read_sdss, sdss, 345)}


@pytest.mark.real
@pytest.mark.parametrize("survey", READERS)
def test_contract_on_real_files(survey, real_data):
    read, module, n_objects = READERS[survey]
    spectra = check_spectra(read(real_data / survey))
    assert spectra.sizes == {"object": n_objects, "wavelength": len(module.WAVELENGTH)}
    assert spectra.flux.chunks is not None
    assert spectra.ivar.chunks is not None
    assert {"is_target", "objtype"} <= set(spectra.coords)
    loaded = pickle.loads(pickle.dumps(spectra)).compute()
    assert np.isfinite(loaded.flux).all()
    assert np.isfinite(loaded.ivar).all()
    assert (loaded.ivar >= 0).all()
    assert (loaded.flux.values[loaded.ivar.values == 0] == 0).all()
    assert set(np.unique(loaded.spectype)) <= {"QSO", "GALAXY", "STAR", ""}


@pytest.mark.parametrize("read", [read_desi, read_sdss])
def test_paths_that_hold_nothing(read, tmp_path):
    (tmp_path / "README.md").write_text("no spectra here")
    with pytest.raises(FileNotFoundError, match="holds no FITS file"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no FITS file"):
        read(f"{tmp_path}/*.fits")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read(tmp_path / "nothing.fits")
    with pytest.raises(FileNotFoundError, match="no source"):
        read([])


@pytest.mark.parametrize("read", [read_desi, read_sdss])
def test_what_is_not_fits(read, tmp_path):
    page = tmp_path / "spec.fits"
    page.write_text("<!DOCTYPE html><html><body>404</body></html>")
    with pytest.raises(BadFileError, match="HTML page"):
        read(page)
    page.write_bytes(b"")
    with pytest.raises(BadFileError, match="empty"):
        read(page)
    fits.HDUList([fits.PrimaryHDU(np.zeros((3, 3)))]).writeto(page, overwrite=True)
    with pytest.raises(BadFileError, match="is not a"):
        read(page)


@pytest.mark.real
def test_sdss_against_truth(real_data):
    spectra = read_sdss(real_data / "sdss")
    truth = pd.read_csv(real_data / "sdss" / "truth.csv")
    truth.index = [int(f"{plate}{mjd:05d}{fiber:04d}") for plate, mjd, fiber in truth[["plate", "mjd", "fiber"]].values]
    truth = truth.loc[spectra.targetid.values]
    np.testing.assert_allclose(spectra.ra, truth.ra, atol=1e-9)
    np.testing.assert_allclose(spectra.dec, truth.dec, atol=1e-9)
    np.testing.assert_array_equal(spectra.redshift_warning, truth.zwarning)
    is_sky = (truth.truth_class == "SKY").values
    np.testing.assert_array_equal(spectra.objtype.values == "SKY", is_sky)
    assert not spectra.is_target.values[is_sky].any()
    is_pipeline = truth.truth_source.str.contains("pipeline").values & truth.truth_z.notna().values & ~is_sky
    np.testing.assert_allclose(spectra.redshift.values[is_pipeline], truth.truth_z[is_pipeline], atol=1e-6)
    assert (spectra.spectype.values[is_pipeline] == truth.truth_class[is_pipeline]).mean() > 0.98


@pytest.mark.real
def test_sdss_pixels_against_astropy(real_data):
    files = find_files(real_data / "sdss")[::40]
    spectra = read_sdss(files).compute()
    for i, path in enumerate(files):
        with fits.open(path, memmap=False) as hdus:
            data = hdus[1].data
            loglam, flux, ivar = (np.array(data[name], "f8") for name in ("loglam", "flux", "ivar"))
            ivar[(data["and_mask"].astype(int) & sdss.DO_NOT_USE) != 0] = 0
            assert spectra.redshift.values[i] == hdus[2].data["Z"][0]
        where = np.searchsorted(np.log10(sdss.WAVELENGTH), loglam - 5e-5)
        np.testing.assert_allclose(np.log10(sdss.WAVELENGTH[where]), loglam, atol=1e-6)
        np.testing.assert_array_equal(spectra.ivar.values[i, where], ivar.astype("f4"))
        np.testing.assert_array_equal(spectra.flux.values[i, where], np.where(ivar > 0, flux, 0).astype("f4"))
        assert np.count_nonzero(spectra.ivar.values[i]) == np.count_nonzero(ivar)


@pytest.mark.real
def test_desi_on_real_coadds(real_data):
    spectra = read_desi(real_data / "desi").compute()
    truth = pd.read_csv(real_data / "desi" / "truth.csv")
    assert sorted(spectra.targetid.values) == sorted(truth.targetid)
    assert (spectra.targetid < 0).sum() == 3
    galaxy = spectra.isel(object=spectra.targetid == 39633345008634465)
    assert galaxy.redshift.item() == pytest.approx(0.36874355)
    assert galaxy.spectype == "GALAXY"
    assert galaxy.redshift_warning == 0
    others = spectra.isel(object=spectra.targetid != 39633345008634465)
    assert np.isnan(others.redshift).all()
    assert (others.redshift_warning == NO_REDSHIFT).all()
    blank = spectra.isel(object=spectra.targetid < 0)
    assert not blank.is_target.any()
    assert (blank.ivar == 0).all()
    assert spectra.is_target.sum() == 9
    for name in ("coadd-1-80693-thru20210204", "coadd-sv3-dark-9144"):
        path = real_data / "desi" / f"{name}.fits"
        flux, ivar = coadd_slowly(path)
        one = read_desi(path)
        np.testing.assert_allclose(one.flux, flux, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(one.ivar, ivar, rtol=1e-6)
    assert set(one.survey.values) == {"sv3"}
    assert set(one.program.values) == {"dark"}
    assert set(one.healpix.values) == {9144}


@pytest.mark.parametrize("arms", ["BRZ", "BZ", "R"])
def test_cameras_are_coadded(arms, tmp_path):
    path = write_coadd(tmp_path / "coadd-x.fits", [5, -7, 3], arms=arms)
    flux, ivar = coadd_slowly(path)
    spectra = read_desi(path).compute()
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-6)
    assert list(spectra.targetid.values) == [5, -7, 3]
    assert (np.isnan(spectra.ra)).all()
    assert list(spectra.is_target.values) == [True, False, True]


def test_masked_pixels_do_not_matter(tmp_path):
    def spoil(hdus):
        for camera in "BRZ":
            is_masked = hdus[f"{camera}_MASK"].data != 0
            hdus[f"{camera}_FLUX"].data[is_masked] = np.nan
            hdus[f"{camera}_IVAR"].data[is_masked] = -1
            hdus[f"{camera}_FLUX"].data[0, :5], hdus[f"{camera}_IVAR"].data[0, :5] = np.inf, 0

    def blank(hdus):
        for camera in "BRZ":
            hdus[f"{camera}_IVAR"].data[0, :5] = 0

    good = read_desi(write_coadd(tmp_path / "good.fits", [1, 2], change=blank)).compute()
    spoilt = read_desi(write_coadd(tmp_path / "spoilt.fits", [1, 2], change=spoil)).compute()
    xr.testing.assert_identical(good, spoilt)


def test_redshifts_are_matched_by_targetid(tmp_path):
    write_coadd(tmp_path / "coadd-main-dark-1.fits", [11, -12, 13, 14])
    write_redrock(tmp_path / "redrock-main-dark-1.fits", [14, 99, 11, -12], [1.4, 9.9, 1.1, 1.2])
    spectra = read_desi(tmp_path)
    np.testing.assert_array_equal(spectra.redshift, [1.1, 1.2, np.nan, 1.4])
    np.testing.assert_array_equal(spectra.redshift_warning, [4, 4, NO_REDSHIFT, 4])
    assert list(spectra.spectype.values) == ["QSO", "QSO", "", "QSO"]
    with pytest.raises(FileNotFoundError, match="no DESI coadd"):
        read_desi(tmp_path / "redrock-main-dark-1.fits")


def test_fibermap_columns(tmp_path):
    path = write_coadd(
        tmp_path / "coadd.fits",
        [1, 2, 3, 4, 5],
        TARGET_RA=("D", [10.5, 20, 30, 40, 50]),
        TARGET_DEC=("D", [-1, -2, -3, -4, -5.5]),
        OBJTYPE=("3A", ["TGT", "SKY", "TGT", "TGT", ""]),
        COADD_FIBERSTATUS=("J", [0, 0, 1 << 9, 1 << 3, 1]),
    )
    spectra = read_desi(path)
    np.testing.assert_array_equal(spectra.ra, [10.5, 20, 30, 40, 50])
    np.testing.assert_array_equal(spectra.dec, [-1, -2, -3, -4, -5.5])
    assert list(spectra.objtype.values) == ["TGT", "SKY", "TGT", "TGT", ""]
    # a restricted positioner (bit 3) works; a bad position (bit 9) and an unassigned fibre (bit 0) do not
    assert list(spectra.is_target.values) == [True, False, False, True, False]


def test_healpix_tree(tmp_path):
    folder = tmp_path / "iron" / "healpix" / "main" / "dark" / "100"
    for pixel in (10016, 10017):
        (folder / str(pixel)).mkdir(parents=True)
        write_coadd(folder / str(pixel) / f"coadd-main-dark-{pixel}.fits", [pixel])
        write_coadd(folder / str(pixel) / f"spectra-main-dark-{pixel}.fits", [pixel])
    assert list(read_desi(tmp_path / "iron", survey="main", healpix=10017).targetid.values) == [10017]
    assert list(read_desi(tmp_path / "iron", program="dark").targetid.values) == [10016, 10017]
    both = read_desi(tmp_path / "iron", survey="main", program="dark", healpix=[10017, 10016])
    assert list(both.targetid.values) == [10017, 10016]
    with pytest.raises(FileNotFoundError):
        read_desi(tmp_path / "iron", survey="sv3")


def test_a_folder_means_every_fits_file(tmp_path):
    (tmp_path / "deep").mkdir()
    source = write_coadd(tmp_path / "plain.fits", [1])
    shutil.copy(source, tmp_path / "deep" / "no-extension")
    shutil.copy(source, tmp_path / "deep" / "odd.dat")
    (tmp_path / "deep" / "table.csv").write_text("targetid\n1\n")
    with (tmp_path / "zipped.fits.gz").open("wb") as file:
        file.write(gzip.compress((tmp_path / "plain.fits").read_bytes()))
    names = [path.rsplit("/", 1)[1] for path in find_files(tmp_path)]
    assert names == ["no-extension", "odd.dat", "plain.fits", "zipped.fits.gz"]
    assert find_files([tmp_path / "plain.fits", f"{tmp_path}/*.fits"]) == [source]
    xr.testing.assert_identical(read_desi(tmp_path / "zipped.fits.gz").compute(), read_desi(source).compute())


def test_table_columns_against_astropy(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "u2": ("I", rng.integers(0, 2**16, 9).astype(np.uint16), "i"),
        "i4": ("J", rng.integers(-(2**31), 2**31, 9).astype(np.int32), "i"),
        "i8": ("K", rng.integers(-(2**62), 2**62, 9), "i"),
        "f4": ("E", rng.normal(size=9).astype(np.float32), "f"),
        "text": ("7A", np.array(["a", "bc ", "", "it's", "x" * 7] + ["q"] * 4), "U"),
        "vector": ("3D", rng.normal(size=(9, 3)), None),
    }
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, form, array=values, bzero=2**15 if name == "u2" else None)
            for name, (form, values, _) in columns.items()
        ],
        name="T",
    )
    path = tmp_path / "t.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, checksum=True)
    with open_fits(path) as file:
        column = file.table("T")
        for name, (_, values, kind) in columns.items():
            if kind:
                expected = np.char.strip(values) if kind == "U" else values
                np.testing.assert_array_equal(column(name, kind), expected)
        with pytest.raises(BadFileError, match="expected one"):
            column("vector", "f")
        with pytest.raises(BadFileError, match="expected integers"):
            column("f4", "i")
        with pytest.raises(BadFileError, match="no column"):
            column("nothing", "i")


def _edit(name, part, value):
    def change(hdus):
        hdus[name].data[part] = value

    return change


def _drop(name):
    def change(hdus):
        del hdus[name]

    return change


def _swap(one, other):
    def change(hdus):
        hdus[one].data, hdus[other].data = hdus[other].data.copy(), hdus[one].data.copy()

    return change


def _cut(name):
    def change(hdus):
        hdus[name].data = hdus[name].data[:, :-3].copy()

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop("FIBERMAP"), "no HDU FIBERMAP"),
        (_drop("R_FLUX"), "no HDU R_FLUX"),
        (_drop("R_WAVELENGTH"), "no HDU R_WAVELENGTH"),
        (_drop("B_MASK"), "not the MASK of every camera"),
        (_cut("Z_IVAR"), "Z_IVAR has shape"),
        (_swap("B_FLUX", "R_FLUX"), "shape"),
        (_swap("B_WAVELENGTH", "R_WAVELENGTH"), "shape"),
        (_edit("B_WAVELENGTH", slice(7, 9), [3607, 3606]), "do not increase"),
        (_edit("B_WAVELENGTH", 7, np.nan), "do not increase"),
        (_edit("B_WAVELENGTH", slice(None), np.linspace(3600, 3700, 300)), "grid"),
        (_edit("B_FLUX", (1, slice(0, 5)), np.nan), "flux is not finite in [1-5] pixels of camera B"),
        (_edit("R_FLUX", (0, slice(0, 9)), -np.inf), "flux is not finite"),
        (_edit("Z_IVAR", (1, slice(0, 9)), -1), "ivar is negative"),
        (_edit("Z_IVAR", (1, slice(0, 9)), np.nan), "ivar is negative or not finite"),
    ],
)
def test_bad_coadds_say_why(change, reason, tmp_path):
    path = write_coadd(tmp_path / "coadd.fits", [1, 2], change=change)
    with pytest.raises(BadFileError, match=reason) as caught:
        read_desi(path).compute()
    assert caught.value.path == path
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_every_flipped_bit_of_a_checksummed_file_is_caught(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path, [1, 2])
    raw = path.read_bytes()
    good = read_desi(path).compute()
    rng = np.random.default_rng(1)
    n_caught = 0
    for position in rng.integers(0, len(raw), 60):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            spectra = read_desi(path).compute()
        except BadFileError:
            n_caught += 1
        else:
            xr.testing.assert_identical(spectra, good)
    assert n_caught >= 58


def test_sizes_are_compared_before_reading(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path, [1, 2], checksum=False)
    raw = path.read_bytes()
    card = raw.index(b"NAXIS2  =", raw.index(b"B_FLUX") - 2000)
    for size in (b"999999999999999999", b"         123456789", b"                -5", b"               1e9"):
        bomb = raw[: card + 10] + b"  " + size + raw[card + 30 :]
        path.write_bytes(bomb)
        with pytest.raises(BadFileError, match="states"):
            read_desi(path)
    path.write_bytes(raw.replace(b"NAXIS   =                    2", b"NAXIS   =            999999999", 1))
    with pytest.raises(BadFileError, match="NAXIS 999999999"):
        read_desi(path)
    mask = raw.index(b"BZERO", raw.index(b"B_MASK") - 1000)
    for value in (b"nonsense", b"T", b"1E999", b"17"):
        path.write_bytes(raw[: mask + 10] + value.rjust(20) + raw[mask + 30 :])
        with pytest.raises(BadFileError, match="number"):
            read_desi(path).compute()
    for length in (len(raw) - 1, len(raw) - 2880, len(raw) // 2, 5000, 81):
        path.write_bytes(raw[:length])
        with pytest.raises(BadFileError, match="end"):
            read_desi(path)


@pytest.mark.real
@pytest.mark.parametrize("change", ["PLATEID", "LOGLAM", "FLUX", "IVAR", "AIR", "Z"])
def test_bad_sdss_files_say_why(change, real_data, tmp_path):
    path = tmp_path / "spec.fits"
    with fits.open(find_files(real_data / "sdss")[0], memmap=False) as hdus:
        data = hdus[1].data
        if change == "PLATEID":
            hdus[0].header["PLATEID"] += 1
        elif change == "AIR":
            hdus[0].header["VACUUM"] = False
        elif change == "Z":
            hdus[2].columns["Z"].name = "ZZZ"
        elif change == "LOGLAM":
            data["loglam"][:] = data["loglam"] + 5e-5
        else:
            data[change.lower()][100] = np.nan if change == "FLUX" else -1
        hdus.writeto(path)
    reasons = {"PLATEID": "by its first header", "LOGLAM": "grid", "AIR": "in air", "Z": "no column Z"}
    with pytest.raises(BadFileError, match=reasons.get(change, "in 1 pixels")):
        read_sdss(path).compute()


def test_a_missing_package_is_named(monkeypatch):
    import fsspec

    def refuse(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(ImportError, match=r'pip install "astrolab-research\[s3\]"'):
        read_desi("s3://bucket/coadd.fits")
