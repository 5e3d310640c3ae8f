"""The spectra store: what is saved comes back, and damage never goes unseen."""

import os
import pickle
import shutil
import signal
import subprocess
import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from astrolab.schema import SchemaError
from astrolab.stores.publish import StoreError, publishing
from astrolab.stores.spectra import open_spectra, save_spectra


def make_spectra(n_objects, n_wavelength=50, seed=0):
    """Spectra with every kind of column, in no order."""
    rng = np.random.default_rng(seed)
    targetid = rng.permutation(np.arange(n_objects)) - n_objects // 2 + 2**53 + 1
    shape = (n_objects, n_wavelength)
    columns = {
        "targetid": targetid,
        "ra": rng.uniform(0, 360, n_objects),
        "dec": rng.uniform(-90, 90, n_objects),
        "redshift": np.where(rng.random(n_objects) < 0.3, np.nan, rng.random(n_objects)),
        "redshift_err": np.full(n_objects, 1e-4),
        "redshift_warning": rng.integers(0, 2**31, n_objects),
        "spectype": rng.choice(["QSO", "GALAXY", "STAR", ""], n_objects),
        "survey": np.full(n_objects, "main"),
        "healpix": rng.integers(0, 9000, n_objects).astype(np.int32),
        "is_target": rng.random(n_objects) < 0.5,
        "truth_rare": np.array([f"Ångström {i}" for i in range(n_objects)], object),
    }
    return xr.Dataset(
        {
            "flux": (("object", "wavelength"), rng.normal(size=shape).astype("f4"), {"units": "1e-17"}),
            "ivar": (("object", "wavelength"), np.zeros(shape, "f4")),
            "latent": (("object", "latent_dim"), rng.normal(size=(n_objects, 3)).astype("f4")),
        },
        {
            "wavelength": ("wavelength", np.linspace(3600, 9824, n_wavelength), {"units": "Angstrom"}),
            **{name: ("object", values) for name, values in columns.items()},
        },
        {"is_simulated": 1},
    )


def without_provenance(spectra):
    attrs = {name: value for name, value in spectra.attrs.items() if name != "provenance"}
    return spectra.drop_attrs(deep=False).assign_attrs(attrs)


def lazy(spectra, n_objects):
    """The same spectra with flux in chunks, and columns in memory."""
    chunked = spectra.chunk(object=n_objects)
    return chunked.assign_coords({name: column.load() for name, column in spectra.coords.items()})


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("keep_order", [False, True])
def test_round_trip(is_lazy, keep_order, tmp_path):
    spectra = make_spectra(23)
    source = spectra.chunk(object=5) if is_lazy else spectra
    for name in spectra.coords:
        source[name] = spectra[name].load()
    save_spectra(
        source,
        tmp_path / "a.zarr",
        chunk_size=4,
        provenance={"path": tmp_path, "n": np.int64(3)},
        keep_order=keep_order,
    )
    opened = open_spectra(tmp_path / "a.zarr")
    assert opened.flux.chunks[0] == (4, 4, 4, 4, 4, 3)
    assert opened.ivar.chunks is not None
    assert opened.attrs["provenance"]["n"] == 3
    assert "zarr" in opened.attrs["provenance"]["software"]
    expected = spectra if keep_order else spectra.sortby("targetid")
    xr.testing.assert_identical(without_provenance(opened.compute()), expected)
    assert opened.targetid.dtype == np.int64


def test_xarray_reads_it_too(tmp_path):
    spectra = make_spectra(5).sortby("targetid")
    save_spectra(spectra, tmp_path / "a.zarr")
    plain = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    np.testing.assert_array_equal(plain.flux, spectra.flux)
    assert set(spectra.coords) == set(plain.coords)


def test_same_spectra_same_bytes(tmp_path):
    spectra = make_spectra(20)
    backwards = spectra.isel(object=slice(None, None, -1))
    for name, source in (("a", spectra), ("b", lazy(spectra, 7)), ("c", backwards)):
        save_spectra(source, tmp_path / name, chunk_size=8)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    for name in "bc":
        for file in files:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / name / file).read_bytes(), file


def test_no_objects_and_rest_frame(tmp_path):
    rest = make_spectra(6).rename(wavelength="wavelength_rest")
    rest["flux_model"] = rest.flux * 2
    save_spectra(rest, tmp_path / "rest")
    xr.testing.assert_identical(without_provenance(open_spectra(tmp_path / "rest").compute()), rest.sortby("targetid"))
    wide = make_spectra(6, n_wavelength=7781)
    for i, none in enumerate((rest, wide, lazy(wide, 2))):
        save_spectra(none.isel(object=slice(0, 0)), tmp_path / f"none {i}")
        assert open_spectra(tmp_path / f"none {i}").sizes["object"] == 0


def test_coordinates_of_their_own_come_back(tmp_path):
    source = make_spectra(3)
    own = {"night": 20260101, "observer": "Vera", "is_day": ("object", [True, False, True])}
    source = source.assign_coords(own | {"resolution": ("wavelength", np.sqrt(source.wavelength.values))})
    save_spectra(source, tmp_path / "own", keep_order=True)
    xr.testing.assert_identical(without_provenance(open_spectra(tmp_path / "own").compute()), source)


def test_it_reads_one_chunk_for_one_object(tmp_path):
    save_spectra(make_spectra(40), tmp_path / "a", chunk_size=10)
    shutil.rmtree(tmp_path / "a" / "flux" / "c" / "0")
    opened = open_spectra(tmp_path / "a")
    assert np.isfinite(opened.flux.isel(object=slice(10, 40)).values).all()
    with pytest.raises(StoreError, match="flux/c/0/0 is missing"):
        opened.flux.isel(object=3).compute()


def test_it_pickles_for_workers(tmp_path):
    save_spectra(make_spectra(10), tmp_path / "a", chunk_size=4)
    opened = open_spectra(tmp_path / "a")
    xr.testing.assert_identical(pickle.loads(pickle.dumps(opened)).compute(), opened.compute())
    (tmp_path / "a" / "ivar" / "c" / "1" / "0").unlink()
    with pytest.raises(StoreError, match="missing"):
        pickle.loads(pickle.dumps(opened)).compute(scheduler="threads")


def test_every_damage_is_found(tmp_path):
    save_spectra(make_spectra(30), tmp_path / "a", chunk_size=8)
    files = sorted(path for path in (tmp_path / "a").rglob("c/**/*") if path.is_file())
    rng = np.random.default_rng(0)
    for i in range(150):
        path = files[i % len(files)]
        raw = path.read_bytes()
        if i % 3 == 0:
            damaged = bytearray(raw)
            damaged[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
        elif i % 3 == 1:
            path.write_bytes(raw[: rng.integers(len(raw))])
        else:
            path.unlink()
        name = path.relative_to(tmp_path / "a").as_posix()
        with pytest.raises(StoreError, match="a': ") as caught:
            open_spectra(tmp_path / "a").compute()
        assert name in str(caught.value), (name, str(caught.value))
        path.write_bytes(raw)
    open_spectra(tmp_path / "a").compute()


def test_what_is_not_a_store(tmp_path):
    with pytest.raises(StoreError, match="there is no spectra store"):
        open_spectra(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(StoreError, match="is not a spectra store"):
            open_spectra(path)
    group = zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="is not a spectra store"):
        open_spectra(tmp_path / "other.zarr")
    group.create_array("flux", shape=(3, 4), dtype="f4")
    with pytest.raises(StoreError, match="does not name its dimensions"):
        open_spectra(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="is not a spectra store"):
        open_spectra(tmp_path / "other.zarr" / "flux")
    save_spectra(make_spectra(3), tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "ivar")
    with pytest.raises(StoreError, match="ivar"):
        open_spectra(tmp_path / "cut")
    (tmp_path / "cut" / "zarr.json").write_text("{not json")
    with pytest.raises(StoreError, match="damaged"):
        open_spectra(tmp_path / "cut")
    with pytest.raises(StoreError, match="there is no spectra store"):
        open_spectra("memory://nothing")


def test_what_is_there_stays(tmp_path):
    first, second = make_spectra(4, seed=1), make_spectra(6, seed=2)
    save_spectra(first, tmp_path / "a")
    with pytest.raises(StoreError, match="already"):
        save_spectra(second, tmp_path / "a")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("dear")
    with pytest.raises(StoreError, match="is not a store"):
        save_spectra(second, tmp_path / "home", overwrite=True)
    broken = second.copy()
    broken["flux"] = second.flux.copy(data=da.map_blocks(_fail, da.asarray(second.flux.data), dtype="f4"))
    with pytest.raises(ZeroDivisionError):
        save_spectra(broken, tmp_path / "a", overwrite=True)
    assert open_spectra(tmp_path / "a").sizes["object"] == 4
    save_spectra(second, tmp_path / "a", overwrite=True)
    assert open_spectra(tmp_path / "a").sizes["object"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "home"]
    with pytest.raises(SchemaError):
        save_spectra(second.drop_vars("ra"), tmp_path / "b")
    with pytest.raises(ValueError, match="chunk_size"):
        save_spectra(second, tmp_path / "b", chunk_size=0)


def _fail(block):
    raise ZeroDivisionError


def test_a_full_disk_is_said(tmp_path):
    def write():
        with publishing(tmp_path / "a") as folder:
            folder.mkdir()
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"cannot be written: .*No space"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_no_store(tmp_path):
    code = f"""
import time
from astrolab.stores.publish import publishing
with publishing({str(tmp_path / "a")!r}) as folder:
    folder.mkdir()
    (folder / "zarr.json").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"ready\n"
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert not (tmp_path / "a").exists()
    with pytest.raises(StoreError, match="there is no spectra store"):
        open_spectra(tmp_path / "a")
    save_spectra(make_spectra(3), tmp_path / "a")
    assert open_spectra(tmp_path / "a").sizes["object"] == 3


def test_an_object_store_gets_its_root_last(tmp_path):
    spectra = make_spectra(9)
    url = f"memory://{tmp_path.name}/a.zarr"
    save_spectra(spectra, url, chunk_size=4)
    opened = open_spectra(url)
    xr.testing.assert_identical(without_provenance(opened.compute()), spectra.sortby("targetid"))
    with pytest.raises(StoreError, match="already"):
        save_spectra(spectra, url)


def test_workers_of_a_cluster_read_and_write(tmp_path):
    from distributed import Client

    spectra = make_spectra(40)
    with Client(n_workers=1, threads_per_worker=1, dashboard_address=":0"):
        save_spectra(lazy(spectra, 10), tmp_path / "a", chunk_size=10)
        opened = open_spectra(tmp_path / "a")
        xr.testing.assert_identical(without_provenance(opened.compute()), spectra.sortby("targetid"))
        (tmp_path / "a" / "flux" / "c" / "2" / "0").write_bytes(b"")
        with pytest.raises(StoreError, match="flux/c/2/0"):
            opened.compute()
