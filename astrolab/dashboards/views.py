"""The parts of the vetting page: each a function of the one state, none knowing another."""

from html import escape
from urllib.parse import urlencode

import holoviews as hv
import numpy as np
import pandas as pd
import panel as pn
from bokeh.models.widgets.tables import NumberFormatter
from panel.custom import JSComponent

from astrolab.plots import plot_latent, plot_spectrum
from astrolab.plots.rankings import latent_positions, ranking_table
from astrolab.plots.style import SKY, VERMILLION

PAGE_SIZE = 20
LABEL_KEYS = {"a": "anomaly", "r": "regular", "u": "unsure", "x": "artefact"}
HELP = "Keys: n next · b previous · a anomaly · r regular · u unsure · x artefact · Ctrl+Z undo · Esc leave a field"

# the table in the page's own colours, light or dark
_TABLE_STYLE = """
.tabulator, .tabulator .tabulator-header, .tabulator .tabulator-header .tabulator-col, .tabulator .tabulator-footer,
.tabulator .tabulator-tableholder, .tabulator .tabulator-tableholder .tabulator-table, .tabulator-row {
  background: var(--panel-background-color) !important; color: var(--panel-on-background-color) !important;
  font-size: 12px;
}
.tabulator-row.tabulator-selected { background: #0072B2 !important; color: white !important; }
.tabulator-row:hover { outline: 1px solid #0072B2; }
.tabulator .tabulator-footer .tabulator-page {
  background: var(--panel-surface-color); color: var(--panel-on-background-color) !important;
}
.tabulator .tabulator-footer .tabulator-page.active { font-weight: 700; border: 2px solid #0072B2; }
"""
_LINK_STYLE = "a { color: inherit; } :host { overflow-wrap: anywhere; }"


class Keyboard(JSComponent):
    """Send the page's key strokes to Python, save those typed into a field; Esc leaves the field."""

    _esm = """
    export function render({ model }) {
      const on_key = (event) => {
        const target = event.composedPath()[0]
        if (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName ?? "")) {
          if (event.key === "Escape") target.blur()
          return
        }
        if (event.altKey || event.metaKey || event.repeat) return
        model.send_msg((event.ctrlKey ? "Ctrl+" : "") + event.key.toLowerCase())
        if (event.ctrlKey && event.key === "z") event.preventDefault()
      }
      document.addEventListener("keydown", on_key)
      model.on("remove", () => document.removeEventListener("keydown", on_key))
    }
    """

    def __init__(self, actions, **params):
        super().__init__(**params)
        self._actions = actions

    def _handle_msg(self, data):
        if data in self._actions:
            self._actions[data]()


def keyboard_view(state):
    """Return the invisible part that listens to keys."""
    actions = {key: lambda word=word: state.label(word) for key, word in LABEL_KEYS.items()}
    actions |= {"n": lambda: state.step(1), "b": lambda: state.step(-1), "Ctrl+z": state.undo}
    return Keyboard(actions, width=0, height=0, margin=0)


def table_view(state):
    """Return the ranked table; its selection is the current object."""
    table = state.table
    shown = pd.DataFrame({"rank": table["anomaly_rank"], "targetid": table["name"]})
    shown["label"] = [state.labels.get(row, "") for row in range(len(table))]
    shown["score"] = table["anomaly_score"].astype("float64")
    shown["z"] = table["redshift"].astype("float64")
    shown["S/N"] = table["snr"].astype("float64")
    shown["type"] = table["spectype"].astype(str).astype(object)
    shown["first reason"] = [first_reason(text) for text in table["reasons"]]
    widths = {"rank": 44, "targetid": 142, "label": 66, "score": 52, "z": 50, "S/N": 46, "type": 60}
    widget = pn.widgets.Tabulator(
        shown,
        show_index=False,
        disabled=True,
        selectable=1,
        pagination="remote",
        page_size=PAGE_SIZE,
        widths=widths | {"first reason": 420},
        formatters={
            "score": NumberFormatter(format="0.00"),
            "z": NumberFormatter(format="0.000"),
            "S/N": NumberFormatter(format="0.0"),
        },
        stylesheets=[_TABLE_STYLE],
        # no "tooltip": Tabulator would show a reason's text as HTML, and run what is in it
        configuration={"columnDefaults": {"headerSort": False}},
        sizing_mode="stretch_width",
        height=606,
        margin=0,
    )

    def follow_state(*_):
        widget.page = state.index // PAGE_SIZE + 1
        if widget.selection != [state.index]:
            widget.selection = [state.index]

    def follow_click(event):
        if event.new:
            state.index = event.new[0]
        else:
            widget.selection = [state.index]  # a click on the current row does not leave it

    def follow_labels(event):
        changed = [row for row in event.old.keys() | event.new.keys() if event.old.get(row) != event.new.get(row)]
        if changed:
            widget.patch({"label": [(row, event.new.get(row, "")) for row in changed]})

    state.param.watch(follow_state, "index")
    state.param.watch(follow_labels, "labels")
    widget.param.watch(follow_click, "selection")
    follow_state()
    return widget


def spectrum_view(state):
    """Return the spectrum card: plot and smoothing."""
    is_dark = pn.config.theme == "dark"

    def draw():
        figure = plot_spectrum(state.spectrum, smoothing=state.smoothing)
        if is_dark:
            figure = figure.opts(hv.opts.Curve("Curve.Flux", color=SKY), hv.opts.Curve("Curve.Residual", color=SKY))
        return figure

    pane = pn.pane.HoloViews(draw(), sizing_mode="stretch_width", margin=0, linked_axes=False)
    slider = pn.widgets.IntSlider.from_param(
        state.param.smoothing, label="Smoothing (pixels)", width=220, margin=(0, 10), format="0"
    )

    def redraw(*_):
        pane.object = draw()

    state.param.watch(redraw, ["index", "smoothing"])
    return pn.Column(pane, slider, sizing_mode="stretch_width", margin=0)


def facts_view(state):
    """Return what is known of the current object in words: reasons, position, and where to look further."""
    return pn.pane.HTML(
        pn.bind(lambda _: facts_html(state.current), state.param.index),
        sizing_mode="stretch_width",
        stylesheets=[_LINK_STYLE],
    )


def facts_html(row):
    """Return the facts of one object as HTML, its texts inert.

    Parameters
    ----------
    row : mapping
        A row of the ranking: ``reasons``, ``redshift``, ``snr``, ``ra``, ``dec`` (degrees, ICRS).

    Returns
    -------
    str
    """
    reasons = "".join(f"<li>{escape(clause)}</li>" for clause in str(row["reasons"]).split("; ") if clause)
    links = " · ".join(
        f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{name}</a>'
        for name, url in sky_links(row["ra"], row["dec"]).items()
    )
    facts = (
        f"z {_number(row['redshift'], '.4f')} · S/N {_number(row['snr'], '.1f')} · "
        f"RA {_number(row['ra'], '.5f')}° · Dec {_number(row['dec'], '+.5f')}°"
    )
    return f'<ul style="margin:0 0 6px;padding-left:18px">{reasons}</ul><div>{facts} · {links}</div>'


def sky_links(ra, dec):
    """Return pages of other services about a place on the sky.

    Parameters
    ----------
    ra, dec : float
        ICRS, degrees.

    Returns
    -------
    dict of str
        Name -> address; empty where the position is unknown.
    """
    if not np.isfinite([ra, dec]).all():
        return {}
    ra, dec = f"{ra:.6f}", f"{dec:+.6f}"
    legacy = {"ra": ra, "dec": dec, "layer": "ls-dr10", "zoom": 16, "mark": f"{ra},{dec}"}
    simbad = {"Coord": f"{ra} {dec}", "CooFrame": "ICRS", "Radius": 5, "Radius.unit": "arcsec"}
    return {
        "Legacy Survey": "https://www.legacysurvey.org/viewer?" + urlencode(legacy),
        "SIMBAD": "https://simbad.cds.unistra.fr/simbad/sim-coo?" + urlencode(simbad),
        "SDSS": "https://skyserver.sdss.org/dr18/VisualTools/quickobj?" + urlencode({"ra": ra, "dec": dec}),
    }


def first_reason(reasons):
    """Return the first clause of the reasons, the weightiest."""
    return str(reasons).split("; ")[0]


def latent_view(state, ranking=None):
    """Return the latent map, the current object marked; a tap goes to the nearest object that has a spectrum here.

    Parameters
    ----------
    state : VettingState
        The one state.
    ranking : pandas.DataFrame, optional
        Every ranked object (``ranking.parquet``); by default those of the state.
    """
    every = ranking_table(state.ranked if ranking is None else ranking)
    places, _ = latent_positions(every)
    places = places.set_index("name").reindex(state.table["name"])[["latent_x", "latent_y"]].to_numpy()
    here = hv.streams.Pipe(data=places[[state.index]])
    tap = hv.streams.Tap()

    def mark(data):
        ring = hv.Points(data, ["latent_x", "latent_y"])
        return ring.opts(size=16, fill_alpha=0, line_color=VERMILLION, line_width=3)

    def go_to(x, y):
        if x is not None and y is not None:
            state.index = nearest_row(places, x, y)

    ring = hv.DynamicMap(mark, streams=[here])
    tap.source = ring
    tap.add_subscriber(go_to)
    state.param.watch(lambda event: here.send(places[[event.new]]), "index")
    figure = (plot_latent(every) * ring).opts(
        hv.opts.Points(colorbar=False),
        hv.opts.Image(colorbar=False),
        hv.opts.Overlay(
            height=310,
            min_width=200,
            xlabel="latent component 1",
            ylabel="latent component 2",
            xticks=4,
            toolbar="above",
            title="Latent map by score: tap to go there",
            fontsize={"title": "9pt", "labels": "9pt", "ticks": "8pt"},
        ),
    )
    return pn.pane.HoloViews(figure, sizing_mode="stretch_width", margin=0)


def nearest_row(places, x, y):
    """Return the row of the place nearest to a point, as the eye sees it on a map that shows them all.

    Parameters
    ----------
    places : numpy.ndarray, shape (n_object, 2)
        Positions.
    x, y : float
        The point.

    Returns
    -------
    int
    """
    extent = np.maximum(np.ptp(places, axis=0), 1e-12)
    return int(np.argmin((((places - (x, y)) / extent) ** 2).sum(axis=1)))


def label_view(state):
    """Return what a verdict is given with: labels, comment, undo, next and previous, and what became of it."""
    buttons = [
        _button(f"{word.capitalize()} ({key})", lambda _, word=word: state.label(word))
        for key, word in LABEL_KEYS.items()
    ]
    steps = [
        _button("◀ Previous (b)", lambda _: state.step(-1)),
        _button("Next (n) ▶", lambda _: state.step(1), "primary"),
    ]
    comment = pn.widgets.TextInput.from_param(
        state.param.comment,
        label="Comment, stored with the next label",
        placeholder="what you see",
        sizing_mode="stretch_width",
    )
    undo = _button("Undo my last label (Ctrl+Z)", lambda _: state.undo())
    return pn.Column(
        pn.Row(*steps, sizing_mode="stretch_width", margin=0),
        pn.pane.HTML(pn.bind(_current_html, state.param.index, state.param.labels, state=state), margin=(2, 10)),
        comment,
        pn.Row(*buttons[:2], sizing_mode="stretch_width", margin=0),
        pn.Row(*buttons[2:], sizing_mode="stretch_width", margin=0),
        undo,
        pn.pane.HTML(pn.bind(_message_html, state.param.message, state.param.is_error), margin=(2, 10)),
        sizing_mode="stretch_width",
        margin=0,
    )


def progress_view(state):
    """Return how far this person is."""
    text = pn.bind(lambda labels: f"<b>{len(labels)} of {state.n_objects} labelled</b>", state.param.labels)
    return pn.pane.HTML(text, margin=(2, 10))


def help_view():
    """Return the line that tells the keys."""
    return pn.pane.HTML(f'<span style="opacity:.8">{HELP}</span>', margin=(2, 10))


def empty_view(run_id):
    """Return what to do where a ranking has no objects."""
    return pn.pane.HTML(
        f"<h3>There is nothing to vet in {escape(run_id)}</h3><p>The ranking holds no objects. Run "
        "<code>astrolab run rank_anomalies -p spectra_path STORE</code> on a store with spectra, then "
        "<code>astrolab vet RUN_DIR</code>.</p>",
        sizing_mode="stretch_width",
    )


def _button(label, on_click, color="default"):
    return pn.widgets.Button(
        label=label, color=color, on_click=on_click, sizing_mode="stretch_width", margin=(3, 5), height=34
    )


def _current_html(index, labels, state):
    word = labels.get(index)
    name = escape(state.current["name"])
    said = f"your label: <b>{escape(word)}</b>" if word else "no label yet"
    return f"#{state.current['anomaly_rank']} · {name} · <span id='current-label'>{said}</span>"


def _message_html(message, is_error):
    color = "#D55E00" if is_error else "#009E73"
    style = f"min-height:34px;overflow-wrap:anywhere;font-weight:600;color:{color}"
    return f'<div role="status" style="{style}">{escape(message)}</div>'


def _number(value, digits):
    return format(value, digits) if np.isfinite(value) else "unknown"
