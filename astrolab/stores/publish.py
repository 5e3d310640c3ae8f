"""Let a file or a folder appear under its name only when it is complete."""

import os
import shutil
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec


class StoreError(ValueError):
    """A store is missing, damaged, in the way, or cannot be written."""


def write_whole(path, content):
    """Write a file so that under its name there is the old content or the new, never a part.

    Temporary name, flush to disk, rename, and the same for the folder's entry: it holds when the machine stops, too.

    Parameters
    ----------
    path : str or path-like
        Where; its folder is there.
    content : bytes
        What.

    Raises
    ------
    OSError
        If the disk is full or the folder read-only: with the path, what was needed and what is free.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise type(error)(error.errno, _why_not_written(path, len(content), error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _why_not_written(path, n_bytes, error):
    try:
        free = f"{shutil.disk_usage(path.parent).free:,} bytes are free"
    except OSError:
        free = "its folder cannot be read"
    return f"'{path}' cannot be written: {error.strerror} ({n_bytes:,} bytes are needed, {free})"


@contextmanager
def publishing(path, *, overwrite=False, keep_dir=None):
    """Give a temporary folder, and put it at its place when the block ends without an error.

    Local folders are flushed to disk and renamed; on an object store the root's zarr.json is uploaded last, so that a
    reader finds no store until all of it is there. After an error or an interrupt nothing is left; after a kill there
    may be a hidden folder whose name ends in ``.partial``.

    Parameters
    ----------
    path : str or path-like
        The final place, local or an fsspec URL.
    overwrite : bool, optional
        Replace a store that is there, once the new one is complete.
    keep_dir : path-like, optional
        The temporary folder, which stays after an error, so that its owner can go on; on the file system of a local
        `path`.

    Yields
    ------
    pathlib.Path
        A local folder beside the final one.

    Raises
    ------
    StoreError
        If there is something at `path` and `overwrite` is False, or it is not a store; or if writing fails.
    """
    path = os.fspath(path)
    if "://" in path:
        with _uploading(path, overwrite, keep_dir) as folder:
            yield folder
        return
    final = Path(path).absolute()
    _check_free(final, overwrite)
    partial = Path(keep_dir or final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.partial"))
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _flush(partial)
        _swap(partial, final, overwrite)
    except OSError as error:
        raise StoreError(f"'{path}' cannot be written: {error}") from error
    finally:
        if keep_dir is None:
            _remove(partial)


@contextmanager
def _uploading(url, overwrite, keep_dir):
    fs, inside = fsspec.core.url_to_fs(url)
    if fs.exists(f"{inside}/zarr.json") and not overwrite:
        raise StoreError(f"there is a store at '{url}' already; give another path, or overwrite=True (--overwrite).")
    with tempfile.TemporaryDirectory(prefix="astrolab-") as folder:
        root = Path(keep_dir or Path(folder) / "store")
        yield root
        if overwrite and fs.exists(inside):
            fs.rm(inside, recursive=True)
        files = sorted(file for file in root.rglob("*") if file.is_file() and file != root / "zarr.json")
        for file in [*files, root / "zarr.json"]:
            fs.put_file(str(file), f"{inside}/{file.relative_to(root).as_posix()}")


def _check_free(final, overwrite):
    if not final.exists():
        return
    if not overwrite:
        raise StoreError(
            f"there is something at '{final}' already; give another path, or overwrite=True (--overwrite)."
        )
    if not (final / "zarr.json").is_file():
        raise StoreError(f"'{final}' is not a store, so it will not be overwritten; give another path.")


def _flush(folder):
    for name in [*folder.rglob("*"), folder]:
        _sync(name)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder):
    """Remove a folder into which threads of an interrupted writer may be writing still."""
    for _ in range(20):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _swap(partial, final, overwrite):
    _check_free(final, overwrite)
    old = partial.with_suffix(".old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
