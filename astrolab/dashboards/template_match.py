"""What does the object look like: the nearest archetypes, and how fast it moves against its neighbours in latent space.

It takes seconds, so it is done when asked for, beside the page, which goes on.
"""

from concurrent.futures import ThreadPoolExecutor
from html import escape

import numpy as np
import pandas as pd
import panel as pn
import xarray as xr

from astrolab.dashboards.drawing import draw_soon, one_message
from astrolab.dashboards.tables import data_table
from astrolab.redshift.matching import match_templates
from astrolab.schema import FLUX_UNIT, OBJECT, REQUIRED_COLUMNS, WAVELENGTH, SchemaError
from astrolab.stores.publish import StoreError

_N_KNOWN = 6
_WORKER = ThreadPoolExecutor(1, thread_name_prefix="templates")  # one at a time: people have the processors first
_EMPTY = "<p>Press <b>Match</b> (<kbd>p</kbd>): archetypes of every class, nearest known spectra, in seconds.</p>"


def match_view(state):
    """Return the matches of the object that is looked at; a click on one takes its redshift."""
    found, asked = {}, set()
    place = pn.Column(margin=0, sizing_mode="stretch_width")

    def show():
        table = found.get(state.row)
        if table is None:
            words = "<p>Matching …</p>" if state.row in asked else _EMPTY
        else:
            words = table if isinstance(table, str) else "<p>km/s: this object against the match. A click takes z.</p>"
        tables = [_match_table(state, table)] if isinstance(table, pd.DataFrame) else []
        place[:] = [pn.pane.HTML(words, margin=(2, 8)), *tables]

    def tell(row, table):
        found[row] = table
        draw_soon(show)

    def match(_):
        row, document = state.row, pn.state.curdoc
        if row in asked:
            return
        asked.add(row)
        show()
        if document is None or document.session_context is None:
            tell(row, find_matches(state.spectra, row))
            return
        task = _WORKER.submit(find_matches, state.spectra, row)
        # under the page's lock
        task.add_done_callback(lambda done: document.add_next_tick_callback(lambda: tell(row, done.result())))

    def act(event):
        with one_message():
            match(event)

    show()
    state.param.watch(lambda _: draw_soon(show, is_late=True), "position")
    state.param.watch(match, "asks_match")
    button = pn.widgets.Button(label="Match (p)", on_click=act, height=28, margin=(4, 8))
    return pn.Column(button, place, margin=0, sizing_mode="stretch_width")


def find_matches(spectra, row):
    """Match one object with archetypes, and with its neighbours in latent space.

    Parameters
    ----------
    spectra : astrolab.dashboards.cache.SpectrumCache
        The ranked objects.
    row : int
        Of the object.

    Returns
    -------
    pandas.DataFrame or str
        like, z, km/s (with its error), χ²: see `astrolab.redshift.matching.match_templates`; or HTML that says why not.
    """
    near, _ = spectra.neighbours(row, _N_KNOWN)
    try:
        one, known = _as_observed(spectra, [row], row), _as_observed(spectra, near, row)
        table = match_templates(one, known if len(near) else None)
    except (StoreError, OSError, SchemaError, ValueError) as error:
        return f"<p>It cannot be matched: {escape(str(error))}</p>"
    is_known = (table["kind"] == "spectrum").to_numpy()
    like = np.where(is_known, table["targetid"].astype(str), table["spectype"] + " " + table["subtype"].fillna(""))
    velocity = [f"{v:+.0f} ± {err:.0f}" for v, err in zip(table["velocity"], table["velocity_err"], strict=True)]
    columns = {"like": like.astype(object), "z": table["redshift"], "km/s": velocity}
    return pd.DataFrame(columns | {"χ²/n": table["chi2"] / table["n_good"]})


def _as_observed(spectra, rows, like):
    """Return objects in the observed frame; those that are at rest as they would be seen at the redshift of one."""
    table = spectra.table.iloc[list(rows)]
    redshift = float(np.nan_to_num(spectra.table["redshift"].iloc[like]))
    redshifts = table["redshift"].to_numpy("float64") if spectra.is_observed else np.full(len(table), redshift)
    pixels = [spectra.spectrum(int(row)) for row in rows]
    flux = np.array([np.nan_to_num(one.flux) for one in pixels], "float32")
    ivar = np.array([np.nan_to_num(one.err, nan=np.inf) ** -2.0 for one in pixels], "float32")
    names = [name for name in REQUIRED_COLUMNS if name != "redshift"]
    columns = {name: (OBJECT, table[name].to_numpy()) for name in names if name in table}
    columns["redshift"] = OBJECT, redshifts
    data = {"flux": ((OBJECT, WAVELENGTH), flux, {"units": FLUX_UNIT}), "ivar": ((OBJECT, WAVELENGTH), ivar)}
    return xr.Dataset(data, coords=columns | {WAVELENGTH: spectra.observed(redshift)})


def _match_table(state, table):
    widget = data_table(table, {"like": 142, "z": 50, "km/s": 104}, page_size=14, height=420)
    redshifts = table["z"].tolist()

    def take(event):
        if event.new:
            with one_message():
                state.redshift = round(redshifts[event.new[0]], 6)

    widget.param.watch(take, "selection")
    return widget
