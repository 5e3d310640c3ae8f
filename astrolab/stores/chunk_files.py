"""One chunk of a local Zarr array as a file, written and read as zarr does: by itself zarr copies it two times more.

A chunk that begins at a page of memory goes to the disk straight from there. Through the kernel's cache, a survey that
is larger than memory would be copied once more, into pages that must first be found, and push out everything else.
"""

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "shuffle": Blosc.SHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
_CHECKSUM_BYTES = 4
_AHEAD_BYTES = 1 << 17  # Linux takes no more at once than it reads ahead by itself, as a rule this much
_PIECE_BYTES = 1 << 18  # fits into a core's own cache beside what else is there


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
    checksum = google_crc32c.value(packed).to_bytes(_CHECKSUM_BYTES, "little")
    path = _path(array, root, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb", buffering=0) as file:
        content = memoryview(packed).cast("B")
        for part in (content[_write_past_cache(file, packed) :], memoryview(checksum)):
            while part:
                part = part[file.write(part) :]
    partial.replace(path)


def empty_pages(shape, dtype):
    """Return an array like `numpy.empty` that begins at a page of memory; pages that are not used are not taken.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    dtype : numpy.dtype
        Of numbers.

    Returns
    -------
    numpy.ndarray
    """
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(n_bytes, 1)), dtype, int(np.prod(shape))).reshape(shape)


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
        content, checksum = _read_with_checksum(_path(array, root, number))
        packed, stored = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if checksum != int.from_bytes(stored.tobytes(), "little"):
            return None
        for blosc in _packing(array):
            packed = blosc.decode(packed, np.empty(array.chunks, array.dtype))
        return packed.view(array.dtype).reshape(array.chunks)
    except (OSError, ValueError, RuntimeError):  # not there; of another size; not what Blosc packed
        return None


def expect_chunk(array, root, number):
    """Ask the kernel to read one chunk's file, and wait for nothing.

    Parameters
    ----------
    array, root, number
        As for `write_chunk`; a file that is not there is for `read_chunk` to find.
    """
    if hasattr(os, "posix_fadvise"):  # on Linux
        with suppress(OSError), _path(array, root, number).open("rb", buffering=0) as file:
            for start in range(0, os.fstat(file.fileno()).st_size, _AHEAD_BYTES):
                os.posix_fadvise(file.fileno(), start, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)


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


def _write_past_cache(file, values):
    """Write whole pages straight to the disk, and return how many bytes; 0 where that cannot be done."""
    is_whole_pages = isinstance(values, np.ndarray) and values.ctypes.data % mmap.PAGESIZE == 0
    if not hasattr(os, "O_DIRECT") or not is_whole_pages or values.nbytes % mmap.PAGESIZE:
        return 0
    import fcntl  # not on Windows, nor is O_DIRECT

    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT)
        return file.write(memoryview(values).cast("B"))
    except OSError as error:
        if error.errno != errno.EINVAL:  # such as a full disk
            raise
        return 0
    finally:
        fcntl.fcntl(file, fcntl.F_SETFL, flags)


def _read_with_checksum(path):
    """Return the bytes of a file, and the CRC-32C of all but its last four; of each piece while the cache holds it."""
    with path.open("rb", buffering=0) as file:
        content = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
        n_read, end, checksum = 0, len(content) - _CHECKSUM_BYTES, 0
        while n_read < len(content):
            n_new = file.readinto(content[n_read : n_read + _PIECE_BYTES])
            if not n_new:
                raise ValueError(f"'{path}' became shorter while it was read")
            checksum = google_crc32c.extend(checksum, content[n_read : min(n_read + n_new, end)])
            n_read += n_new
    return content, checksum


def _packing(array):
    for codec in array.metadata.codecs[1:-1]:
        settings = codec.to_dict()["configuration"]
        yield Blosc(**{**settings, "shuffle": _SHUFFLES[settings["shuffle"]]})


def _path(array, root, number):
    return Path(root) / array.path / array.metadata.encode_chunk_key((number, *[0] * (array.ndim - 1)))
