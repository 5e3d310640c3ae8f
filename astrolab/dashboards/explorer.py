"""The explorer: the whole survey on one page, with linked selection."""

import io
import json
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
import panel as pn
import xarray as xr

from astrolab.dashboards.drawing import draw_soon
from astrolab.dashboards.explorer_plots import Histogram, LatentMap, SkyMap
from astrolab.dashboards.explorer_stack import StackSource, StackView
from astrolab.dashboards.explorer_state import N_OBJECTS, SCALES, ExplorerState, Survey, column_words
from astrolab.dashboards.looks import FIELD, RANK_OTHERS, nothing_html
from astrolab.plots.rankings import ranking_table
from astrolab.vetting.exchange import export_objects

pn.extension(inline=True)

EXPORTED = ("targetid", "survey", "program", "anomaly_rank", "anomaly_score", "redshift", "snr", "ra", "dec")
N_EXPORTED = 500_000  # a browser takes no larger file from a page
_N_LISTED = 5
_TABLE = """<style>
  a { color: #1E88C7 } .strangest { border-collapse: collapse; font-size: 12px; width: 100% }
  .strangest td, .strangest th { text-align: right; padding: 1px 6px; white-space: nowrap }
</style>"""
_CARD = {"flex": "1 1 330px", "min-width": "0"}  # beside each other where there is room, below each other where not


def explorer_app(ranked, *, spectra_path=None):
    """Make the page on which a person explores a whole survey: map, histograms, sky, linked selection, stacks.

    Parameters
    ----------
    ranked : xarray.Dataset, pandas.DataFrame or path-like
        What `rank_anomalies` gives; or every ranked object, ``ranking.parquet``, in memory or by its path, which may
        hold millions: then columns are read when they are looked at.
    spectra_path : str, optional
        The store of the spectra, so that those of a selection can be stacked; not needed for a Dataset.

    Returns
    -------
    panel.Column
        Shows itself in a notebook; ``.servable()`` under ``panel serve``.

    Raises
    ------
    ValueError
        If `ranked` is not a ranking.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> table = {"targetid": [1, 2, 3], "anomaly_score": [3.0, 2.0, 1.0], "anomaly_rank": [1, 2, 3]}
    >>> app = explorer_app(pd.DataFrame(table | {"redshift": [0.5, 1.0, 2.0]}))
    """
    if isinstance(ranked, xr.Dataset):
        return explorer_layout(ExplorerState(Survey(ranking_table(ranked))), StackSource(spectra_path, ranked))
    return explorer_layout(ExplorerState(Survey(ranked)), StackSource(spectra_path))


def open_survey(run_dir, ranked):
    """Open what the explorer shows of a run folder; nothing but the names of its columns is read yet.

    Parameters
    ----------
    run_dir : path-like
        The folder of a run of ``rank_anomalies``.
    ranked : xarray.Dataset
        Its strangest objects with their spectra: those that can be vetted.

    Returns
    -------
    survey : Survey
    source : StackSource
        Reads the store that was ranked, where ``run.json`` says which and it is still there.
    """
    inputs = json.loads((Path(run_dir) / "run.json").read_text()).get("inputs", [])
    paths = [one["path"] for one in inputs if one["parameter"] == "spectra_path"]
    survey = Survey(Path(run_dir) / "ranking.parquet", offered=ranked["targetid"].values)
    return survey, StackSource(paths[0] if paths else None, ranked)


def explorer_layout(state, source, vet_path=None):
    """Put the views of a selection together.

    Parameters
    ----------
    state : ExplorerState
        The one state of this page.
    source : StackSource
        Of the spectra.
    vet_path : str, optional
        The address of the vetting page, where there is one.

    Returns
    -------
    panel.Column
    """
    if not state.survey.n_objects:
        return pn.Column(
            pn.pane.HTML(
                nothing_html("There is nothing to explore", "The ranking holds no objects.", *RANK_OTHERS),
                sizing_mode="stretch_width",
            )
        )
    figures = pn.FlexBox(
        pn.Column(_map_view(state), styles=_CARD | {"flex": "2 1 400px"}, margin=0),
        pn.Column(
            _histogram_view(state, "redshift"),
            _histogram_view(state, "snr", is_log=True),
            styles=_CARD,
            margin=0,
        ),
        pn.Column(_sky_view(state), strangest_view(state, vet_path), styles=_CARD, margin=0),
        align_items="flex-start",
        sizing_mode="stretch_width",
        gap="8px",
        margin=0,
    )
    return pn.Column(
        _selection_bar(state),
        _limit_bar(state),
        figures,
        StackView(state, source).view,
        sizing_mode="stretch_width",
        margin=0,
    )


def _selection_bar(state):
    """Return how much is selected and by which limits, and what can be done with it."""
    count = pn.pane.HTML("", margin=(6, 8), styles={"flex": "1 1 300px"})
    undo = pn.widgets.Button(label="Undo", on_click=lambda _: state.undo(), width=70, margin=(2, 3))
    clear = pn.widgets.Button(label="Clear selection", on_click=lambda _: state.clear(), width=120, margin=(2, 3))
    downloads = [
        pn.widgets.FileDownload(
            label=f"Save as {words}",
            filename=f"selection.{kind}",
            callback=partial(selection_file, state, kind),
            width=130,
            margin=(2, 3),
        )
        for kind, words in (("csv", "CSV"), ("parquet", "Parquet"))
    ]

    def follow(*_):
        n = state.n_selected
        count.object = selection_html(state)
        undo.disabled, clear.disabled = not state.may_undo, not state.limits
        for download in downloads:
            download.disabled = not 0 < n <= N_EXPORTED

    state.param.watch(lambda _: draw_soon(follow), "limits")
    follow()
    return pn.FlexBox(count, undo, clear, *downloads, align_items="center", sizing_mode="stretch_width", margin=0)


def selection_html(state):
    """Return what is selected, as HTML; where that is nothing, what to do.

    Parameters
    ----------
    state : ExplorerState
        The one state.

    Returns
    -------
    str
    """
    n, n_objects = state.n_selected, state.survey.n_objects
    limits = escape("; ".join(state.words()))
    if not n:
        said = f"<b>Nothing is selected</b>: no object is within every limit ({limits}). Undo, or clear the selection."
    elif not state.limits:
        said = f"<b>{n:,} objects</b>, all selected: draw a box or a lasso on a map, or a range on a histogram."
    else:
        said = f"<b>{n:,} of {n_objects:,} objects</b> selected: {limits}"
    if n > N_EXPORTED:
        said += f" Up to {N_EXPORTED:,} can be saved."
    return f'<span role="status">{said}</span>'


def selection_file(state, format):  # noqa: A002 the word of the export
    """Return the selected objects as a file.

    Parameters
    ----------
    state : ExplorerState
        The one state.
    format : {"csv", "parquet"}
        Of the file.

    Returns
    -------
    io.BytesIO
        One row an object; targetid exact.
    """
    return io.BytesIO(export_objects(state.survey.rows(state.keep, EXPORTED), format))


def _limit_bar(state):
    """Return the controls of the map's colour, and of limits that are typed."""
    columns = {column_words(name): name for name in sorted(state.survey.columns)}
    color = pn.widgets.Select.from_param(
        state.param.color,
        label="Colour the map by",
        options={N_OBJECTS: N_OBJECTS} | columns,
        width=190,
        stylesheets=[FIELD],
    )
    scale = pn.widgets.Select.from_param(
        state.param.scale, label="Colour scale", options=list(SCALES), width=110, stylesheets=[FIELD]
    )
    first = "redshift" if "redshift" in state.survey.columns else state.survey.columns[0]
    name = pn.widgets.Select(label="Or type a limit on", options=columns, value=first, width=190, stylesheets=[FIELD])
    low, high = (
        pn.widgets.FloatInput(label=label, value=None, width=90, stylesheets=[FIELD]) for label in ("from", "to")
    )

    def act(_):
        ends = (float("-inf") if low.value is None else low.value, float("inf") if high.value is None else high.value)
        state.limit(name.value, None if low.value is None and high.value is None else ends)

    def follow(*_):
        limit = state.limits.get(name.value, (None, None))
        low.value, high.value = (None if end in (float("-inf"), float("inf")) else end for end in limit)

    button = pn.widgets.Button(label="Select", on_click=act, width=70, margin=(22, 5, 0, 5))
    name.param.watch(follow, "value")
    state.param.watch(lambda _: draw_soon(follow), "limits")
    return pn.FlexBox(color, scale, name, low, high, button, sizing_mode="stretch_width", margin=0)


def _map_view(state):
    if state.survey.places is None:
        return _instead("map", "the ranking has no latent vectors (latent_0, latent_1, …): rank again, they are kept")
    return LatentMap(state).pane


def _histogram_view(state, name, *, is_log=False):
    if name not in state.survey.columns or state.survey.edges(name, 60, is_log) is None:
        return _instead(f"histogram of {column_words(name)}", f"the ranking has no column {name} with a number in it")
    return Histogram(state, name, is_log=is_log).pane


def _sky_view(state):
    if state.survey.pixels is None or not (state.survey.pixels >= 0).any():
        return _instead("sky", "the ranking has no positions: ingest the survey with its columns ra and dec")
    return SkyMap(state).pane


def _instead(what, why):
    return pn.pane.HTML(f"<p><b>No {escape(what)}</b>: {escape(why)}.</p>", margin=(8, 10))


def strangest_view(state, vet_path):
    """Return the strangest of the selection, with the way to the vetting page.

    Parameters
    ----------
    state : ExplorerState
        The one state.
    vet_path : str or None
        The address of the vetting page, where there is one.

    Returns
    -------
    panel.pane.HTML
    """
    pane = pn.pane.HTML("", margin=(2, 8), sizing_mode="stretch_width")

    def follow(*_):
        pane.object = strangest_html(state, vet_path)

    state.param.watch(lambda _: draw_soon(follow), "limits")
    follow()
    return pane


def strangest_html(state, vet_path=None):
    """Return the strangest of the selected objects as HTML, with links to those that can be vetted.

    Parameters
    ----------
    state : ExplorerState
        The one state.
    vet_path : str, optional
        The address of the vetting page.

    Returns
    -------
    str
    """
    survey = state.survey
    rows = np.flatnonzero(state.keep)
    if not len(rows):
        return ""
    rank = survey.column("anomaly_rank")[rows]
    first = np.argsort(rank, kind="stable") if len(rows) <= _N_LISTED else np.argpartition(rank, _N_LISTED)[:_N_LISTED]
    first = rows[first[np.argsort(rank[first], kind="stable")]]
    shown = {"rank": [f"{rank:.0f}" for rank in survey.column("anomaly_rank")[first]]}
    is_offered = survey.is_offered[first] & (vet_path is not None)
    shown["targetid"] = [
        f'<a href="{vet_path}?targetid={targetid}">{targetid}</a>' if is_there else str(targetid)
        for targetid, is_there in zip(survey.targetid[first], is_offered, strict=True)
    ]
    for words, name, digits in (("z", "redshift", 3), ("S/N", "snr", 1), ("score", "anomaly_score", 1)):
        if name in survey.columns:
            shown[words] = [f"{value:z.{digits}f}" for value in survey.column(name)[first]]
    head = "".join(f"<th>{words}</th>" for words in shown)
    body = "".join(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>" for cells in zip(*shown.values(), strict=True))
    return f"{_TABLE}{_way_to_vetting(state, vet_path)}<table class='strangest'><tr>{head}</tr>{body}</table>"


def _way_to_vetting(state, vet_path):
    """Return the link that opens the selected objects in the vetting queue, or why there is none."""
    if vet_path is None:
        return "<b>The strangest of them</b>"
    survey = state.survey
    chosen = survey.targetid[state.keep & survey.is_offered]
    if not len(chosen):
        return (
            f"<b>The strangest of them.</b> None is among the {len(survey.offered):,} whose spectra this run kept for "
            "vetting."
        )
    address = f"{vet_path}?among={survey.hand_over(chosen)}" if state.limits else vet_path
    return f'<b>The strangest of them.</b> <a href="{address}">Vet the {len(chosen):,} with a spectrum here</a>'
