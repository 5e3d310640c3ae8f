"""What a verdict is given with, and what became of it."""

from html import escape

import panel as pn

from astrolab.dashboards.drawing import html_view, one_message
from astrolab.dashboards.keyboard import LABEL_KEYS, QUALITIES
from astrolab.dashboards.looks import FIELD
from astrolab.dashboards.state import STANDARD_COMMENTS
from astrolab.dashboards.tables import said_in_short
from astrolab.stores.catalog import FLAGS, CatalogError

_SMALL = ".bk-btn { font-size: 11px !important; padding: 3px 5px !important; }"


def verdict_view(state):
    """Return the form: labels, quality, flags, class, comment, undo, next and previous; locked for viewers."""
    locked = not state.may_write
    steps = [
        _button("◀ Previous (b)", lambda _: state.step(-1)),
        _button("Next (n) ▶", lambda _: state.step(1), "primary"),
    ]
    labels = [
        _button(f"{word.capitalize()} ({key})", lambda _, word=word: state.store(label=word), disabled=locked)
        for key, word in LABEL_KEYS.items()
    ]
    qualities = [
        _button(key, lambda _, key=key: state.store(quality=int(key)), disabled=locked, description=words)
        for key, words in QUALITIES.items()
    ]
    undo = _button("Undo my last verdict (u)", lambda _: state.undo(), disabled=locked)
    return pn.Column(
        _row(steps),
        html_view(state, ["position", "verdicts"], _current_html, margin=(2, 10)),
        _row(labels[:2]),
        _row(labels[2:]),
        _heading("Quality: 0 no signal … 4 certain"),
        _row(qualities),
        *_said_with_it(state, locked),
        undo,
        html_view(state, ["message", "is_error"], _message_html, margin=(2, 10)),
        sizing_mode="stretch_width",
        margin=0,
    )


def _said_with_it(state, locked):
    """Return the fields of what goes with the next verdict."""
    wide = {"sizing_mode": "stretch_width", "disabled": locked, "margin": (2, 5)}
    flags = pn.widgets.CheckButtonGroup.from_param(
        state.param.flags, options=list(FLAGS), variant="outline", stylesheets=[_SMALL], **wide
    )
    tags = pn.widgets.CheckButtonGroup.from_param(
        state.param.tags,
        options=list(STANDARD_COMMENTS),
        variant="outline",
        stylesheets=[_SMALL],
        **wide,
    )
    spectype = pn.widgets.Select.from_param(
        state.param.spectype, label="Class, if another (c)", width=125, stylesheets=[FIELD]
    )
    spectype.options = {name or "as ranked": name for name in state.param.spectype.objects}
    spectype.disabled = locked
    comment = pn.widgets.TextInput.from_param(
        state.param.comment, label="Comment (/)", placeholder="what you see", css_classes=["field-comment"], **wide
    )
    return [
        _heading("With it: R bad z, C class, S spectrum"),
        flags,
        tags,
        pn.Row(spectype, comment, margin=0),
    ]


def _current_html(state):
    name = escape(state.current["name"])
    verdict = state.verdict
    if verdict is None:
        said = "no verdict yet" if state.may_write else "you may look, not vote"
        return f"<b>{name}</b> · <span id='current-verdict'>{said}</span>"
    row = state.current
    ranked = f"rank {row['anomaly_rank']}, score {row['anomaly_score']:.2f}"
    others = _others(state)
    return (
        f"<b>{name}</b> · <span id='current-verdict'>yours: <b>{escape(said_in_short(verdict))}</b></span>"
        f"<br><span style='font-size:12px'>{ranked}{' · ' + others if others else ''}</span>"
    )


def _others(state):
    """Say what others said, which the service tells only once one's own verdict is stored."""
    try:
        events = state.session.verdicts_at(state.position)
    except CatalogError as error:
        return escape(str(error))
    others = events[events["user"] != state.session.user]
    words = [
        f"{row['user']}: {said_in_short(row)}"
        for row in others.astype(object).where(others.notna(), None).to_dict("records")
    ]
    return escape("; ".join(words))


def _message_html(state):
    color = "#D55E00" if state.is_error else "#009E73"
    style = f"min-height:34px;overflow-wrap:anywhere;font-weight:600;color:{color}"
    return f'<div role="status" style="{style}">{escape(state.message)}</div>'


def _heading(text):
    return pn.pane.HTML(f"<span style='font-size:12px;opacity:.85'>{text}</span>", margin=(4, 10, 0, 10))


def _row(widgets):
    return pn.Row(*widgets, sizing_mode="stretch_width", margin=0)


def _button(label, on_click, color="default", **options):
    options = {"sizing_mode": "stretch_width", "margin": (2, 4), "height": 30} | options

    def act(event):
        with one_message():
            on_click(event)

    return pn.widgets.Button(label=label, color=color, on_click=act, **options)
