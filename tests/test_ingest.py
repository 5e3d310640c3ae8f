"""Ingest: every row is stored or set aside with its reason, whatever the files are like."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from astrolab.ingest import IngestError, ingest_survey
from astrolab.readers import blocks, desi, files
from astrolab.readers.desi import read_desi
from astrolab.stores.publish import StoreError
from astrolab.stores.spectra import open_spectra

ARMS = {"B": slice(0, 300), "R": slice(280, 600), "Z": slice(590, 900)}


def make_coadd(targetids, seed=0, checksum=True, change=None):
    """Return a small DESI coadd as a list of HDUs, with checksums."""
    rng = np.random.default_rng(seed)
    column = fits.Column("TARGETID", "K", array=np.asarray(targetids))
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column], name="FIBERMAP")])
    for camera, where in ARMS.items():
        shape = (len(targetids), where.stop - where.start)
        parts = {
            "WAVELENGTH": desi.WAVELENGTH[where].copy(),
            "FLUX": rng.normal(2, 1, shape).astype("f4"),
            "IVAR": rng.gamma(5, 1, shape).astype("f4"),
            "MASK": (rng.random(shape) < 0.05).astype(np.uint32),
        }
        hdus.extend(fits.ImageHDU(values, name=f"{camera}_{part}") for part, values in parts.items())
    if change:
        change(hdus)
    if checksum:
        for hdu in hdus:
            hdu.add_checksum()
    return hdus


def write_coadd(path, targetids, **options):
    make_coadd(targetids, **options).writeto(path)
    return str(path)


def codes(report):
    return sorted(record["code"] for record in report.quarantined)


@pytest.mark.real
@pytest.mark.parametrize(("survey", "n_objects"), [("sdss", 345), ("desi", 13)])
def test_real_files(survey, n_objects, real_data, tmp_path):
    from astrolab.readers.desi import read_desi
    from astrolab.readers.sdss import read_sdss

    report = ingest_survey(survey, real_data / survey, tmp_path / "a.zarr", chunk_size=100, progress=False)
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (n_objects, n_objects, 0)
    assert report.n_companion_files == (survey == "desi")
    assert report.n_files_without_checksum == {"sdss": 345, "desi": 2}[survey]
    stored = open_spectra(tmp_path / "a.zarr").compute()
    assert np.all(np.diff(stored.targetid) > 0)
    assert stored.attrs["provenance"]["rows_in"] == n_objects
    read = {"sdss": read_sdss, "desi": read_desi}[survey](real_data / survey).compute().sortby("targetid")
    stored.attrs = {}
    xr.testing.assert_identical(stored.drop_vars("snr"), read)
    assert stored.snr.dtype == np.float32
    if survey == "desi":
        assert (stored.targetid < 0).sum() == 3
        assert stored.redshift.sel(object=stored.targetid == 39633345008634465).item() == pytest.approx(0.36874355)


def test_files_of_every_kind(tmp_path):
    source = tmp_path / "survey"
    source.mkdir()
    write_coadd(source / "a.fits", [30, 10, 20])
    write_coadd(source / "b.fits", [40, 10, -5], seed=1)  # 10 is a duplicate
    write_coadd(source / "c.fits", [50, 51], change=lambda h: h["R_FLUX"].data.__setitem__((1, slice(0, 30)), np.nan))
    write_coadd(source / "d.fits", [60, 61], change=lambda h: h["Z_IVAR"].data.__setitem__((0, 5), -1))
    write_coadd(source / "e.fits", [70, 70, 71])
    write_coadd(source / "f.fits", [0, 80])
    write_coadd(source / "g.fits", [90, 91], change=lambda h: h.pop("B_IVAR"))
    write_coadd(source / "truncated.fits", [100, 101])
    os.truncate(source / "truncated.fits", 9000)
    (source / "page.fits").write_text("<html>not found</html>")
    (source / "README.md").write_text("about")
    report = ingest_survey("desi", source, tmp_path / "out.zarr", chunk_size=4, progress=False)
    stored = open_spectra(tmp_path / "out.zarr").compute()
    assert list(stored.targetid.values) == [-5, 10, 20, 30, 40, 50, 61, 70, 71, 80]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (19, 10, 9)
    assert report.is_complete
    reasons = {(record["path"].rsplit("/", 1)[1], record["targetid"]): record for record in report.quarantined}
    assert "a.fits" in reasons["b.fits", 10]["reason"]
    assert "flux is not finite in" in reasons["c.fits", 51]["reason"]
    assert "ivar is negative or not finite in 1 pixels of camera Z" in reasons["d.fits", 60]["reason"]
    assert reasons["e.fits", 70]["code"] == "duplicate"
    assert reasons["f.fits", 0]["code"] == "bad_targetid"
    assert reasons["g.fits", None]["n_rows"] == 2
    assert "B_IVAR" in reasons["g.fits", None]["reason"]
    assert "HTML" in reasons["page.fits", None]["reason"]
    assert reasons["truncated.fits", None]["code"] == "truncated"
    assert len(reasons["page.fits", None]["sha256"]) == 64
    said = json.loads(report.to_json())
    assert said["rows_in"] == said["rows_out"] + said["rows_quarantined"] == 19
    assert {"path", "reason", "n_rows", "targetid", "sha256", "time"} <= set(said["quarantined"][0])
    expected = read_desi(source / "a.fits").compute()
    first = stored.isel(object=stored.targetid.values == 10)
    np.testing.assert_array_equal(first.flux, expected.flux[1:2])


def test_a_good_duplicate_takes_the_place_of_a_bad_spectrum(tmp_path):
    write_coadd(tmp_path / "a.fits", [1, 2], change=lambda h: h["B_FLUX"].data.__setitem__((0, slice(0, 9)), np.inf))
    write_coadd(tmp_path / "b.fits", [1], seed=5)
    report = ingest_survey("desi", [tmp_path / "a.fits", tmp_path / "b.fits"], tmp_path / "out", progress=False)
    assert codes(report) == ["bad_pixels"]
    stored = open_spectra(tmp_path / "out")
    np.testing.assert_array_equal(stored.flux[0], read_desi(tmp_path / "b.fits").flux[0])


def test_a_file_that_turns_bad_while_pixels_are_read(tmp_path):
    def flip(path):
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"R_FLUX") + 8000] ^= 4
        path.write_bytes(raw)

    def without_fibermap_sum(hdus):
        hdus["R_FLUX"].add_checksum()

    for name, targetids in (("a", [5, 1, 9]), ("b", [2, 6, 7]), ("c", [3, 8])):
        write_coadd(tmp_path / f"{name}.fits", targetids, change=without_fibermap_sum)
    flip(tmp_path / "b.fits")
    limit, fits_module = 0, sys.modules["astrolab.readers.fits"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits_module, "_VERIFY_SMALLER_BYTES", limit)  # as for files of real size: seen with the pixels
        report = ingest_survey("desi", f"{tmp_path}/*.fits", tmp_path / "out", chunk_size=2, progress=False)
    assert [(r["code"], r["n_rows"], r["targetid"]) for r in report.quarantined] == [("checksum", 3, None)]
    assert list(open_spectra(tmp_path / "out").targetid.values) == [1, 3, 5, 8, 9]


def test_nothing_good_means_no_store(tmp_path):
    (tmp_path / "page.fits").write_text("<html></html>")
    with pytest.raises(IngestError, match=r"no row of 1 files could be stored.*HTML") as caught:
        ingest_survey("desi", tmp_path, tmp_path / "out", progress=False)
    assert caught.value.report.rows_in == caught.value.report.rows_quarantined == 1
    with pytest.raises(FileNotFoundError, match="holds no FITS file"):
        ingest_survey("sdss", tmp_path / "*.fit", tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="expected one of desi, sdss"):
        ingest_survey("boss", tmp_path, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["page.fits"]


def test_strict_is_an_error_when_something_is_wrong(tmp_path):
    write_coadd(tmp_path / "a.fits", [1, 2])
    ingest_survey("desi", tmp_path / "a.fits", tmp_path / "good", is_strict=True, progress=False)
    (tmp_path / "b.fits").write_text("no")
    with pytest.raises(IngestError, match=r"1 of 3 rows were set aside.*b\.fits") as caught:
        ingest_survey("desi", f"{tmp_path}/*.fits", tmp_path / "out", is_strict=True, progress=False)
    assert caught.value.report.is_complete
    assert open_spectra(tmp_path / "out").sizes["object"] == 2


def test_a_store_that_is_there_stays(tmp_path):
    write_coadd(tmp_path / "a.fits", [1, 2])
    write_coadd(tmp_path / "b.fits", [3])
    ingest_survey("desi", tmp_path / "a.fits", tmp_path / "out", progress=False)
    with pytest.raises(StoreError, match="already"):
        ingest_survey("desi", tmp_path / "b.fits", tmp_path / "out", progress=False)
    assert open_spectra(tmp_path / "out").sizes["object"] == 2
    ingest_survey("desi", tmp_path / "b.fits", tmp_path / "out", overwrite=True, progress=False)
    assert open_spectra(tmp_path / "out").sizes["object"] == 1


def test_simulated_files_stay_labelled(tmp_path):
    write_coadd(tmp_path / "a.fits", [1, 2], change=lambda h: h[0].header.update(SIMULATD=True))
    assert read_desi(tmp_path / "a.fits").attrs["is_simulated"] == 1
    ingest_survey("desi", tmp_path / "a.fits", tmp_path / "out", progress=False)
    assert open_spectra(tmp_path / "out").attrs["is_simulated"] == 1


def test_same_files_same_bytes_whatever_the_chunks_read_ahead(tmp_path, monkeypatch):
    for i in range(6):
        write_coadd(tmp_path / f"{i}.fits", np.random.default_rng(i).permutation(10) * 10 + i + 1, seed=i)
    ingest_survey("desi", f"{tmp_path}/*.fits", tmp_path / "a", chunk_size=7, progress=False)
    monkeypatch.setattr(blocks, "_CACHE_BYTES", 0)
    monkeypatch.setattr(blocks, "_N_THREADS", 1)
    ingest_survey("desi", f"{tmp_path}/*.fits", tmp_path / "b", chunk_size=7, progress=False)
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    xr.testing.assert_equal(
        open_spectra(tmp_path / "a").compute().drop_vars("snr"),
        read_desi(f"{tmp_path}/*.fits").compute().sortby("targetid"),
    )


def test_memory_does_not_grow_with_the_files(tmp_path, monkeypatch):
    source = tmp_path / "0.fits"
    write_coadd(source, np.arange(1, 21))
    raw, first = source.read_bytes(), np.arange(1, 21).astype(">i8").tobytes()
    monkeypatch.setattr(blocks, "_CACHE_BYTES", 1 << 20)
    peaks = []
    for n_files in (6, 24):
        for i in range(n_files):
            ids = np.arange(1, 21) + 1000 * i
            (tmp_path / f"{i}.fits").write_bytes(raw.replace(first, ids.astype(">i8").tobytes()))
        no_sums = tmp_path / f"{n_files}"
        tracemalloc.start()
        try:
            ingest_survey("desi", _without_checksums(tmp_path, n_files), no_sums, chunk_size=16, progress=False)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert open_spectra(no_sums).sizes["object"] == 20 * n_files
    assert peaks[1] < 1.5 * peaks[0]


def _without_checksums(folder, n_files):
    paths = [folder / f"{i}.fits" for i in range(n_files)]
    for path in paths:
        raw = path.read_bytes().replace(b"CHECKSUM=", b"NOSUM1  =").replace(b"DATASUM =", b"NOSUM2  =")
        path.write_bytes(raw)
    return paths


# --- mutated files -----------------------------------------------------------------------------------------------


def _bytes_of(path, targetids, seed, **options):
    write_coadd(path, targetids, seed=seed, **options)
    raw = path.read_bytes()
    path.unlink()
    return raw


def _truncate(raw, rng):
    return raw[: int(rng.integers(0, len(raw)))]


def _zero_blocks(raw, rng):
    damaged = bytearray(raw)
    for block in rng.integers(0, len(raw) // 2880, 3):
        damaged[2880 * block : 2880 * (block + 1)] = bytes(2880)
    return bytes(damaged)


def _flip(raw, rng):
    damaged = bytearray(raw)
    for position in rng.integers(0, len(raw), int(rng.integers(1, 4))):
        damaged[position] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _flip_in_header(raw, rng):
    starts = [i for i in range(0, len(raw), 2880) if raw[i : i + 8] in (b"SIMPLE  ", b"XTENSION")]
    damaged = bytearray(raw)
    damaged[starts[int(rng.integers(len(starts)))] + int(rng.integers(800))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _bomb(raw, rng):
    cards = [
        i for i in range(0, len(raw), 80) if raw[i : i + 8] in (b"NAXIS1  ", b"NAXIS2  ", b"NAXIS   ", b"PCOUNT  ")
    ]
    card = cards[int(rng.integers(len(cards)))]
    number = str(int(10 ** rng.uniform(4, 19))).rjust(20).encode()
    return raw[: card + 10] + number + raw[card + 30 :]


def _html(raw, rng):
    return b"<!DOCTYPE html>\n<html><body>502 Bad Gateway</body></html>" * int(rng.integers(1, 200))


def _repeat(raw, rng):
    where = int(rng.integers(1, len(raw) // 2880)) * 2880
    return raw[:where] + raw[where - 2880 :]


MUTATIONS = [_truncate, _zero_blocks, _flip, _flip_in_header, _bomb, _html, _repeat]


def _spoil(kind):
    """Return a change of the HDUs that a checksum does not betray, because it is computed afterwards."""

    def change(hdus):
        camera = "BRZ"[kind % 3]
        flux, ivar, wavelength = (hdus[f"{camera}_{part}"] for part in ("FLUX", "IVAR", "WAVELENGTH"))
        good = np.flatnonzero(hdus[f"{camera}_MASK"].data[0] == 0)[:3]
        if kind < 3:
            flux.data[:, :] = np.nan
        elif kind < 6:
            flux.data[:, good] = [np.inf, -np.inf, np.nan]
            flux.data[:, 100:200] = np.inf
        elif kind < 9:
            ivar.data[:, 50:] = -ivar.data[:, 50:]
        elif kind < 12:
            wavelength.data[[10, 20]] = wavelength.data[[20, 10]]
        elif kind < 15:
            ivar.data = ivar.data[:, :-1].copy()
        elif kind < 18:
            flux.data = flux.data.T.copy()
        elif kind < 21:
            other = hdus[f"{'BRZ'[(kind + 1) % 3]}_FLUX"]
            flux.data, other.data = other.data.copy(), flux.data.copy()
        else:
            other = "BRZ"[(kind + 1) % 3]
            for hdu in hdus[2:]:
                swap = {camera: other, other: camera}.get(hdu.name[0])
                hdu.name = swap + hdu.name[1:] if swap else hdu.name

    return change


def test_mutated_files_among_good_ones(tmp_path):
    """No crash, no hang, no corrupted row, all good rows out, every bad file with its reason, rows reconcile."""
    rng = np.random.default_rng(2)
    source = tmp_path / "survey"
    source.mkdir()
    good_rows, bad_files, expected_rows = {}, [], {}

    def remember(path, rows):
        spectra = read_desi(path).compute()
        for i, targetid in enumerate(spectra.targetid.values.tolist()):
            rows[targetid] = spectra.flux.values[i], spectra.ivar.values[i]

    for i in range(20):
        ids = 1000 * (i + 1) + rng.permutation(4)
        path = source / f"good-{i:03d}.fits"
        write_coadd(path, ids, seed=i)
        remember(path, good_rows)
    for i in range(126):
        path = source / f"mutated-{i:03d}.fits"
        raw = _bytes_of(tmp_path / "x.fits", 10**6 + 100 * i + np.arange(3), seed=100 + i)
        path.write_bytes(raw)
        remember(path, expected_rows)
        mutated = MUTATIONS[i % len(MUTATIONS)](raw, rng)
        path.write_bytes(mutated)
        bad_files.append(path.name)
    for kind in range(24):
        path = source / f"spoilt-{kind:03d}.fits"
        write_coadd(path, 2 * 10**6 + 100 * kind + np.arange(3), seed=kind, change=_spoil(kind))
        bad_files.append(path.name)
    write_coadd(source / "twice.fits", [1000, 1001, 1002, 77], seed=99)
    remember(source / "twice.fits", twice := {})

    report = ingest_survey("desi", source, tmp_path / "out", chunk_size=32, progress=False)

    assert report.rows_in == report.rows_out + report.rows_quarantined
    stored = open_spectra(tmp_path / "out").compute()
    assert report.rows_out == stored.sizes["object"]
    known = expected_rows | good_rows | {77: twice[77]}
    for i, targetid in enumerate(stored.targetid.values.tolist()):
        flux, ivar = known[targetid]  # a row that nobody wrote is a KeyError
        np.testing.assert_array_equal(stored.flux.values[i], flux)
        np.testing.assert_array_equal(stored.ivar.values[i], ivar)
    assert set(good_rows) <= set(stored.targetid.values.tolist())
    assert codes(report).count("duplicate") == 3
    quarantined = {record["path"].rsplit("/", 1)[1]: record["reason"] for record in report.quarantined}
    assert all(len(reason) > 10 for reason in quarantined.values())
    accepted = [name for name in bad_files if name not in quarantined]
    assert len(accepted) <= 2, accepted  # a flip in a comment of a header whose own CHECKSUM card was hit


# --- a real S3 server --------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a moto server, which is a process of its own on the loopback interface."""
    pytest.importorskip("moto.server", reason="the S3 server of the tests is moto's: pip install 'moto[server]'")
    s3fs = pytest.importorskip("s3fs", reason='S3 needs s3fs: pip install "astrolab-research[s3]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files._is_anonymous.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            fs = s3fs.S3FileSystem(key="test", secret="test")
            fs.mkdir("desidata", acl="public-read")
            yield fs
        finally:
            server.terminate()
    files._is_anonymous.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


def _wait_for(port, server):
    for _ in range(600):
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the S3 server did not start")


def test_s3_anonymously(bucket, tmp_path):
    tree = "desidata/iron/healpix/main/dark/100"
    for pixel in (10016, 10017):
        path = write_coadd(tmp_path / f"coadd-main-dark-{pixel}.fits", [pixel, pixel + 50], seed=pixel)
        bucket.put_file(path, f"{tree}/{pixel}/coadd-main-dark-{pixel}.fits", ACL="public-read")
    page = tmp_path / "page.fits"
    page.write_text("<html></html>")
    bucket.put_file(str(page), f"{tree}/10016/page.fits", ACL="public-read")
    bucket.pipe_file(f"{tree}/10016/README.md", b"about", ACL="public-read")

    local = read_desi(f"{tmp_path}/coadd-*.fits").compute()
    remote = read_desi("s3://desidata/iron", survey="main", program="dark", healpix=[10016, 10017])
    xr.testing.assert_identical(remote.compute(), local)
    xr.testing.assert_identical(read_desi("s3://desidata/iron", survey="main").compute(), local)
    report = ingest_survey("desi", "s3://desidata/iron", tmp_path / "out", progress=False)
    assert (report.rows_in, report.rows_out, codes(report)) == (5, 4, ["not_fits"])
    assert report.quarantined[0]["path"] == f"s3://{tree}/10016/page.fits"
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_desi("s3://desidata/nothing")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_desi("s3://no-such-bucket/nothing")


def test_threads_are_let_go(tmp_path):
    write_coadd(tmp_path / "a.fits", [1, 2])
    before = threading.active_count()
    for i in range(3):
        ingest_survey("desi", tmp_path / "a.fits", tmp_path / f"out{i}", progress=False)
    shutil.rmtree(tmp_path / "out0")
    assert threading.active_count() <= before + 2  # zarr keeps an event loop of its own
