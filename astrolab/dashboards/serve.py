"""Serve the vetting page of a run folder, to this machine alone."""

import getpass
import json
import socket
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import ClassVar

import pandas as pd
import panel as pn
import xarray as xr
from bokeh.models import CustomJS
from panel.template import VanillaTemplate

from astrolab.dashboards.state import VettingState
from astrolab.dashboards.vetting import vetting_layout
from astrolab.stores.catalog import open_catalog
from astrolab.stores.spectra import open_spectra

HOST = "127.0.0.1"


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
    record = (run_dir / "run.json").read_bytes()
    about = _read_record(run_dir, record)
    weights_path = run_dir / "model" / "weights.safetensors"
    model_version = ""
    if weights_path.exists():
        with weights_path.open("rb") as file:
            model_version = file_digest(file, "sha256").hexdigest()[:12]
    return VettableRun(
        run_id=f"{about['template']} {about['started']} {sha256(record).hexdigest()[:8]}",
        ranked=open_spectra(run_dir / "top.zarr"),
        ranking=pd.read_parquet(run_dir / "ranking.parquet"),
        model_version=model_version,
    )


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


def serve_run(run_dir, port=0, open_browser=False):
    """Serve the vetting page of a run folder on this machine's loopback address, until interrupted.

    Prints the page's address once it answers. Every browser tab is a session of its own; verdicts are stored in the
    catalog under the run's id and the login name.

    Parameters
    ----------
    run_dir : path-like
        A run folder of ``rank_anomalies``.
    port : int, optional
        0 takes a free one.
    open_browser : bool, optional
        Open the page in the default browser.

    Raises
    ------
    RunFolderError
        If the folder is not such a run.
    StoreError
        If its spectra cannot be read.
    CatalogError
        If the catalog of labels cannot be opened.
    OSError
        If the port is taken.
    """
    run = open_run(run_dir)
    with open_catalog() as catalog:
        port = _free_port(port)
        server = pn.serve(
            {"/": lambda: page(run, catalog, user=getpass.getuser())},
            address=HOST,
            port=port,
            websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
            title="AstroLab vetting",
            show=open_browser,
            start=False,
            verbose=False,
        )
        server.start()
        # the loop runs this only when it runs, and then it answers
        server.io_loop.add_callback(print, f"vetting page: http://{HOST}:{port}/   (Ctrl+C stops it)", flush=True)
        try:
            server.io_loop.start()
        except KeyboardInterrupt:
            print("stopped; every label is stored.")
        finally:
            server.stop()


def page(run, catalog, user):
    """Make the page of one session.

    Parameters
    ----------
    run : VettableRun
        What to vet.
    catalog : Catalog
        Where verdicts go.
    user : str
        Whose they are.

    Returns
    -------
    panel.template.VanillaTemplate
    """
    state = VettingState(run.ranked, catalog, run_id=run.run_id, user=user, model_version=run.model_version)
    asked = {name: values[0].decode("utf-8", "replace") for name, values in (pn.state.session_args or {}).items()}
    theme = "dark" if asked.get("theme") == "dark" else "default"
    state.targetid = asked.get("targetid", state.targetid)
    template = _Page(title=f"AstroLab vetting · {run.run_id} · vetter: {user}", theme=theme)
    template.main.append(vetting_layout(state, run.ranking))
    if pn.state.location is not None:  # a reload, or a link, comes back to this object
        state.param.watch(lambda event: pn.state.location.update_query(targetid=event.new), "targetid")
    if pn.state.curdoc is not None:
        lost = CustomJS(code="document.body.classList.add('is-disconnected')")
        pn.state.curdoc.js_on_event("connection_lost", lost)
    return template


class _Page(VanillaTemplate):
    """A page that asks for nothing from elsewhere, light or dark as the person's system is."""

    _template = Path(__file__).parent / "page.html"
    _css: ClassVar[list] = []
    _resources: ClassVar[dict] = {"css": {}}


def _free_port(port):
    """Return the port, or a free one for 0; it is asked first, for the server would not say which one is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, after a restart
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} is in use, give another one, or 0 for a free one") from error
        return probe.getsockname()[1]
