"""The tables: this person's queue, the ranking, and what a re-ranking moved. Their selection is the object."""

import pandas as pd
import panel as pn
from bokeh.models.widgets.tables import NumberFormatter

from astrolab.dashboards.drawing import draw_once_built, draw_soon, one_message

PAGE_SIZE = 20

# in the page's own colours, light or dark
_STYLE = """
.tabulator, .tabulator .tabulator-header, .tabulator .tabulator-header .tabulator-col, .tabulator .tabulator-footer,
.tabulator .tabulator-tableholder, .tabulator .tabulator-tableholder .tabulator-table, .tabulator-row {
  background: var(--panel-background-color) !important; color: var(--panel-on-background-color) !important;
  font-size: 12px;
}
.tabulator, .tabulator-row, .tabulator-row .tabulator-cell, .tabulator .tabulator-header,
.tabulator .tabulator-header .tabulator-col, .tabulator .tabulator-footer { border-color: #7F858C66 !important; }
.tabulator-row.tabulator-selected { background: #0072B2 !important; color: white !important; }
.tabulator-row:hover { outline: 1px solid #0072B2; }
.tabulator .tabulator-footer .tabulator-page {
  background: var(--panel-surface-color); color: var(--panel-on-background-color) !important;
}
.tabulator .tabulator-footer .tabulator-page.active { font-weight: 700; border: 2px solid #0072B2; }
"""
_NUMBERS = {"score": "0.00", "z": "0.000", "S/N": "0.0", "χ²/n": "0.00"}


def queue_view(state):
    """Return this person's queue; rank and score are not shown, for they would mark what was drawn at random."""
    widths = {"#": 36, "targetid": 142, "verdict": 72, "z": 46, "S/N": 46, "type": 60, "first reason": 420}
    widget = data_table(_queue_rows(state), widths)

    def follow_state():
        places = state.places
        selection = [places.index(state.position)] if state.position in places else []
        if selection:
            widget.page = selection[0] // PAGE_SIZE + 1
        if widget.selection != selection:
            widget.selection = selection

    def follow_click(event):
        if not event.new:
            follow_state()  # a click on the current row does not leave it
        elif state.places[event.new[0]] != state.position:
            with one_message():
                state.position = state.places[event.new[0]]

    def follow_verdicts():
        # not by widget.patch: it takes the rows of a later page for those of the first
        widget.value["verdict"] = [said_in_short(state.verdicts.get(at)) for at in state.places]
        widget.param.trigger("value")

    def follow_order():
        widget.value = _queue_rows(state)
        follow_state()

    follows = {"position": follow_state, "verdicts": follow_verdicts, "order": follow_order, "chosen": follow_order}
    for name, follow in follows.items():
        state.param.watch(lambda _, follow=follow: draw_soon(follow, is_late=True), name)
    widget.param.watch(follow_click, "selection")
    draw_once_built(follow_state)  # a browser's table begins with its first page, whatever it is told
    return widget


def ranking_view(state):
    """Return the objects by rank, those that are chosen; a click goes to one."""

    def rows():
        return range(len(state.table)) if state.chosen is None else sorted(state.chosen)

    def shown():
        table = state.table.iloc[list(rows())].reset_index(drop=True)
        ranks = pd.DataFrame({"rank": table["anomaly_rank"], "targetid": table["name"]})
        ranks["score"] = table["anomaly_score"].astype("float64")
        return pd.concat([ranks, _facts(table)], axis=1)

    def follow_click(event):
        if event.new:
            with one_message():
                state.go_to_row(rows()[event.new[0]])

    widget = data_table(shown(), {"rank": 46, "targetid": 142, "score": 52, "z": 50, "S/N": 62})
    widget.param.watch(follow_click, "selection")
    state.param.watch(lambda _: draw_soon(lambda: widget.param.update(value=shown(), selection=[])), "chosen")
    return widget


def chosen_view(state):
    """Return how many objects the queue is narrowed to, which a click clears; nothing where it is not."""
    chip = pn.widgets.Button(
        label="clear",
        color="primary",
        on_click=lambda _: state.choose(None),
        visible=False,
        height=26,
        margin=(0, 8, 4, 8),
        css_classes=["chosen"],
    )

    def show():
        n_chosen = 0 if state.chosen is None else len(state.chosen)
        chip.param.update(label=f"{n_chosen} selected · clear", visible=state.chosen is not None)

    state.param.watch(lambda _: draw_soon(show), "chosen")
    return chip


def data_table(shown, widths, page_size=PAGE_SIZE, height=590):
    """Return a table to look at, a page at a time, one row to be selected.

    Parameters
    ----------
    shown : pandas.DataFrame
        Texts, and numbers; texts must be harmless.
    widths : dict of int
        Of columns, pixels.
    page_size, height : int, optional
        Rows a page; pixels.

    Returns
    -------
    panel.widgets.Tabulator
    """
    return pn.widgets.Tabulator(
        shown,
        show_index=False,
        disabled=True,
        selectable=1,
        pagination="remote",
        page_size=page_size,
        widths=widths,
        formatters={name: NumberFormatter(format=digits) for name, digits in _NUMBERS.items() if name in shown},
        stylesheets=[_STYLE],
        # no "tooltip": Tabulator would show a reason's text as HTML, and run what is in it
        configuration={"columnDefaults": {"headerSort": False}},
        sizing_mode="stretch_width",
        height=height,
        margin=0,
    )


def said_in_short(verdict):
    """Return a verdict in a word: its label, its quality."""
    if verdict is None:
        return ""
    quality = "" if verdict["quality"] is None else str(verdict["quality"])
    return " ".join(part for part in (verdict["label"], quality) if part) or "✓"


def first_reason(reasons):
    """Return the first clause of the reasons, the weightiest."""
    return str(reasons).split("; ")[0]


def _queue_rows(state):
    places = state.places
    table = state.table.iloc[[state.row_of[at] for at in places]].reset_index(drop=True)
    shown = pd.DataFrame({"#": range(1, len(table) + 1), "targetid": table["name"]})
    shown["verdict"] = [said_in_short(state.verdicts.get(at)) for at in places]
    return pd.concat([shown, _facts(table)], axis=1)


def _facts(table):
    return pd.DataFrame(
        {
            "z": table["redshift"].astype("float64"),
            "S/N": table["snr"].astype("float64"),
            "type": table["spectype"].astype(str).astype(object),
            "first reason": [first_reason(text) for text in table["reasons"]],
        }
    )
