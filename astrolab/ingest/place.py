"""Where an ingest keeps what is finished until its store is whole, and whether it may go on from there."""

import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from dask.base import tokenize

from astrolab.ingest.report import IngestError
from astrolab.readers.files import filesystem
from astrolab.stores.chunks import SUFFIX, ChunkError, chunk_key, load_chunk, save_chunk
from astrolab.stores.locks import try_lock
from astrolab.stores.publish import StoreError, write_whole

_BEGUN = "begun.json"
_STORE = "store"


class Place:
    """The folder of an ingest: its unfinished store, and a chunk product for each chunk of rows that is in it.

    Parameters
    ----------
    folder : pathlib.Path
        Held by this process.
    """

    def __init__(self, folder):
        self.folder = folder
        self.store = folder / _STORE
        self._key, self._n_chunks = None, 0

    def begin(self, files, plan, n_chunks):
        """Say what is ingested; what was kept of anything else is removed, and that is said.

        Parameters
        ----------
        files : dict of str to str
            Paths, and what shows that a file has changed, as `file_states` gives them.
        plan : object
            All else that the store depends on.
        n_chunks : int
            Chunks of rows.
        """
        self._key, self._n_chunks = chunk_key(files, tokenize(plan)), n_chunks
        path = self.folder / _BEGUN
        try:
            before = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            before = {"key": None}
        if before["key"] == self._key:
            return
        if before["key"] is not None:
            why = _what_changed(before["files"], files)
            sys.stderr.write(f"astrolab: {why} since the ingest that '{self.folder}' keeps began: it begins again\n")
        self.clear()
        write_whole(path, json.dumps({"key": self._key, "files": files}).encode())

    def clear(self):
        """Forget what is finished."""
        for path in self.folder.glob(f"*{SUFFIX}"):
            path.unlink()
        shutil.rmtree(self.store, ignore_errors=True)

    def add(self, number, arrays, **about):
        """Say that a chunk of rows is in the store.

        Parameters
        ----------
        number : int
            Which.
        arrays : dict of str to numpy.ndarray
            What came of its rows.
        **about
            JSON values.
        """
        save_chunk(self._path(number), arrays, self._key, **about)

    def finished(self):
        """Return what came of the leading chunks that are finished, as far as their files verify.

        Returns
        -------
        list of tuple
            The arrays and the rest of each chunk.
        """
        found = []
        for number in range(self._n_chunks):
            try:
                one = load_chunk(self._path(number), self._key)
            except ChunkError:
                one = None
            if one is None:
                break
            found.append(one)
        return found

    def _path(self, number):
        return self.folder / f"{number:06d}-of-{self._n_chunks:06d}{SUFFIX}"


@contextmanager
def holding_place(out_path, chunks_dir):
    """Hold the folder that keeps what is finished of an ingest; nobody else may write there meanwhile.

    It is removed when the store is whole, or nothing can be stored; after a kill, an interrupt or a full disk it stays.

    Parameters
    ----------
    out_path : str or path-like
        The store to be written.
    chunks_dir : path-like or None
        The folder; by default a hidden one beside a local store, and a temporary one for a remote store.

    Yields
    ------
    Place

    Raises
    ------
    StoreError
        If another process holds it, or it cannot be written.
    """
    out_path = os.fspath(out_path)
    if chunks_dir is None and "://" in out_path:
        with tempfile.TemporaryDirectory(prefix="astrolab-") as folder:
            yield Place(Path(folder))
        return
    final = Path(out_path).absolute()
    folder = Path(chunks_dir or final.with_name(f".{final.name}.partial")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StoreError(f"'{out_path}' cannot be written: {error}") from error
    with lock:
        if not try_lock(lock):
            raise StoreError(f"another process ingests into '{out_path}'; wait for it, or end it.")
        is_over = False
        try:
            yield Place(folder)
            is_over = True
        except IngestError:
            is_over = True
            raise
        finally:
            if is_over or not any(folder.glob(f"*{SUFFIX}")):
                shutil.rmtree(folder, ignore_errors=True)


def file_states(files):
    """Return what shows that a file has changed: size and time, and where there is one the ETag.

    Parameters
    ----------
    files : list of str
        Paths or URLs.

    Returns
    -------
    dict of str to str
        An empty text for a file that cannot be looked at.
    """
    return {file: _state(file) for file in files}


def check_unchanged(before, report):
    """Raise an error if a file is not what it was.

    Parameters
    ----------
    before : dict of str to str
        What `file_states` gave.
    report : IngestReport
        Of the error.

    Raises
    ------
    IngestError
        If a file has changed.
    """
    for file, state in before.items():
        if _state(file) != state:
            raise IngestError(f"'{file}' changed while it was read, so nothing was stored; run the same again.", report)


def _state(file):
    try:
        if "://" not in file:
            about = Path(file).stat()
            return f"{about.st_size} {about.st_mtime_ns}"
        fs, inside = filesystem(file)
        about = fs.info(inside)
    except OSError:
        return ""
    return " ".join(str(about[name]) for name in ("size", "ETag", "LastModified", "mtime") if name in about)


def _what_changed(before, now):
    changed = sorted(file for file in before.keys() & now.keys() if before[file] != now[file])
    if changed:
        others = f" and {len(changed) - 1} others" if len(changed) > 1 else ""
        return f"'{changed[0]}'{others} changed"
    n_new, n_gone = len(now.keys() - before.keys()), len(before.keys() - now.keys())
    if n_new or n_gone:
        return f"{n_new} files came and {n_gone} went"
    return "the parameters, a file beside the spectra or AstroLab itself changed"
