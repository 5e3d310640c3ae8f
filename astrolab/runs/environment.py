"""What this AstroLab runs on: its code, its libraries, the device; and what works here, for ``astrolab doctor``."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

import astrolab
from astrolab.compute import gpu_names, why_not_gateway, why_not_gpu
from astrolab.runs.templates import checkout_dir
from astrolab.settings import settings
from astrolab.stores.chunks import code_hash

# what an extra of the distribution brings, and the module that shows it is there
_EXTRAS = {
    "s3": ("s3fs", "reading s3:// addresses"),
    "gpu": ("dask_cuda", "one Dask worker per GPU"),
    "hub": ("dask_gateway", "clusters of a Dask Gateway"),
    "ray": ("ray", "Dask's graphs on a Ray cluster"),
    "lab": ("jupyterlab", "the notebooks in JupyterLab"),
}


def code_version():
    """Return which code this is.

    Returns
    -------
    dict
        ``astrolab`` (its version), ``sha256`` of its source and, in a clone, ``git_commit`` and ``git_is_dirty``.
    """
    code = {"astrolab": astrolab.__version__, "sha256": code_hash()}
    root = checkout_dir()
    if root is not None and (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        if commit:
            code |= {"git_commit": commit, "git_is_dirty": bool(_git(root, "status", "--porcelain", "-uno"))}
    return code


def package_versions():
    """Return the versions of the libraries that AstroLab stands on.

    Returns
    -------
    dict
        Distribution name to version, ``python`` first; what is not installed is not in it.
    """
    try:
        needed = requires("astrolab-research") or []
    except PackageNotFoundError:
        needed = []
    needed = [requirement for requirement in needed if not re.search(r"extra == .(dev|lab)", requirement)]
    versions = {"python": platform.python_version()}
    for name in sorted({re.match(r"[\w.-]+", requirement).group() for requirement in needed}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def device_name():
    """Return what computes here.

    Returns
    -------
    str
        The GPUs' names, or the processor and how many cores of it this process may use.
    """
    gpus = gpu_names()
    if gpus:
        return ", ".join(gpus)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {n_cores} cores ({platform.machine()})"


def examine():
    """Look at what works here.

    Returns
    -------
    list of (str, str, str)
        What, its state, and what to type to make it work (empty where it does).
    """
    return [*_examine_code(), *_examine_devices(), *_examine_places(), *_examine_extras()]


def _examine_code():
    code = code_version()
    commit = (
        f", git {code['git_commit'][:10]}{' with changes' if code['git_is_dirty'] else ''}"
        if "git_commit" in code
        else ""
    )
    versions = package_versions()
    main = ("numpy", "xarray", "zarr", "dask", "torch", "papermill", "panel")
    return [
        ("astrolab", f"{code['astrolab']}{commit}", ""),
        ("python", f"{versions['python']} on {platform.platform()}", ""),
        ("libraries", ", ".join(f"{name} {versions[name]}" for name in main if name in versions), ""),
    ]


def _examine_devices():
    import torch

    has_cuda = torch.cuda.is_available()
    gpus = gpu_names()
    advice = "" if has_cuda or not gpus else "install a torch with CUDA: see environment-gpu.yml"
    without_gpu, without_gateway = why_not_gpu(), why_not_gateway()
    return [
        ("device", device_name(), ""),
        ("torch", torch.cuda.get_device_name() if has_cuda else "computes on the CPU", advice),
        ("cluster cpu", "works", ""),
        ("cluster gpu", "not here" if without_gpu else "works", without_gpu or ""),
        ("cluster gateway", "not here" if without_gateway else "configured", without_gateway or ""),
    ]


def _examine_places():
    from astrolab.stores.catalog import open_catalog

    home = settings().home
    existing = next(folder for folder in (home, *home.absolute().parents) if folder.exists())
    is_writable = os.access(existing, os.W_OK)
    rows = [
        ("home", f"{home} ({'writable' if is_writable else 'read-only'})", "" if is_writable else "set ASTROLAB_HOME")
    ]
    runs = ("runs", str(settings().runs_dir.absolute()), "")
    if settings().catalog_url is None and not (home / "catalog.db").exists():
        return [*rows, ("catalog", "none yet: made with the first verdict", ""), runs]
    try:
        with open_catalog() as catalog:
            catalog.verdicts()
        rows.append(("catalog", "answers", ""))
    except (OSError, ValueError, RuntimeError) as error:
        rows.append(("catalog", f"does not answer: {error}", "set ASTROLAB_CATALOG_URL"))
    return [*rows, runs]


def _examine_extras():
    return [
        (
            f"extra {extra}",
            f"{'installed' if find_spec(module) else 'not installed'}: {purpose}",
            _advice(extra, module),
        )
        for extra, (module, purpose) in _EXTRAS.items()
    ]


def _advice(extra, module):
    return "" if find_spec(module) else f'pip install "astrolab-research[{extra}]"'


def _git(root, *arguments):
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
