"""One chunk of a local Zarr array as a file, written and read as zarr does: by itself zarr copies it two times more."""

from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
_CHECKSUM_BYTES = 4


def write_chunk(array, root, number, values):
    """Write one chunk.

    Parameters
    ----------
    array : zarr.Array
        For which `is_simple`.
    root : path-like
        The folder of its store.
    number : int
        Which chunk, along the first dimension; the others are not divided.
    values : numpy.ndarray, shape (n_chunk, …)
        All of the chunk, side by side in memory.

    Raises
    ------
    OSError
        If it cannot be written; then nothing stands under its name that did not before.
    """
    packed = values
    for blosc in _packing(array):
        packed = blosc.encode(packed)
    path = _path(array, root, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(packed)
        file.write(google_crc32c.value(packed).to_bytes(_CHECKSUM_BYTES, "little"))
    partial.replace(path)


def read_chunk(array, root, number):
    """Read one chunk.

    Parameters
    ----------
    array, root, number
        As for `write_chunk`.

    Returns
    -------
    numpy.ndarray, shape (n_chunk, …), or None
        None where its file is missing or damaged: zarr says what is wrong with it.
    """
    try:
        content = np.fromfile(_path(array, root, number), np.uint8)
        packed, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if google_crc32c.value(packed) != int.from_bytes(checksum.tobytes(), "little"):
            return None
        for blosc in _packing(array):
            packed = blosc.decode(packed, np.empty(array.chunks, array.dtype))
        return packed.view(array.dtype).reshape(array.chunks)
    except (OSError, ValueError, RuntimeError):  # not there; of another size; not what Blosc packed
        return None


def is_simple(array):
    """Say whether chunks are numbers, packed by Blosc or not at all, that end in a CRC-32C, as `add_array` makes them.

    Parameters
    ----------
    array : zarr.Array
        Any.

    Returns
    -------
    bool
    """
    kinds = [type(codec) for codec in array.metadata.codecs]
    is_divided = any(chunk < n for chunk, n in zip(array.chunks[1:], array.shape[1:], strict=True))
    is_one_of_ours = kinds in ([BytesCodec, Crc32cCodec], [BytesCodec, BloscCodec, Crc32cCodec])
    return is_one_of_ours and array.ndim > 0 and not is_divided and array.dtype.isnative


def _packing(array):
    for codec in array.metadata.codecs[1:-1]:
        settings = codec.to_dict()["configuration"]
        yield Blosc(**{**settings, "shuffle": _SHUFFLES[settings["shuffle"]]})


def _path(array, root, number):
    return Path(root) / array.path / array.metadata.encode_chunk_key((number, *[0] * (array.ndim - 1)))
