"""Stores of any size for the benchmarks of speed: a few simulated chunks, written on disk again and again."""

import os
import shutil
from pathlib import Path

import numpy as np

import astrolab as al
from astrolab.stores.spectra import CHUNK_SIZE, add_array, create_store, finish_store

N_SIMULATED = 2 * CHUNK_SIZE


def save_repeated(path, n_objects, *, seed=0):
    """Save a store of simulated spectra that repeat after 2048, each under a targetid of its own.

    Parameters
    ----------
    path : pathlib.Path
        The store to write; every chunk is a file of its own bytes on disk.
    n_objects : int
        Spectra of 7781 pixels.
    seed : int, optional
        Of the simulation.

    Returns
    -------
    xarray.Dataset
        The store, opened.
    """
    path = Path(path)
    spectra = al.simulate_survey(min(N_SIMULATED, n_objects), seed=seed, chunk_size=CHUNK_SIZE)
    if n_objects <= N_SIMULATED:
        al.save_spectra(spectra, path)
        return al.open_spectra(path)
    few = path.with_name(path.name + ".few")
    al.save_spectra(spectra, few)
    spectra = al.open_spectra(few)
    again = np.arange(n_objects) % N_SIMULATED
    columns = {
        name: (column.dims, column.values[again], column.attrs)
        for name, column in spectra.coords.items()
        if column.dims == ("object",)
    }
    first = int(spectra["targetid"].values[0])
    columns["targetid"] = ("object", first + np.arange(n_objects), spectra["targetid"].attrs)
    path.mkdir()
    group = create_store(path)
    for name in ("flux", "ivar"):
        shape = (n_objects, spectra.sizes["wavelength"])
        whole = np.broadcast_to(np.float32(0), shape)
        array = add_array(group, name, spectra[name].variable._replace(data=whole), CHUNK_SIZE)
        for i in range(array.cdata_shape[0]):
            target = path / name / "c" / str(i) / "0"
            target.parent.mkdir(parents=True)
            shutil.copyfile(few / name / "c" / str(i % 2) / "0", target)
    finish_store(group, spectra.drop_dims("object").assign_coords(columns).assign_attrs(spectra.attrs))
    shutil.rmtree(few)
    return al.open_spectra(path)


def drop_from_memory(path):
    """Let the kernel drop what it holds of a store: the next to read it reads the disk, as with one that is too large.

    Parameters
    ----------
    path : path-like
        The store. Elsewhere than on Linux, nothing is dropped.
    """
    for file in Path(path).glob("**/c/**/*"):
        if file.is_file() and hasattr(os, "posix_fadvise"):
            with file.open("rb", buffering=0) as opened:
                os.fsync(opened.fileno())  # only what is on the disk is dropped
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
