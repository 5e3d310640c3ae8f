"""An ingest that is killed, interrupted or out of disk goes on where it was, and ends as if nothing had happened."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits

from astrolab.ingest import ingest_survey
from astrolab.readers import desi
from astrolab.runs import run_status
from astrolab.stores.publish import StoreError

ASTROLAB = [sys.executable, "-c", "from astrolab.cli import main; main()"]
CHUNK = 2
N_FILES = 20
# as for files of real size, damage is seen with the pixels; and slow enough to be killed
SCRIPT = f"""
import sys, time
from astrolab.ingest import ingest_survey, place
from astrolab.readers import fits
fits._VERIFY_SMALLER_BYTES = 0
add = place.Place.add
def slowly(*arguments, **about):
    add(*arguments, **about)
    time.sleep(0.02)
place.Place.add = slowly
ingest_survey("desi", sys.argv[1], sys.argv[2], chunk_size={CHUNK})
"""


def write_coadd(path, targetids, seed, bad_row=None):
    rng = np.random.default_rng(seed)
    column = fits.Column("TARGETID", "K", array=np.asarray(targetids))
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column], name="FIBERMAP")])
    for camera, where in (("B", slice(0, 300)), ("R", slice(280, 600)), ("Z", slice(590, 900))):
        shape = (len(targetids), where.stop - where.start)
        flux, ivar = rng.normal(2, 1, shape).astype("f4"), rng.gamma(5, 1, shape).astype("f4")
        if bad_row is not None:
            flux[bad_row] = np.nan
        parts = {"WAVELENGTH": desi.WAVELENGTH[where].copy(), "FLUX": flux, "IVAR": ivar}
        hdus.extend(fits.ImageHDU(values, name=f"{camera}_{part}") for part, values in parts.items())
    for hdu in hdus:
        hdu.add_checksum()
    hdus.writeto(path, overwrite=True)


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """Files whose rows are strewn over the store: duplicates, a bad row, a bad targetid, a file that fails later."""
    monkeypatch.setattr("astrolab.readers.fits._VERIFY_SMALLER_BYTES", 0)
    folder = tmp_path / "survey"
    folder.mkdir()
    targetids = np.random.default_rng(0).permutation(5 * N_FILES).reshape(N_FILES, 5)  # 0 is nobody's
    targetids[3, 1] = targetids[9, 2]
    for i, some in enumerate(targetids):
        write_coadd(folder / f"{i:02d}.fits", some, seed=i, bad_row=4 if i == 5 else None)
    raw = bytearray((folder / "07.fits").read_bytes())
    raw[raw.index(b"R_FLUX") + 8000] ^= 4
    (folder / "07.fits").write_bytes(raw)
    return folder


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(source, out, hear=None):
    command = [sys.executable, "-c", SCRIPT, str(source), str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=hear)


def finished(tmp_path):
    return sorted((tmp_path / ".out.partial").glob("*.chunk"))


def wait_for_chunks(tmp_path, n_chunks, process):
    end = time.monotonic() + 120
    while len(finished(tmp_path)) < n_chunks:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def without_times(report):
    return [{**record, "time": ""} for record in report.quarantined]


def test_killed_at_random_instants_it_ends_as_if_undisturbed(survey, tmp_path, hear_interrupts):
    truth = ingest_survey("desi", survey, tmp_path / "truth", chunk_size=CHUNK, progress=False)
    assert {record["code"] for record in truth.quarantined} == {"duplicate", "bad_pixels", "bad_targetid", "checksum"}
    draw = random.Random(0)
    for n_chunks, number in ((9, signal.SIGKILL), (20, signal.SIGINT), (33, signal.SIGKILL)):
        process = start(survey, tmp_path / "out", hear_interrupts)
        wait_for_chunks(tmp_path, n_chunks, process)
        if n_chunks == 9:
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreError, match=r"another process ingests into '.*out'; wait for it"):
                ingest_survey("desi", survey, tmp_path / "out", chunk_size=CHUNK, progress=False)
            process.send_signal(signal.SIGCONT)
        time.sleep(draw.uniform(0, 0.04))
        process.send_signal(number)
        process.communicate(timeout=60)
        assert not (tmp_path / "out").exists()
        assert len(finished(tmp_path)) < 5 * N_FILES // CHUNK - 5
    n_finished = len(finished(tmp_path))
    report = ingest_survey("desi", survey, tmp_path / "out", chunk_size=CHUNK, progress=False)
    assert report.rows_resumed == n_finished * CHUNK
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (100, truth.rows_out, 100 - truth.rows_out)
    assert without_times(report) == without_times(truth)
    assert tree(tmp_path / "out") == tree(tmp_path / "truth")
    assert not (tmp_path / ".out.partial").exists()


def test_damaged_chunks_are_made_again_and_changed_files_are_noticed(survey, tmp_path, capsys):
    ingest_survey("desi", survey, tmp_path / "truth", chunk_size=CHUNK, progress=False)
    process = start(survey, tmp_path / "out")
    wait_for_chunks(tmp_path, 30, process)
    process.kill()
    process.communicate()
    shutil.copytree(tmp_path / ".out.partial", tmp_path / "kept")
    shutil.copytree(tmp_path / ".out.partial", tmp_path / "run" / "chunks" / "ingest")
    (tmp_path / "run" / "run.json").write_text('{"template": "ingest_survey", "status": "running"}')
    told = run_status(tmp_path / "run")
    assert (told.state, told.step, told.n_done) == ("killed", "ingest", len(list(tmp_path.glob("kept/*.chunk"))))
    assert (told.n_total, told.n_failed, told.is_resumable) == (5 * N_FILES // CHUNK, 0, True)

    chunk = tmp_path / ".out.partial" / "store" / "ivar" / "c" / "11" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    report = ingest_survey("desi", survey, tmp_path / "again", chunk_size=CHUNK, chunks_dir=tmp_path / ".out.partial")
    assert 11 * CHUNK <= report.rows_resumed < 15 * CHUNK
    assert tree(tmp_path / "again") == tree(tmp_path / "truth")
    assert "quarantined=" in capsys.readouterr().err

    write_coadd(survey / "02.fits", [1001, 1002], seed=77)
    kept = {"chunks_dir": tmp_path / "kept", "progress": False}
    report = ingest_survey("desi", survey, tmp_path / "out", chunk_size=CHUNK, **kept)
    assert report.rows_resumed == 0
    said = capsys.readouterr().err
    assert said.startswith(f"astrolab: '{survey / '02.fits'}' changed since the ingest that '")
    assert said.endswith("it begins again\n")
    assert said.count("\n") == 1
    ingest_survey("desi", survey, tmp_path / "new truth", chunk_size=CHUNK, progress=False)
    assert tree(tmp_path / "out") == tree(tmp_path / "new truth")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_and_what_was_finished_is_kept(survey, tmp_path, small_disk):
    ingest_survey("desi", survey, tmp_path / "truth", chunk_size=CHUNK, progress=False)
    with pytest.raises(StoreError, match=r"out' cannot be written.*No space left on device"):
        ingest_survey("desi", survey, small_disk / "out", chunk_size=CHUNK, progress=False)
    assert not (small_disk / "out").exists()
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    report = ingest_survey("desi", survey, small_disk / "out", chunk_size=CHUNK, progress=False)
    assert report.rows_resumed > 0
    assert tree(small_disk / "out") == tree(tmp_path / "truth")


def test_the_command_says_how_to_go_on(survey, tmp_path, hear_interrupts):
    raw = (survey / "00.fits").read_bytes()
    for i in range(300):
        (survey / f"more-{i}.fits").write_bytes(raw)
    command = [*ASTROLAB, "ingest", "desi", str(survey), "--out", str(tmp_path / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=hear_interrupts, **pipes) as process:
        while not (tmp_path / ".out.partial").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "astrolab: interrupted; what is finished is kept: type the same again to go on."
    assert "Traceback" not in said
