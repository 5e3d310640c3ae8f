"""Chunk products: any damage is found, nothing finished is computed twice, what kills workers is set aside."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask import compute, delayed

import astrolab as al
from astrolab.compute import start_cluster
from astrolab.selection import keep_objects
from astrolab.stores import spectra as store_module
from astrolab.stores.chunks import ChunkError, chunk_key, load_chunk, save_chunk
from astrolab.stores.passes import _one_task_each, map_chunks, whole_spectra
from astrolab.stores.publish import write_whole
from astrolab.stores.tables import save_table

HERE = Path(__file__).parent
KEY = chunk_key("a model", 8)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """The module slow_rows, importable here and in workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        import slow_rows

        yield slow_rows


@pytest.fixture(scope="module")
def cluster(slow):
    with start_cluster("cpu", n_workers=2) as client:
        yield client


# files


def test_a_chunk_comes_back_with_its_bits_and_only_under_its_key(tmp_path):
    arrays = {
        "values": np.array([[np.nan, -0.0], [np.inf, 1e-40]], "float32"),
        "count": np.int64(3),
        "none": np.empty(0),
    }
    save_chunk(tmp_path / "new" / "a.chunk", arrays, KEY, quarantined=[3])
    got, about = load_chunk(tmp_path / "new" / "a.chunk", KEY)
    assert {name: array.tobytes() for name, array in got.items()} == {
        name: np.asarray(array).tobytes() for name, array in arrays.items()
    }
    assert about == {"quarantined": [3]}
    assert load_chunk(tmp_path / "new" / "a.chunk", chunk_key("a model", 9)) is None
    assert load_chunk(tmp_path / "new" / "b.chunk", KEY) is None


def test_a_flipped_bit_in_any_byte_and_any_truncation_are_found(tmp_path):
    path = tmp_path / "a.chunk"
    save_chunk(path, {"values": np.arange(12, dtype="float32").reshape(4, 3)}, KEY, quarantined=[])
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            with pytest.raises(ChunkError, match=r"a\.chunk' is damaged.*delete it"):
                load_chunk(path)


# passes


def _log(path):
    return path.read_text().splitlines() if path.exists() else []


def test_a_pass_without_a_cluster_computes_each_chunk_once(slow, tmp_path):
    values = slow.rows(5)
    options = {"seconds": 0, "log_path": str(tmp_path / "log"), "n_columns": 2}
    plain = map_chunks(slow.slow_rows, da.from_array(values, chunks=(8, -1)), **options)
    truth = np.column_stack([np.sin(values).sum(axis=1), np.sqrt(values).mean(axis=1)]).astype("float32")
    assert plain.tobytes() == truth.tobytes()
    (tmp_path / "log").unlink()

    def again(array=values, **changed):
        chunked = da.from_array(array, chunks=(8, -1))
        before = len(_log(tmp_path / "log"))
        got = map_chunks(slow.slow_rows, chunked, chunks_dir=tmp_path / "kept", **(options | changed))
        return got.tobytes() == truth.tobytes(), len(_log(tmp_path / "log")) - before

    assert again() == (True, 5)
    assert again() == (True, 0)
    damaged, missing, *_ = sorted((tmp_path / "kept").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    missing.unlink()
    assert again() == (True, 2)
    assert again(seconds=1e-6) == (True, 5)  # another option, so another product
    assert again(np.roll(values, 1)) == (False, 5)
    assert len(list((tmp_path / "kept").iterdir())) == 5


def test_workers_killed_at_random_instants_change_nothing(cluster, slow, tmp_path):
    values = slow.rows(24)
    truth = slow.slow_rows(values, 0, tmp_path / "truth")
    draw = random.Random(0)
    limit_path, killed = tmp_path / "limit", []
    (tmp_path / "log").touch()
    write_whole(limit_path, b"2")

    def kill():
        for limit in (6, 12, 100):
            while len(cluster.nthreads()) < 2:  # a whole cluster: a worker killed while it starts takes its nanny along
                time.sleep(0.1)
            write_whole(limit_path, str(limit).encode())  # so that the pass cannot end before the last is killed
            time.sleep(draw.uniform(0, 0.2))
            if limit < 100:
                killed.append(draw.choice(list(_pids(cluster))))
                os.kill(killed[-1], signal.SIGKILL)
                while killed[-1] in _pids(cluster):
                    time.sleep(0.1)

    array = da.from_array(values, chunks=(8, -1))
    options = {"seconds": 0.02, "log_path": str(tmp_path / "log"), "limit_path": str(limit_path), "n_columns": 2}
    killer = threading.Thread(target=kill)
    killer.start()
    got = map_chunks(slow.slow_rows, array, chunks_dir=tmp_path / "kept", **options)
    killer.join()
    assert len(set(killed)) == 2
    assert got.tobytes() == truth.tobytes()


def _pids(cluster):
    return cluster.run(os.getpid, on_error="ignore").values()


def test_a_row_that_kills_its_worker_is_found_and_set_aside(cluster, slow, tmp_path):
    values = slow.rows(6)
    truth = slow.slow_rows(values, 0, tmp_path / "truth")
    values[19, 0] = slow.POISON
    array = da.from_array(values, chunks=(8, -1))
    options = {"seconds": 0, "log_path": str(tmp_path / "log"), "n_columns": 2}
    got = map_chunks(slow.slow_rows, array, chunks_dir=tmp_path / "kept", **options)
    assert np.flatnonzero(np.isnan(got).any(axis=1)).tolist() == [19]
    good = np.isfinite(got).all(axis=1)
    assert got[good].tobytes() == truth[good].tobytes()
    assert map_chunks(slow.slow_rows, array, **options).tobytes() == got.tobytes()  # nothing is kept
    (about,) = [load_chunk(path)[1] for path in (tmp_path / "kept").glob("000002-*")]
    assert about == {"quarantined": [3]}
    again = map_chunks(slow.slow_rows, array, chunks_dir=tmp_path / "kept", **options)
    assert again.tobytes() == got.tobytes()


def test_an_error_of_the_function_is_raised(cluster, slow, tmp_path):
    array = da.from_array(slow.rows(2), chunks=(8, -1))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        map_chunks(slow.slow_rows, array, seconds=0, log_path="/nowhere/log", n_columns=2, chunks_dir=tmp_path)


def first_byte(rows, payload):
    return rows[:, :1] + payload[0]


@pytest.mark.parametrize("is_kept", [False, True])
def test_models_of_many_megabytes_travel_without_a_warning(cluster, tmp_path, is_kept):
    array, payload = da.zeros((16, 1), chunks=(8, -1)), delayed(np.ones(12 << 20, "u1"))
    got = map_chunks(first_byte, array, payload=payload, n_columns=1, chunks_dir=tmp_path if is_kept else None)
    np.testing.assert_array_equal(got, np.ones((16, 1)))


def test_what_a_chunk_needs_alone_is_one_task_and_what_all_need_is_another():
    values = np.arange(24.0).reshape(12, 2)
    flux, ivar = (da.from_array(values * factor, chunks=(4, -1)) for factor in (1, 2))
    both = da.map_blocks(np.add, flux, ivar)
    lazy = da.map_blocks(first_byte, both[:, ::-1] + both, payload=delayed(np.ones(3)), chunks=((4, 4, 4), (1,)))
    tasks = _one_task_each(lazy)
    graph = dict(tasks[0].dask)
    assert [task.key for task in tasks] == [(lazy.name, i, 0) for i in range(3)]
    assert sum(isinstance(key, tuple) for key in graph) == 3  # none of a chunk but its own
    shared = set.intersection(*(set(graph[task.key].dependencies) for task in tasks))
    assert len(shared) == len(graph) - 3 == 1  # the payload
    got = np.concatenate(compute(*tasks))
    np.testing.assert_array_equal(got[:, 0], 3 * values.sum(axis=1) + 1)


def first_flux(flux, ivar, log_path):
    with Path(log_path).open("a") as log:
        log.write(f"{flux[0, 0]}\n")
    return flux[:, :1] * ivar[:, :1]


def test_chunks_are_read_in_their_order_and_each_is_asked_for_before_a_worker_needs_it(slow, tmp_path, monkeypatch):
    survey = al.simulate_survey(48, seed=0).load()
    number = np.arange(48, dtype="float32") // 4
    al.save_spectra(survey.assign(flux=survey["flux"] * 0 + number[:, None]), tmp_path / "12.zarr", chunk_size=4)
    stored = al.open_spectra(tmp_path / "12.zarr")
    asked, really = [], store_module.expect_chunk
    record = lambda array, root, i: (asked.append((i, array.path)), really(array, root, i))  # noqa: E731
    monkeypatch.setattr(store_module, "expect_chunk", record)

    def run(spectra, **options):
        asked.clear()
        (tmp_path / "log").write_text("")
        got = map_chunks(first_flux, *whole_spectra(spectra), n_columns=1, log_path=str(tmp_path / "log"), **options)
        np.testing.assert_array_equal(got[:, 0], (spectra["flux"] * spectra["ivar"]).values[:, 0])
        return [float(line) for line in _log(tmp_path / "log")]

    def asked_for(numbers):
        return [sorted(pair) for pair in zip(asked[::2], asked[1::2], strict=True)] == [
            [(i, "flux"), (i, "ivar")] for i in numbers
        ]

    with start_cluster("cpu", n_workers=1):
        assert run(stored, chunks_dir=tmp_path / "kept") == list(range(12))
        assert asked_for(range(1, 12))  # the first is read at once
        for i in (0, 3, 7, 10):
            next((tmp_path / "kept").glob(f"{i:06d}-*")).unlink()
        assert run(stored, chunks_dir=tmp_path / "kept") == [0, 3, 7, 10]
        assert asked_for([3, 7, 10])
        some = keep_objects(stored, np.isin(number, [1, 2, 8]) & (np.arange(48) % 4 != 3))
        assert run(some) == [1, 2, 8]
        assert asked_for([2, 8])
        # computed before it comes to the pass: what is done with a chunk is not done here
        assert run(stored.assign(flux=stored["flux"] * 1)) == list(range(12))
        assert asked_for(range(1, 12))


def test_spectra_that_are_persisted_on_the_cluster_are_computed_from_there(cluster, tmp_path):
    al.save_spectra(al.simulate_survey(24, seed=0), tmp_path / "24.zarr", chunk_size=4)
    stored = al.open_spectra(tmp_path / "24.zarr")
    persisted, half = stored.persist(), stored.assign(ivar=stored["ivar"].persist())
    for spectra in (stored, persisted, half, al.to_restframe(persisted, al.rest_grid(1216, 2900, 100)).persist()):
        got = map_chunks(first_flux, *whole_spectra(spectra), n_columns=1, log_path=str(tmp_path / "log"))
        np.testing.assert_array_equal(got[:, 0], (spectra["flux"] * spectra["ivar"]).values[:, 0])


# disk full, read-only

WRITERS = {
    "write_whole": "write_whole('old.bin', b'x' * 500_000)",
    "save_chunk": "save_chunk('old.chunk', {'values': rng.random(100_000)}, 'key')",
    "parquet": "save_table(table, 'old.parquet')",
    "csv": "save_table(table, 'old.csv')",
    "redrock": "al.save_redrock(answers, 'old.fits')",
    "store": "al.save_spectra(spectra, 'old.zarr', overwrite=True)",
}
SCRIPT = """
import resource, sys
import numpy as np, pandas as pd
import astrolab as al
from astrolab.stores.chunks import save_chunk
from astrolab.stores.publish import write_whole
from astrolab.stores.tables import save_table

rng = np.random.default_rng(0)
table = pd.DataFrame({"x": rng.random(100_000)})
spectra = al.open_spectra("../source.zarr").load()
answers = pd.DataFrame({name: rng.random(10_000) for name in ("chi2", "redshift", "redshift_err", "delta_chi2")})
answers = answers.assign(targetid=1, redshift_warning=0, n_good=1, spectype="QSO", subtype="")
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for name, code in WRITERS.items():
    try:
        exec(code)
    except (OSError, ValueError) as error:
        print(name, "|", error)
"""


def _tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path, quasars):
    import astrolab as al

    al.save_spectra(quasars.isel(object=slice(0, 20)), tmp_path / "source.zarr")
    folder = tmp_path / "full"
    folder.mkdir()
    for name in ("old.bin", "old.chunk", "old.parquet", "old.csv", "old.fits"):
        (folder / name).write_bytes(b"the old content")
    al.save_spectra(quasars.isel(object=slice(20, 22)), folder / "old.zarr")
    before = _tree(folder)
    script = f"WRITERS = {WRITERS!r}\n{textwrap.dedent(SCRIPT)}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert set(said) == set(WRITERS), done.stderr
    for name, message in said.items():
        assert "old." in message, name
        assert "cannot be written" in message
        assert "File too large" in message
    assert "500,000 bytes are needed" in said["write_whole"]
    assert _tree(folder) == before


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody, not even root, can write to."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder]).returncode:
        pytest.skip("root can write everywhere here, and cannot mount a read-only folder")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_read_only_folder_is_named(read_only):
    for write in (
        lambda path: write_whole(path, b"x"),
        lambda path: save_chunk(path, {"values": np.ones(2)}, KEY),
        lambda path: save_table(pd.DataFrame({"x": [1]}), path.with_suffix(".csv")),
    ):
        with pytest.raises(OSError, match=r"read-only/new\.\w+' cannot be written"):
            write(read_only / "new.chunk")


def test_save_table_knows_its_formats(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.parquet or \.csv"):
        save_table(pd.DataFrame(), tmp_path / "a.xlsx")
    assert not list(tmp_path.iterdir())
