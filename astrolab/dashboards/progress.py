"""How far people are, what the labels teach, and how much is still to be found."""

from functools import partial
from html import escape
from io import BytesIO

import numpy as np
import panel as pn

from astrolab.dashboards.drawing import draw_soon, html_view
from astrolab.dashboards.tables import data_table
from astrolab.stores.catalog import CatalogError
from astrolab.vetting.exchange import export_verdicts, verdict_table

EVERY = 20  # verdicts after which the queue is ranked again
_EXPORTS = {"csv": ".csv", "votable": ".vot", "fits": ".fits", "parquet": ".parquet", "prospect": "-prospect.csv"}


def progress_view(state):
    """Return how far this person is, and the button that ranks again."""

    def text(state):
        pace = f" · {np.median(state.seconds):.0f} s" if state.seconds else ""
        return f"<b>{len(state.verdicts)} of {len(state.order)} vetted</b>{pace}"

    again = pn.widgets.Button(
        label="Rank again (g)",
        on_click=lambda _: state.rank_again(),
        disabled=not state.may_write,
        description="Order what is left by what you said so far; every other place stays your own queue's.",
        width=105,
        height=26,
        margin=(0, 4),
    )
    by_itself = pn.widgets.Checkbox(
        label=f"every {EVERY}", value=state.may_write, disabled=not state.may_write, margin=(6, 2)
    )

    def learn(event):
        if by_itself.value and len(event.new) > len(event.old) and len(event.new) % EVERY == 0:
            draw_soon(state.rank_again)  # after the verdict's tick

    state.param.watch(learn, "verdicts")
    return pn.Row(
        html_view(state, ["verdicts"], text, margin=(6, 8), width=140),
        again,
        by_itself,
        height=32,
        margin=0,
    )


def learning_view(state):
    """Return what the last re-ranking moved, and why."""
    may_lead = state.session.role in ("lead", "admin")
    by_consensus = pn.widgets.Button(
        label="Rank again by what people agree on", on_click=lambda _: state.rank_again("consensus"), width=280
    )

    def moved(moves):
        if moves is None:
            return pn.pane.HTML(
                "<h3>Nothing is ranked again yet</h3><p>Label at least one anomaly (<kbd>a</kbd>) and one regular "
                "object (<kbd>r</kbd>) or artefact (<kbd>x</kbd>), then press <b>Rank again</b> (<kbd>g</kbd>). What "
                "is left of your queue then comes by the new ranking at every other place.</p>"
            )
        table = data_table(moves.drop(columns="row"), {"targetid": 160, "why": 420}, page_size=20)
        rows = moves["row"].tolist()
        table.param.watch(lambda event: event.new and state.go_to_row(rows[event.new[0]]), "selection")
        return pn.Column("The first of the new ranking; moved against the old one among these objects.", table)

    place = pn.Column(moved(state.moves), margin=0)

    def show():
        place[:] = [moved(state.moves)]

    state.param.watch(lambda _: draw_soon(show), "moves")
    return pn.Column(*([by_consensus] if may_lead else []), place)


def campaign_html(state):
    """Return progress, pace and the recall estimate of the campaign as HTML.

    Parameters
    ----------
    state : VettingState
        The one state.

    Returns
    -------
    str
    """
    try:
        progress, recall = state.session.progress(), state.session.recall()
    except CatalogError as error:
        return f"<h3>The catalog does not answer</h3><p>{escape(str(error))}</p><p>Press Refresh once it is back.</p>"
    found = f"{recall.n_found:,} {'anomaly' if recall.n_found == 1 else 'anomalies'} found"
    if np.isfinite(recall.recall):
        found += f", {recall.recall:.0%} of all (95 % interval {recall.recall_low:.0%} to {recall.recall_high:.0%})"
    pace = f"{np.median(state.seconds):.1f} s an object (median)" if state.seconds else "no verdict in this session yet"
    rows = {
        "Your verdicts": f"{progress.n_mine:,} of {progress.n_objects:,} objects ({progress.n_slots:,} places)",
        "Everybody's": f"{progress.n_vetted:,} of {progress.n_objects:,} objects have a verdict",
        "This session": f"{state.n_stored:,} stored, {pace}",
        "Anomalies": f"{found}, from {recall.n_audited:,} random objects",
        "May we stop?": recall.hint,
    }
    cells = "".join(
        f"<tr><th style='text-align:left;padding-right:24px'>{k}</th><td>{escape(v)}</td></tr>" for k, v in rows.items()
    )
    return f"<h3>Progress and recall</h3><table>{cells}</table>"


def campaign_view(state):
    """Return progress, pace and the recall estimate as last asked for, and the function that asks anew."""
    pane = pn.pane.HTML("", margin=(2, 10))
    refresh = pn.widgets.Button(
        label="Refresh", on_click=lambda _: pane.param.update(object=campaign_html(state)), width=100
    )
    view = pn.Column(pane, refresh, export_view(state), margin=0)
    return view, lambda: pane.param.update(object=campaign_html(state))


def export_view(state):
    """Return the buttons that download verdicts: a lead everyone's, a vetter their own; viewers are told why not."""
    if not state.may_write:
        return pn.pane.HTML("<h3>Export</h3><p>Viewers may not take verdicts along.</p>", margin=(2, 10))
    whose = "everyone's verdicts" if state.session.role in ("lead", "admin") else "your verdicts"
    message = pn.pane.HTML("", margin=(2, 10))

    def content(kind):
        try:
            return BytesIO(export_verdicts(verdict_table(state.session.verdicts_to_export()), kind))
        except CatalogError as error:
            message.object = f"<b style='color:#D55E00'>NOT exported: {escape(str(error))}</b>"
            raise

    buttons = [
        pn.widgets.FileDownload(
            callback=partial(content, kind), filename=f"verdicts{ending}", label=kind, width=105, margin=(2, 4)
        )
        for kind, ending in _EXPORTS.items()
    ]
    words = f"<h3>Export {whose}</h3><p>One row a verdict; <code>prospect</code> is DESI's VI table.</p>"
    return pn.Column(pn.pane.HTML(words, margin=(2, 10)), pn.Row(*buttons, margin=(0, 6)), message, margin=0)
