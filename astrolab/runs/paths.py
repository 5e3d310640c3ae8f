"""The paths among a template's parameters: inputs must be there, outputs stay inside the run folder."""

import glob
from pathlib import Path, PurePosixPath, PureWindowsPath

from astrolab.runs.parameters import ParameterError

# what a run writes about itself
MANIFEST = "manifest.json"
MANIFEST_HASH = "manifest.sha256"
RUN = "run.json"
PARAMETERS = "parameters.json"
CRATE = "ro-crate-metadata.json"
# of the process that drives the run, gone when it ends
DRIVER = ".driver"
LOCK = f"{DRIVER}/lock"
HEARTBEAT = f"{DRIVER}/heartbeat.json"
# chunk products and checkpoints, gone when the run has succeeded
CHUNKS = "chunks"
BOOKKEEPING = (MANIFEST, MANIFEST_HASH, RUN, PARAMETERS, CRATE)


def is_remote(path):
    """Return whether a path is an address such as ``s3://…``, which is not looked at here."""
    return "://" in path


def matching_paths(pattern):
    """Return the sorted paths that match a pattern such as ``/data/coadd-*.fits``."""
    return sorted(Path(found) for found in glob.glob(str(pattern), recursive=True))  # noqa: PTH207 an absolute pattern


def store_of(path):
    """Return the outermost Zarr store that a relative path lies in, or None."""
    return next((str(parent) for parent in reversed(PurePosixPath(path).parents) if parent.suffix == ".zarr"), None)


def resolve_inputs(template, values):
    """Check that every input exists, and make local ones absolute: the kernel runs in the run folder.

    Parameters
    ----------
    template : Template
        The template.
    values : dict
        Value of every parameter.

    Returns
    -------
    dict
        The same, with absolute input paths; ``~`` is the home folder; patterns such as ``coadd-*.fits`` stay patterns.

    Raises
    ------
    ParameterError
        If an input is empty, not there, or a spectra store that is not one.
    """
    resolved = dict(values)
    for parameter in template.parameters:
        value = values[parameter.name]
        if not parameter.is_input or value is None:
            continue
        if isinstance(value, list):
            resolved[parameter.name] = [_resolve(template, parameter.name, path) for path in value]
        else:
            resolved[parameter.name] = _resolve(template, parameter.name, value)
    if resolved.get("spectra_path") is not None:
        _check_store(template, resolved["spectra_path"])
    return resolved


def check_outputs(template, values):
    """Check that every output stays inside the run folder.

    Parameters
    ----------
    template : Template
        The template.
    values : dict
        Value of every parameter.

    Raises
    ------
    ParameterError
        If an output is absolute, an address, climbs out by ``..``, or has the name of a file the run writes itself.
    """
    for parameter in template.parameters:
        value = values[parameter.name]
        if not parameter.is_output or value is None:
            continue
        for path in value if isinstance(value, list) else [value]:
            _check_output(template, parameter.name, path)


def _resolve(template, name, value):
    where = f"parameter {name!r} of template {template.name!r}"
    if not value or "\0" in value:
        raise ParameterError(f"{where} is {value!r}, expected the path of an input: -p {name} PATH.")
    if is_remote(value):
        return value
    path = Path(value).expanduser().absolute()
    if path.exists():
        return str(path.resolve())
    if matching_paths(path):
        return str(path)
    raise ParameterError(f"{where} is {value!r}, but there is nothing at {path}.")


def _check_store(template, path):
    from astrolab.stores.spectra import open_spectra

    try:
        open_spectra(path)
    except (ValueError, OSError) as error:
        raise ParameterError(f"parameter 'spectra_path' of template {template.name!r}: {error}") from error


def _check_output(template, name, value):
    own = (*BOOKKEEPING, DRIVER, CHUNKS, f"{template.name}.ipynb", f"{template.name}.html")
    posix, windows = PurePosixPath(value), PureWindowsPath(value)
    leaves = posix.is_absolute() or windows.drive or windows.root or ".." in (*posix.parts, *windows.parts)
    if leaves or is_remote(value) or value.startswith("~") or not posix.parts or not value.isprintable():
        raise ParameterError(
            f"parameter {name!r} of template {template.name!r} is {value!r}, expected a path inside the run folder, "
            "such as 'spectra.zarr'."
        )
    if posix.parts[0].lower() in own:
        raise ParameterError(
            f"parameter {name!r} of template {template.name!r} is {value!r}, a file that the run writes itself; "
            "choose another name."
        )
