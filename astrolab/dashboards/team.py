"""For leads: whether people agree, and what to decide where they do not."""

from html import escape

import numpy as np
import panel as pn

from astrolab.dashboards.tables import data_table
from astrolab.stores.catalog import LABELS, CatalogError


def team_view(state):
    """Return the page of agreement and adjudication, and the function that reads it anew."""
    numbers, queue = pn.pane.HTML("", margin=(2, 10)), pn.Column(margin=0)
    message = pn.pane.HTML("", margin=(2, 10))

    def refresh(*_):
        try:
            numbers.object = agreement_html(state.session)
            queue[:] = _adjudication(state, message, refresh)
        except CatalogError as error:
            numbers.object = f"<h3>The catalog does not answer</h3><p>{escape(str(error))}</p>"

    button = pn.widgets.Button(label="Refresh", on_click=refresh, width=100)
    left = pn.Column(numbers, button, width=560, margin=0)
    return pn.Row(left, pn.Column(queue, message, margin=0), margin=0), refresh


def agreement_html(session):
    """Return how much people agree, as HTML.

    Parameters
    ----------
    session : astrolab.vetting.sessions.Session
        A lead's.

    Returns
    -------
    str
    """
    rows = "".join(
        f"<tr><td>{of}</td><td>{_alpha(found)}</td><td>{found.n_objects:,}</td><td>{found.n_vetters:,}</td></tr>"
        for of in ("label", "quality")
        for found in [session.agreement(of)]
    )
    head = "<tr><th>of</th><th>Krippendorff's α (95 % interval)</th><th>objects</th><th>people</th></tr>"
    kept = session.self_consistency()
    confusion = session.confusion().rename_axis(index="one says", columns="another says")
    again = "<p>Nobody has reached an object that is shown to them again.</p>"
    if len(kept):
        again = kept.to_html(border=0, index=False, escape=True, float_format="%.2f")
    return (
        f"<h3>Do people agree?</h3><table cellpadding='4'>{head}{rows}</table>"
        "<p>1 is perfect, 0 is chance. An object counts once two people have a verdict on it.</p>"
        f"<h3>Who says what against whom</h3>{confusion.to_html(border=0, escape=True)}"
        f"<h3>Do they agree with themselves?</h3>{again}"
    )


def _adjudication(state, message, refresh):
    table = state.session.adjudication_queue()
    if table.empty:
        return [pn.pane.HTML("<h3>To decide</h3><p>There is no object on which people disagree.</p>", margin=(2, 10))]
    shown = table.drop(columns="survey").assign(targetid=table["targetid"].astype(str))
    widget = data_table(shown, {"targetid": 160, "said": 320}, page_size=12, height=400)
    widget.selection = [0]

    def look(_):
        state.targetid = str(table["targetid"].iloc[widget.selection[0]])

    def decide(label):
        row = table.iloc[widget.selection[0]]
        try:
            said = state.session.adjudicate(int(row["targetid"]), label, survey=row["survey"])
        except (CatalogError, PermissionError, ValueError) as error:
            message.object = f"<b style='color:#D55E00'>NOT stored: {escape(str(error))}</b>"
            return
        message.object = f"<b style='color:#009E73'>decided ✓ {said.time:%H:%M:%S} UTC: {said.targetid}, {label}</b>"
        refresh()

    buttons = [
        pn.widgets.Button(label=f"It is: {label}", on_click=lambda _, label=label: decide(label), width=140)
        for label in LABELS
    ]
    return [
        pn.pane.HTML("<h3>To decide: people disagree</h3>", margin=(2, 10)),
        widget,
        pn.Row(*buttons, margin=0),
        pn.widgets.Button(label="Look at it on the first tab", on_click=look, width=220),
    ]


def _alpha(found):
    if not np.isfinite(found.alpha):
        return "not known yet"
    return f"{found.alpha:.2f} ({found.alpha_low:.2f} to {found.alpha_high:.2f})"
