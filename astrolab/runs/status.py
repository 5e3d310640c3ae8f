"""What a run folder says about its run, read from its files: nothing has to be believed that cannot be seen."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from astrolab.runs.driver import is_driven, read_heartbeat
from astrolab.runs.paths import CHUNKS, RUN
from astrolab.stores.chunks import SUFFIX, ChunkError, load_chunk

# what run.json says of a run that is over; one that says "running" and is not driven was killed
_OVER = {"succeeded": "finished", "failed": "failed", "interrupted": "interrupted"}
_RESUMABLE = ("failed", "interrupted", "killed")


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes
    ----------
    run_dir : str
        The run folder.
    template : str
        What is run.
    state : str
        ``"running"``, ``"finished"``, ``"failed"``, ``"interrupted"`` or ``"killed"``.
    step : str
        The pass over chunks that is going on, or went on last; empty where none did.
    n_done, n_total : int
        Its chunks.
    n_failed : int
        Chunks on disk that are damaged; they are made again.
    n_quarantined : int
        Rows set aside because they kill the process that computes them.
    chunks_per_s : float or None
        Of the newest chunks.
    seconds_left : float or None
        Of this pass, at that rate.
    cell : str
        The cell that is running.
    error : str
        Why the run failed.
    """

    run_dir: str
    template: str
    state: str
    step: str = ""
    n_done: int = 0
    n_total: int = 0
    n_failed: int = 0
    n_quarantined: int = 0
    chunks_per_s: float | None = None
    seconds_left: float | None = None
    cell: str = ""
    error: str = ""

    @property
    def is_resumable(self):
        """Whether ``astrolab resume`` goes on with it."""
        return self.state in _RESUMABLE

    def to_dict(self):
        """Return all of it as JSON knows it."""
        return {**asdict(self), "is_resumable": self.is_resumable}


def run_status(run_dir):
    """Say how far a run is, from its files alone.

    Parameters
    ----------
    run_dir : path-like
        A run folder; its run may be going on.

    Returns
    -------
    RunStatus
        State, chunks done and to do, rate, time left, rows set aside.

    Raises
    ------
    FileNotFoundError
        If it is no run folder.

    Examples
    --------
    >>> import astrolab as al
    >>> al.run_status("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    run_dir = Path(run_dir)
    record = read_record(run_dir)
    state = _OVER.get(record["status"]) or ("running" if is_driven(run_dir) else "killed")
    steps = [_count(step) for step in sorted((run_dir / CHUNKS).glob("*/"), key=lambda step: step.stat().st_mtime)]
    newest = steps[-1] if steps else {}
    sums = {name: sum(step[name] for step in steps) for name in ("n_failed", "n_quarantined")}
    if state == "finished":
        sums["n_quarantined"] = record.get("n_quarantined", 0)
    cell = read_heartbeat(run_dir).get("cell", "") if state == "running" else ""
    return RunStatus(
        str(run_dir), record["template"], state, cell=cell, error=record.get("error") or "", **(newest | sums)
    )


def list_runs(runs_dir):
    """List the run folders below a folder, newest first.

    Parameters
    ----------
    runs_dir : path-like
        Where ``astrolab run`` puts them: ``<template>/<run id>``.

    Returns
    -------
    list of pathlib.Path
    """
    found = [path.parent for path in Path(runs_dir).glob(f"*/*/{RUN}")]
    return sorted(found, key=lambda path: path.name, reverse=True)


def read_record(run_dir):
    """Return what ``run.json`` holds.

    Parameters
    ----------
    run_dir : pathlib.Path
        A run folder.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If it is no run folder.
    """
    try:
        return json.loads((run_dir / RUN).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise FileNotFoundError(
            f"{run_dir} is not a run folder, expected one such as 'astrolab run' writes, with its {RUN}."
        ) from error


def damaged_chunks(run_dir):
    """Return the chunk products of a run that do not verify.

    Parameters
    ----------
    run_dir : pathlib.Path
        A run folder.

    Returns
    -------
    list of pathlib.Path
    """
    return [path for path in sorted((run_dir / CHUNKS).rglob(f"*{SUFFIX}")) if _quarantined(path) is None]


def _count(step):
    paths = sorted(step.glob(f"*-of-*{SUFFIX}"))
    found = [_quarantined(path) for path in paths]
    n_total = int(paths[0].stem.rpartition("-")[2]) if paths else 0
    good = [number for number in found if number is not None]
    rate, left = _rate(paths), None
    if rate is not None:
        left = (n_total - len(good)) / rate
    return {
        "step": step.name,
        "n_done": len(good),
        "n_total": n_total,
        "n_failed": len(found) - len(good),
        "n_quarantined": sum(good),
        "chunks_per_s": rate,
        "seconds_left": left,
    }


def _rate(paths):
    """Return chunks per second of the newest 20."""
    times = sorted(path.stat().st_mtime for path in paths)[-21:]
    if len(times) < 2:
        return None
    return (len(times) - 1) / max(times[-1] - times[0], 1e-3)


def _quarantined(path):
    """Return how many rows a chunk set aside; None where the file is damaged."""
    try:
        found = load_chunk(path)
    except ChunkError:
        return None
    return len(found[1].get("quarantined", [])) if found else 0


def quarantined_rows(run_dir):
    """Return how many rows the chunks of a run set aside.

    Parameters
    ----------
    run_dir : pathlib.Path
        A run folder.

    Returns
    -------
    int
    """
    return sum(_quarantined(path) or 0 for path in (run_dir / CHUNKS).rglob(f"*{SUFFIX}"))


def age(seconds):
    """Return a time as people say it.

    Parameters
    ----------
    seconds : float
        Any.

    Returns
    -------
    str

    Examples
    --------
    >>> age(3), age(200), age(10_000)
    ('3 s', '3 min', '2.8 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
