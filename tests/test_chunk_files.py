"""Chunks that are written without zarr, against those that zarr writes."""

import os
import resource
import time

import numpy as np
import pytest
import xarray as xr
import zarr

from astrolab.stores.append import ChunkWriter
from astrolab.stores.chunk_files import empty_pages, expect_chunk, is_simple, read_chunk, write_chunk
from astrolab.stores.spectra import add_array, create_store

CHUNK = 5


@pytest.fixture
def group(tmp_path):
    return create_store(tmp_path / "store")


def add(group, name, n_rows):
    return add_array(group, name, xr.Variable(("object", "wavelength"), np.zeros((n_rows, 301), np.float32)), CHUNK)


@pytest.mark.parametrize("name", ["flux", "ivar", "flux_model"])
def test_a_chunk_has_the_bytes_that_zarr_writes(group, name):
    values = np.random.default_rng(0).normal(size=(CHUNK, 301)).astype(np.float32)
    array = add(group, name, 4 * CHUNK)
    write_chunk(array, group.store.root, 2, values)
    written = (group.store.root / name / "c/2/0").read_bytes()
    array[2 * CHUNK : 3 * CHUNK] = values
    assert (group.store.root / name / "c/2/0").read_bytes() == written
    assert not list(group.store.root.rglob("*.partial"))
    assert is_simple(array)
    np.testing.assert_array_equal(read_chunk(array, group.store.root, 2), values)


@pytest.mark.parametrize("name", ["flux", "ivar"])
def test_a_damaged_chunk_is_not_read(group, name):
    array, root = add(group, name, CHUNK), group.store.root
    write_chunk(array, root, 0, np.ones((CHUNK, 301), np.float32))
    path = root / name / "c/0/0"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (flipped, content[:-1], content[: len(content) // 2], content[:3], bytes(4), b""):
        path.write_bytes(damaged)
        assert read_chunk(array, root, 0) is None
    path.unlink()
    assert read_chunk(array, root, 0) is None


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux says what it holds in memory")
def test_all_of_a_chunk_that_is_asked_for_comes_into_memory_by_itself(group):
    # more than the kernel reads for one request
    values = np.ones((CHUNK, 700_000), np.float32)
    array = add_array(group, "flux", xr.Variable(("object", "wavelength"), values), CHUNK)
    write_chunk(array, group.store.root, 0, values)
    with (group.store.root / "flux/c/0/0").open("rb", buffering=0) as file:

        def is_in_memory(place):
            try:
                return os.preadv(file.fileno(), [bytearray(1)], place, os.RWF_NOWAIT) == 1
            except BlockingIOError:
                return False

        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if is_in_memory(0):
            pytest.skip("this file system is in memory")
        expect_chunk(array, group.store.root, 0)
        places, end = np.linspace(0, values.nbytes - 1, 20).astype(int), time.monotonic() + 20
        while not all(map(is_in_memory, places)) and time.monotonic() < end:
            time.sleep(0.01)
        assert all(map(is_in_memory, places))
    expect_chunk(array, group.store.root, 1)  # not there: whoever reads it says so


def test_arrays_that_others_made_are_left_to_zarr(group):
    assert not is_simple(group.create_array("plain", shape=(5, 3), dtype="f4"))
    assert not is_simple(group.create_array("divided", shape=(5, 4), chunks=(5, 2), dtype="f4"))
    assert not is_simple(add_array(group, "text", xr.Variable("object", ["a", "b"])))


@pytest.mark.parametrize("is_cached", [False, True])
def test_whole_pages_go_to_the_disk_as_they_are(group, monkeypatch, is_cached):
    if is_cached:  # as on a system that has no other way
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    values = empty_pages((8, 1024), np.float32)
    values[:] = np.random.default_rng(0).normal(size=values.shape)
    array = add_array(group, "flux", xr.Variable(("object", "wavelength"), np.zeros((16, 1024), np.float32)), 8)
    write_chunk(array, group.store.root, 1, values)
    np.testing.assert_array_equal(array[8:], values)
    np.testing.assert_array_equal(read_chunk(array, group.store.root, 1), values)


@pytest.mark.parametrize("n_wavelength", [301, 1024])  # the second: whole pages
def test_a_chunk_that_cannot_be_written_leaves_what_was_there(group, n_wavelength):
    shape = (CHUNK - 1, n_wavelength)
    array = add_array(group, "flux", xr.Variable(("object", "wavelength"), np.zeros(shape, np.float32)), CHUNK - 1)
    ones = empty_pages(shape, np.float32)
    twos = empty_pages(shape, np.float32)
    ones[:], twos[:] = 1, 2
    write_chunk(array, group.store.root, 0, ones)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ones.nbytes - 100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_chunk(array, group.store.root, 0, twos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (group["flux"][...] == 1).all()


def test_rows_that_come_in_any_number_are_those_that_zarr_gives_back(group):
    rng = np.random.default_rng(1)
    arrays = [add(group, name, 60) for name in ("flux", "ivar")]
    writer, expected = ChunkWriter(arrays), []
    for n_rows in (5, 5, 3, 1, 5, 5, 5, 4, 2, 5):
        rows, good = rng.normal(size=(2, n_rows, 301)).astype(np.float32), rng.random(n_rows) < 0.7
        writer.room(n_rows)[:] = rows
        chunk = writer.keep(good)
        if chunk is not None:
            writer.write(chunk)
        expected.append(rows[:, good])
    writer.close()
    expected = np.concatenate(expected, axis=1)
    assert expected.shape[1] > 4 * CHUNK
    assert expected.shape[1] % CHUNK > 0
    again = zarr.open_group(group.store.root, mode="r")
    for name, values in zip(("flux", "ivar"), expected, strict=True):
        np.testing.assert_array_equal(again[name][...], values)


def test_a_writer_goes_on_after_whole_chunks(group):
    array = add(group, "flux", 3 * CHUNK)
    for n_written in (0, CHUNK):
        writer = ChunkWriter([array], n_written)
        writer.room(CHUNK)[:] = n_written
        writer.write(writer.keep(np.ones(CHUNK, bool)))
    writer.close()
    assert group["flux"][:, 0].tolist() == [0] * CHUNK + [CHUNK] * CHUNK
