"""The spectra store: one Zarr 3 group that notices its own damage.

Every chunk holds whole objects and ends in a CRC-32C, so that a flipped bit or a truncated file is an error; chunks
full of one value are written too, so that a chunk that is not there is an error and not a fill value. A store appears
under its name only when it is complete. Plain ``xarray.open_zarr`` reads it as well.
"""

import importlib.metadata
import os
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from astrolab.schema import WAVELENGTH, SchemaError, check_spectra
from astrolab.stores.chunk_files import expect_chunk, is_simple, read_chunk, write_chunk
from astrolab.stores.publish import StoreError, publishing

CHUNK_SIZE = 1024  # objects; 32 MB of flux: one read and one task each, and still small beside a worker's memory
_COLUMN_CHUNK = 1 << 20
_FORMAT = "astrolab-spectra-1"
_PACKING = [BloscCodec(cname="lz4", shuffle="bitshuffle")]
# observed spectra are noise: packing saves a sixth of a store, and takes as long as reading the survey's files
_UNPACKED = {("flux", WAVELENGTH), ("ivar", WAVELENGTH)}


def save_spectra(spectra, path, *, chunk_size=CHUNK_SIZE, provenance=None, keep_order=False, overwrite=False):
    """Save spectra as a Zarr 3 store, sorted by targetid.

    Lazy variables are computed chunk by chunk with the scheduler in use, so that a survey never has to fit in memory.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra, dims (object, wavelength) or (object, wavelength_rest); every further variable whose first dimension is
        object (flux_model, latent, …) is saved as well.
    path : str or path-like
        Where to; local, or an fsspec URL (then it is written to a local temporary folder first, and uploaded).
    chunk_size : int, optional
        Objects a chunk.
    provenance : dict, optional
        What these spectra were made from, for people and machines; JSON values. Kept with the versions of the software.
    keep_order : bool, optional
        Keep the order of the objects, such as a ranking, instead of sorting by targetid.
    overwrite : bool, optional
        Replace a store that is there; the old one stays until the new one is complete.

    Raises
    ------
    SchemaError
        If `spectra` does not keep to the data model.
    StoreError
        If there is something at `path` already, or it cannot be written.

    Examples
    --------
    >>> import tempfile, astrolab as al
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     al.save_spectra(al.simulate_survey(3, seed=0), f"{folder}/three.zarr")
    ...     al.open_spectra(f"{folder}/three.zarr").sizes["object"]
    3
    """
    check_spectra(spectra)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected a positive number of objects.")
    if not keep_order:
        order = np.argsort(spectra["targetid"].values, kind="stable")
        if np.any(np.diff(order) < 0):
            spectra = spectra.isel(object=order)
    with publishing(path, overwrite=overwrite) as folder:
        group = create_store(folder)
        sources, targets = [], []
        for name, variable in spectra.data_vars.items():
            array = add_array(group, name, variable, chunk_size)
            sources.append(variable.chunk(dict(zip(variable.dims, array.chunks, strict=True))).data)
            targets.append(array)
        da.store(sources, targets, lock=False)
        finish_store(group, spectra, provenance)


def open_spectra(path):
    """Open a spectra store.

    Parameters
    ----------
    path : str or path-like
        Local path or fsspec URL.

    Returns
    -------
    xarray.Dataset
        Dims (object, wavelength) or (object, wavelength_rest): flux, ivar and further variables lazy, one dask chunk
        a stored chunk; columns in memory. ``attrs["provenance"]`` says what it was made from.

    Raises
    ------
    StoreError
        If there is nothing at `path`, or it is not a spectra store, or (when lazy variables are computed) a chunk is
        missing or damaged.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.open_spectra("sdss.zarr")  # doctest: +SKIP
    >>> spectra["flux"].isel(object=slice(10)).compute()  # only now are their chunks read  # doctest: +SKIP
    """
    path = os.fspath(path)
    group = _open_group(path)
    coords, data = {}, {}
    names = set(group.attrs.get("coordinates", "").split())
    for name, array in sorted(group.arrays()):
        dims = array.metadata.dimension_names if array.ndim else ()
        if dims is None or None in dims:
            raise StoreError(f"'{path}' is not a spectra store: its array '{name}' does not name its dimensions.")
        stored = _StoredArray(array, path)
        if name in names or name in dims:
            coords[name] = (dims, _as_text(np.asarray(stored[...])), dict(array.attrs))
        else:
            lazy = da.from_array(stored, chunks=array.chunks, name=None, asarray=False, meta=np.empty(0, array.dtype))
            data[name] = (dims, lazy, dict(array.attrs))
    attrs = {name: value for name, value in group.attrs.items() if name not in ("coordinates", "format")}
    try:
        return check_spectra(xr.Dataset(data, coords, attrs))
    except (SchemaError, ValueError) as error:
        raise StoreError(f"'{path}' is not a spectra store: {error}") from error


def create_store(folder):
    """Create an empty group in a folder that `publishing` gave.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.

    Returns
    -------
    zarr.Group
    """
    return zarr.create_group(LocalStore(folder), zarr_format=3)


def add_array(group, name, variable, chunk_size=_COLUMN_CHUNK):
    """Add an array to a store, with its checksums; nothing is written to it yet.

    Parameters
    ----------
    group : zarr.Group
        The store.
    name : str
        Of the array.
    variable : xarray.Variable or xarray.DataArray
        Gives shape, dims, dtype and attributes.
    chunk_size : int, optional
        Chunk along the first dimension; the others are not divided.

    Returns
    -------
    zarr.Array
    """
    is_text = variable.dtype.kind in "UTO"
    return group.create_array(
        name,
        shape=variable.shape,
        chunks=tuple(max(1, min(chunk_size, n)) if i == 0 else n for i, n in enumerate(variable.shape)),
        dtype="string" if is_text else variable.dtype,
        compressors=[*([] if (name, *variable.dims[1:]) in _UNPACKED else _PACKING), Crc32cCodec()],
        fill_value="" if is_text else np.nan if variable.dtype.kind == "f" else 0,
        dimension_names=variable.dims,
        attributes=_plain(variable.attrs),
        config={"write_empty_chunks": True},
    )


def finish_store(group, spectra, provenance=None):
    """Write the coordinates and attributes of a store.

    Parameters
    ----------
    group : zarr.Group
        The store.
    spectra : xarray.Dataset
        Its coordinates and attributes are written; its variables are not looked at.
    provenance : dict, optional
        As in `save_spectra`.
    """
    for name, coordinate in spectra.coords.items():
        values = coordinate.values
        array = add_array(group, name, coordinate.variable)
        if is_simple(array) and array.chunks == values.shape:
            write_chunk(array, group.store.root, 0, np.ascontiguousarray(values))
        else:
            array[...] = values.astype(object) if values.dtype.kind in "UT" else values
    software = {name: importlib.metadata.version(name) for name in ("astrolab-research", "zarr", "numpy")}
    attrs = _plain(spectra.attrs)
    made_from = attrs.pop("provenance", {}) if provenance is None else _plain(provenance)
    attrs["provenance"] = {**made_from, "software": software}
    dims = set(spectra.dims)
    attrs["coordinates"] = " ".join(name for name in spectra.coords if name not in dims)
    group.attrs.update({**attrs, "format": _FORMAT})


def whole_chunks(path, names, n_chunks):
    """Read the leading chunks of arrays, as long as they are there and undamaged.

    Parameters
    ----------
    path : path-like
        A store, which may be unfinished.
    names : iterable of str
        Its arrays.
    n_chunks : int
        How many chunks to look at, along the first dimension.

    Yields
    ------
    int
        Number of each chunk that is whole in every array; none after the first that is not.

    Raises
    ------
    StoreError
        If it is no store.
    """
    path = os.fspath(path)
    group = _open_group(path)
    arrays = [_StoredArray(group[name], path) for name in names]
    for number in range(n_chunks):
        try:
            for array in arrays:
                array.block(number)
        except StoreError:
            return
        yield number


class _AllChunks(WrapperStore):
    """A store in which a chunk that is not there is an error; Zarr itself would give its fill value."""

    async def get(self, key, prototype, byte_range=None):
        value = await self._store.get(key, prototype, byte_range)
        if value is None and "/c/" in key:
            raise StoreError(f"chunk {key} is missing: the store is damaged; make it again, or restore that file.")
        return value


class _StoredArray:
    """A Zarr array for dask, which names the file when a chunk is damaged."""

    def __init__(self, array, path):
        self._array, self._path = array, path
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._is_simple = "://" not in path and is_simple(array)

    def block(self, number):
        """Return a chunk along the first dimension."""
        n_rows = self._array.chunks[0]
        return self[number * n_rows : (number + 1) * n_rows]

    def __getitem__(self, key):
        values = self._whole_chunk(key)
        if values is not None:
            return values
        try:
            return self._array[key]
        except (ValueError, RuntimeError, OSError, TypeError, IndexError) as error:
            if isinstance(error, StoreError):
                raise StoreError(f"'{self._path}': {error}") from error
            raise StoreError(f"'{self._path}': {self._damaged_chunk()} is damaged: make the store again.") from error

    def expect(self, key):
        """Ask the disk for what `key` names, if that is a chunk; whoever reads it then waits less."""
        number = self._number(key)
        if number is not None:
            expect_chunk(self._array, self._path, number)

    def _whole_chunk(self, key):
        """Return the chunk that a key names, or None: where it names anything else, or zarr must say what is wrong."""
        number = self._number(key)
        chunk = None if number is None else read_chunk(self._array, self._path, number)
        return None if chunk is None else chunk[: self.shape[0] - number * len(chunk)]

    def _number(self, key):
        """Return the number of the chunk that a key names, or None where it names anything else."""
        key = (slice(None),) * self.ndim if key is Ellipsis else key
        if not self._is_simple or not isinstance(key, tuple) or not all(isinstance(one, slice) for one in key):
            return None
        n_rows, n_chunk = self.shape[0], self._array.chunks[0]
        (start, stop, step), *others = (one.indices(n) for one, n in zip(key, self.shape, strict=True))
        if start % n_chunk or stop != min(start + n_chunk, n_rows) or step != 1:
            return None
        return start // n_chunk if others == [(0, n, 1) for n in self.shape[1:]] else None

    def _damaged_chunk(self):
        for i in range(self._array.cdata_shape[0]):
            chunk = "/".join([self._array.basename, "c", str(i), *["0"] * (self.ndim - 1)])
            try:
                self._array.blocks[i]
            except (ValueError, RuntimeError, OSError, TypeError, IndexError):
                return f"chunk {chunk}"
        return f"array {self._array.basename}"

    def __dask_tokenize__(self):
        root = Path(self._path) / "zarr.json"
        changed = root.stat().st_mtime_ns if root.is_file() else 0
        return (type(self).__name__, self._path, changed, self._array.path, self.shape, str(self.dtype))


def _open_group(path):
    try:
        if "://" in path:
            store = FsspecStore.from_url(path, read_only=True)
        elif not Path(path).exists():
            raise FileNotFoundError
        else:
            store = LocalStore(path, read_only=True)
        return zarr.open_group(_AllChunks(store), mode="r", zarr_format=3)
    except FileNotFoundError as error:
        if "://" not in path and Path(path).exists():
            raise StoreError(f"'{path}' is not a spectra store; astrolab ingest and save_spectra make them.") from error
        raise StoreError(
            f"there is no spectra store at '{path}'; astrolab ingest and save_spectra make them."
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"'{path}' is not a spectra store, or a damaged one: {error}") from error


def _as_text(values):
    return values.astype(object).astype(str) if values.dtype.kind in "TO" else values


def _plain(value):
    """Return a value as JSON knows it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return os.fspath(value) if isinstance(value, os.PathLike) else value
