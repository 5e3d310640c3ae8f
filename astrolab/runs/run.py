"""Run a template: everything checked first, a run folder of its own, and an account of what happened in it."""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from astrolab.runs.driver import driving
from astrolab.runs.manifest import links_in, write_manifest
from astrolab.runs.parameters import check_values
from astrolab.runs.paths import BOOKKEEPING, CHUNKS, PARAMETERS, RUN, check_outputs, resolve_inputs, store_of
from astrolab.runs.resume import clear, resume_command, what_was_run
from astrolab.runs.status import damaged_chunks, quarantined_rows, read_record
from astrolab.runs.templates import find_template
from astrolab.settings import settings
from astrolab.stores.publish import write_whole


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes
    ----------
    run_dir : pathlib.Path
        The run folder.
    status : str
        ``"succeeded"``, ``"failed"`` or ``"interrupted"``.
    products : list of str
        What the run left there, relative to `run_dir`; a Zarr store is one of them.
    """

    run_dir: Path
    status: str
    products: list[str]


class RunError(RuntimeError):
    """A template failed; ``result`` tells what is left of the run."""

    def __init__(self, message, result):
        super().__init__(message)
        self.result = result


def run_template(name, *, run_dir=None, progress=True, **parameters):
    """Execute a template with papermill, in a run folder of its own.

    Every check comes before a kernel starts: the parameters' names, types and ranges, inputs that must be there,
    outputs that must stay inside the run folder, a cluster that must answer. The folder then holds the executed
    notebook and its HTML, ``parameters.json``, the products, ``run.json``, ``ro-crate-metadata.json`` (provenance) and
    ``manifest.json`` (sha256, size, rows), also when the template fails. While it runs, ``chunks/`` keeps what is
    finished of long passes and of training; when it has succeeded, that is removed. `resume_run` goes on with a run
    that did not.

    Parameters
    ----------
    name : str
        A template's name, as `list_templates` gives them.
    run_dir : path-like, optional
        The run folder, absent or empty; by default a new one, ``runs/<name>/<time>-<hash>/``.
    progress : bool
        Show which cell is running, and what it says, on stderr.
    **parameters
        Values for the template's parameters, of the types that the template states.

    Returns
    -------
    RunResult
        Folder, status and products.

    Raises
    ------
    ParameterError
        If the template or a parameter is unknown, a value has the wrong type, an input is not there, or an output would
        leave the run folder; a `ValueError`.
    FileExistsError
        If `run_dir` is there and not empty.
    ValueError, ImportError, ConnectionError
        If the cluster cannot be had, as in `start_cluster`.
    RunError
        If a cell fails: which, and why. Its ``result`` says where the run folder is.
    KeyboardInterrupt
        If the run is interrupted; the folder is finished with status ``"interrupted"``.

    Examples
    --------
    >>> import astrolab as al
    >>> al.run_template("rank_anomalies", n_latnet=8)
    Traceback (most recent call last):
    astrolab.runs.parameters.ParameterError: ... no parameter 'n_latnet'; did you mean 'n_latent'?
    """
    template = find_template(name)
    values = check_values(template.parameters, parameters, name)
    check_outputs(template, values)
    _check_cluster(values)  # before inputs: a store takes a second to open
    values = resolve_inputs(template, values)
    folder = _make_folder(template, run_dir)
    with driving(folder) as heartbeat:
        record = _describe(template, values)
        write_whole(folder / PARAMETERS, _json(values))
        return _drive(folder, template, record, values, progress, heartbeat)


def resume_run(run_dir, *, progress=True):
    """Go on with a run that was killed, interrupted or failed, in its folder and with its parameters.

    The template is executed again from its first cell, as in a new folder that holds only ``chunks/``: what is finished
    there is recognised by verifying it and not computed again, and the products are those of a run that nobody
    disturbed. What else the folder holds is removed.

    Parameters
    ----------
    run_dir : path-like
        The run folder.
    progress : bool
        As in `run_template`.

    Returns
    -------
    RunResult
        Folder, status and products.

    Raises
    ------
    FileNotFoundError
        If it is no run folder.
    ResumeError
        If the run is finished, or parameters, template, code or inputs are not what they were.
    RunningError
        If another process drives the run.
    ValueError, ImportError, ConnectionError, RunError, KeyboardInterrupt
        As in `run_template`.

    Examples
    --------
    >>> import astrolab as al
    >>> al.resume_run("nowhere")
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    folder = Path(run_dir).expanduser().absolute().resolve()
    read_record(folder)
    with driving(folder) as heartbeat:
        template, values, record = what_was_run(folder, _describe)
        _check_cluster(values)
        for path in damaged_chunks(folder):
            sys.stderr.write(f"astrolab: {path.relative_to(folder)} is damaged and is made again\n")
            path.unlink()
        clear(folder)
        return _drive(folder, template, record | {"resumed": _now()}, values, progress, heartbeat)


def _check_cluster(values):
    """Refuse a cluster that is not there: the template would say so only once a kernel has started."""
    from astrolab.compute import check_cluster

    if "cluster" in values:
        check_cluster(values["cluster"], n_workers=values.get("n_workers"))


def _describe(template, values):
    """Return what ``run.json`` says before the run: everything its products depend on, and where it runs."""
    from astrolab.runs import environment, provenance

    return {
        "template": template.name,
        "template_sha256": template.sha256,
        "parameters_sha256": sha256(_json(values)).hexdigest(),
        "status": "running",
        "started": _now(),
        "code": environment.code_version(),
        "versions": environment.package_versions(),
        "device": environment.device_name(),
        "n_workers": values.get("n_workers"),
        "inputs": provenance.describe_inputs(template, values),
    }


def _drive(folder, template, record, values, progress, heartbeat):
    """Execute the template, and complete the folder however that ends."""
    from astrolab.runs.notebook import execute

    write_whole(folder / RUN, _json(record))
    try:
        failure = execute(template, values, folder, progress, heartbeat)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"To go on from there: {resume_command(folder)}")
        _finish(folder, template, record, values, "interrupted", "interrupted by the user")
        raise
    result = _finish(folder, template, record, values, "failed" if failure else "succeeded", failure)
    if result.status == "failed":
        raise RunError(
            f"template {template.name!r}: {record['error']}; everything up to there is in {folder}. "
            f"To go on from there: {resume_command(folder)}",
            result,
        )
    return result


def _make_folder(template, run_dir):
    if run_dir is None:
        now = datetime.now(UTC)
        short = sha256(f"{template.sha256} {now.timestamp()} {os.getpid()}".encode()).hexdigest()[:6]
        run_dir = settings().runs_dir / template.name / f"{now:%Y%m%dT%H%M%SZ}-{short}"
    folder = Path(run_dir).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"run_dir {str(folder)!r} is there and not empty; give a new folder, or leave run_dir out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _finish(folder, template, record, values, status, failure):
    """Complete the run folder: report, provenance, run.json and, last, the manifest."""
    from astrolab.runs.provenance import write_crate
    from astrolab.runs.report import write_report

    links = links_in(folder)
    if links and not failure:
        status, failure = "failed", f"it left {links[0]!r}, a link or special file; a run folder holds files of its own"
    finished = _now()
    seconds = (datetime.fromisoformat(finished) - datetime.fromisoformat(record["started"])).total_seconds()
    record.update(status=status, finished=finished, duration_s=seconds)
    if failure:
        record["error"] = failure
    else:
        record["n_quarantined"] = quarantined_rows(folder)
        shutil.rmtree(folder / CHUNKS, ignore_errors=True)
    notebook_path = folder / f"{template.name}.ipynb"
    if notebook_path.exists():
        footer = f"AstroLab {record['code']['astrolab']} · {template.name} · {status} · {finished} · {seconds:.0f} s"
        write_report(notebook_path, notebook_path.with_suffix(".html"), template, values, footer)
    entries = _without_bookkeeping(write_manifest(folder))
    write_crate(folder, template, record, values, record["inputs"], entries)
    write_whole(folder / RUN, _json(record))
    write_manifest(folder)
    return RunResult(folder, status, _products(entries))


def _without_bookkeeping(entries):
    return {
        path: entry for path, entry in entries.items() if path not in BOOKKEEPING and not path.startswith(f"{CHUNKS}/")
    }


def _products(paths):
    """Return the products' paths, a Zarr store as one."""
    return sorted({store_of(path) or path for path in paths})


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(content):
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
