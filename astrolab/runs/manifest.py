"""The manifest of a run folder: sha256, size and rows of every file, and the check that they still match.

``manifest.json`` names every file but itself and ``manifest.sha256``, which holds its hash: no byte of a run folder
can change unseen.
"""

import csv
import json
import os
import stat
from hashlib import file_digest, sha256
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from astrolab.runs.paths import DRIVER, MANIFEST, MANIFEST_HASH
from astrolab.runs.status import damaged_chunks
from astrolab.stores.publish import write_whole

_ABOUT_ITSELF = (MANIFEST, MANIFEST_HASH)


class Problem(NamedTuple):
    """One thing in a run folder that does not match its manifest: the file, and what is wrong with it."""

    path: str
    what: str


def verify_run(run_dir):
    """Compare every file of a run folder with its manifest.

    Paths are relative: a folder copied elsewhere still verifies. Of a run that was killed there is no manifest; then
    its chunk products are verified, each of which holds its own hash.

    Parameters
    ----------
    run_dir : path-like
        A run folder.

    Returns
    -------
    list of Problem
        ``(path, what)`` for each file that is missing, changed, not in the manifest, or a link; empty when all is well.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "made.txt").write_text("42")
    ...     _ = write_manifest(Path(folder))
    ...     _ = Path(folder, "made.txt").write_text("43")
    ...     [problem.path for problem in verify_run(folder)]
    ['made.txt']
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir} is not a folder, expected a run folder such as 'astrolab run' writes.")
    listed, problems = _read_manifest(run_dir)
    if listed is None:
        damaged = [Problem(str(path.relative_to(run_dir)), "damaged") for path in damaged_chunks(run_dir)]
        return problems + damaged
    found = dict(_walk(run_dir))
    for path in sorted(listed.keys() | found.keys()):
        what = _compare(run_dir, path, listed.get(path), found.get(path))
        if what:
            problems.append(Problem(path, what))
    return problems


def write_manifest(run_dir):
    """Write the manifest of a finished run folder.

    Parameters
    ----------
    run_dir : pathlib.Path
        The folder.

    Returns
    -------
    dict
        Relative path to ``{"sha256", "size", "rows"}``; rows of Parquet, CSV and Zarr stores (on their ``zarr.json``).
    """
    entries = {}
    for path, is_file in sorted(_walk(run_dir)):
        if is_file:
            entries[path] = _describe(run_dir / path)
    content = (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode()
    write_whole(run_dir / MANIFEST, content)
    write_whole(run_dir / MANIFEST_HASH, _hash_line(content))
    return entries


def links_in(run_dir):
    """Return the relative paths of everything in a run folder that is neither a file nor a folder of its own.

    Parameters
    ----------
    run_dir : pathlib.Path
        The folder.

    Returns
    -------
    list of str
        Symbolic links, sockets, pipes.
    """
    return [path for path, is_file in _walk(run_dir) if not is_file]


def hash_file(path):
    """Return the sha256 of a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    str
        Hexadecimal.
    """
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _walk(run_dir):
    """Yield (relative path, whether it is a plain file) of everything but folders, sorted, following no link."""
    for folder, folders, names in os.walk(run_dir, onerror=_raise):
        folders[:] = sorted(name for name in folders if (folder, name) != (str(run_dir), DRIVER))
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted(names + linked):
            path = Path(folder, name)
            relative = path.relative_to(run_dir).as_posix()
            if relative not in _ABOUT_ITSELF:
                yield relative, stat.S_ISREG(path.lstat().st_mode)


def _raise(error):
    raise error


def _read_manifest(run_dir):
    for name in _ABOUT_ITSELF:
        path = run_dir / name
        if path.is_symlink() or not path.is_file():
            return None, [
                Problem(name, "missing: the run did not finish (astrolab resume), or this is not a run folder")
            ]
    content = (run_dir / MANIFEST).read_bytes()
    if (run_dir / MANIFEST_HASH).read_bytes() != _hash_line(content):
        return None, [Problem(MANIFEST, f"changed: it does not match {MANIFEST_HASH}")]
    try:
        return json.loads(content), []
    except ValueError:
        return None, [Problem(MANIFEST, "damaged: it is not JSON")]


def _hash_line(content):
    """Return what ``sha256sum`` would write, so that ``sha256sum -c manifest.sha256`` works too."""
    return f"{sha256(content).hexdigest()}  {MANIFEST}\n".encode()


def _compare(run_dir, path, entry, is_file):
    if is_file is None:
        return "missing"
    if not is_file:
        return "a link or a special file, expected a file of its own"
    if entry is None:
        return "not in the manifest"
    size = (run_dir / path).stat().st_size
    if size != entry["size"]:
        return f"changed: {size} bytes, expected {entry['size']}"
    if hash_file(run_dir / path) != entry["sha256"]:
        return "changed: its sha256 differs"
    return None


def _describe(path):
    entry = {"sha256": hash_file(path), "size": path.stat().st_size}
    rows = _count_rows(path)
    return entry if rows is None else entry | {"rows": rows}


def _count_rows(path):
    if path.suffix == ".parquet":
        try:
            return pq.read_metadata(path).num_rows
        except pa.ArrowInvalid:
            return None
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return max(0, sum(1 for _ in csv.reader(file)) - 1)
    if path.name == "zarr.json" and path.parent.suffix == ".zarr":
        return _count_objects(path)
    return None


def _count_objects(path):
    """Return the length of the dimension ``object`` of a Zarr store, from the metadata of its arrays."""
    for array in (json.loads(array_path.read_bytes()) for array_path in sorted(path.parent.glob("*/zarr.json"))):
        names, shape = array.get("dimension_names") or [], array.get("shape", [])
        if "object" in names:
            return shape[names.index("object")]
    return None
