"""Whether a run can go on where it was: nothing that its products depend on may have changed."""

import json
import shlex
import shutil
from hashlib import sha256

from astrolab.runs.paths import CHUNKS, DRIVER, PARAMETERS, RUN
from astrolab.runs.status import read_record
from astrolab.runs.templates import find_template

# what the products depend on, as run.json names it and as a person does
_DEPENDS_ON = {
    "template_sha256": "the template",
    "parameters_sha256": "parameters.json",
    "code": "the code of AstroLab",
    "inputs": "an input",
}


class ResumeError(ValueError):
    """A run cannot be resumed."""


def what_was_run(run_dir, describe):
    """Return what a run was, once it is known that the same can be run again.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.
    describe : callable
        Gives, of template and values, what ``run.json`` would say now.

    Returns
    -------
    template : Template
    values : dict
    record : dict
        What ``run.json`` says, with status ``"running"``.

    Raises
    ------
    ResumeError
        If the run is finished, or something it depends on is not what it was.
    """
    record = read_record(run_dir)
    if record["status"] == "succeeded":
        raise ResumeError(f"the run in {run_dir} is finished: there is nothing to resume.")
    try:
        content = (run_dir / PARAMETERS).read_bytes()
        values = json.loads(content)
    except (OSError, ValueError) as error:
        raise ResumeError(f"{run_dir / PARAMETERS} is missing or damaged, so the run cannot be resumed.") from error
    template = find_template(record["template"])
    now = describe(template, values) | {"parameters_sha256": sha256(content).hexdigest()}
    for name, words in _DEPENDS_ON.items():
        if _content(record.get(name)) != _content(now[name]):
            raise ResumeError(
                f"{words} is not what it was when the run in {run_dir} began, and so would be its products; "
                f"start a new run: astrolab run {template.name}."
            )
    record.pop("error", None)
    return template, values, record | {"status": "running"}


def clear(run_dir):
    """Leave in a run folder only what a resumed run goes on from.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.
    """
    for path in run_dir.iterdir():
        if path.name in (CHUNKS, DRIVER, PARAMETERS, RUN):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def resume_command(run_dir):
    """Return what to type to go on with a run.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run folder.

    Returns
    -------
    str
    """
    return f"astrolab resume {shlex.quote(str(run_dir))}"


def _content(of):
    """Of the code its hash counts: a commit of unrelated files changes nothing."""
    return of["sha256"] if isinstance(of, dict) else of
