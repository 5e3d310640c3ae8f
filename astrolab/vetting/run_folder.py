"""What vetting needs of a run folder: its name, its ranking, and the spectra of the strangest objects."""

import json
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest, sha256
from pathlib import Path

import pandas as pd
import xarray as xr

from astrolab.stores.spectra import open_spectra


class RunFolderError(ValueError):
    """A folder is not a run whose ranking can be vetted."""


@dataclass(frozen=True)
class VettableRun:
    """What the page needs of a run folder.

    Attributes
    ----------
    run_id : str
        The run's own name, the same wherever its folder lies: template, start, and a hash of its record.
    ranked : xarray.Dataset
        The strangest objects with their spectra, in rank order.
    ranking : pandas.DataFrame
        Every ranked object.
    model_version : str
        The first 12 digits of the sha256 of the model's weights; empty where there are none.
    """

    run_id: str
    ranked: xr.Dataset
    ranking: pd.DataFrame
    model_version: str


def open_run(run_dir):
    """Open the products of a run of ``rank_anomalies``.

    Parameters
    ----------
    run_dir : path-like
        The run folder.

    Returns
    -------
    VettableRun
        Spectra lazy, tables in memory.

    Raises
    ------
    RunFolderError
        If something is missing; it says what, and what to type.
    StoreError
        If the spectra cannot be read.
    """
    run_dir = Path(run_dir)
    for name in ("run.json", "ranking.parquet", "top.zarr"):
        if not (run_dir / name).exists():
            what = f"has no {name}" if run_dir.is_dir() else "is not a folder"
            raise RunFolderError(
                f"'{run_dir}' {what}, expected the folder of a finished run; "
                "make one: astrolab run rank_anomalies -p spectra_path STORE, then: astrolab vet RUN_DIR"
            )
    weights_path = run_dir / "model" / "weights.safetensors"
    model_version = ""
    if weights_path.exists():
        with weights_path.open("rb") as file:
            model_version = file_digest(file, "sha256").hexdigest()[:12]
    return VettableRun(
        run_id=read_run_id(run_dir),
        ranked=open_spectra(run_dir / "top.zarr"),
        ranking=pd.read_parquet(run_dir / "ranking.parquet"),
        model_version=model_version,
    )


def ranking_columns(ranked):
    """Return what a campaign needs to know of the objects that can be looked at.

    Parameters
    ----------
    ranked : xarray.Dataset
        Objects in rank order.

    Returns
    -------
    pandas.DataFrame
        targetid, anomaly_rank, and where they are known survey, program and anomaly_score.
    """
    names = ("targetid", "anomaly_rank", "survey", "program", "anomaly_score")
    return pd.DataFrame({name: ranked[name].values for name in names if name in ranked.coords})


def read_run_id(run_dir):
    """Return a run's own name, the same wherever its folder lies: template, start, and a hash of its record.

    Parameters
    ----------
    run_dir : path-like
        A run folder.

    Returns
    -------
    str

    Raises
    ------
    RunFolderError
        If it is none.
    """
    try:
        record = (Path(run_dir) / "run.json").read_bytes()
    except OSError as error:
        raise RunFolderError(
            f"'{run_dir}' has no run.json that can be read ({error.strerror}), expected the folder of a run."
        ) from error
    about = _read_record(run_dir, record)
    return f"{about['template']} {about['started']} {sha256(record).hexdigest()[:8]}"


def _read_record(run_dir, record):
    try:
        about = json.loads(record)
        started = datetime.fromisoformat(about["started"]).isoformat()
        if not about["template"].isidentifier():  # it becomes part of a page
            raise ValueError(about["template"])
        return {"template": about["template"], "started": started}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"'{run_dir}/run.json' is not the record of a run, expected a folder that 'astrolab run' made."
        ) from error
