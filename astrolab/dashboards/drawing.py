"""When the page is changed: all that one act of the person changes travels in one message, and only once.

A message costs milliseconds on either side, whatever is in it. So views do not draw when a parameter changes, but ask
to be drawn; what is asked for twice in an act is drawn once, at its end, with what the act changed itself. What a
person does not look at first (neighbours, map, tables) is drawn late, after the browser has painted the rest.
"""

from contextlib import contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import panel as pn

LATE_MS = 60  # a browser paints every 17 ms
_BUILT_MS = 700  # within this a browser has built a table, and before it none may be turned over

_ACTING = WeakKeyDictionary()  # document -> None: an act is under way
_SOON, _LATE = WeakKeyDictionary(), WeakKeyDictionary()  # document -> what is to be drawn, a dict of functions


@contextmanager
def one_message():
    """Send all that changes in the context as one message, what is drawn soon included."""
    document = _served_document()
    if document is None or document in _ACTING:
        yield
        return
    _ACTING[document] = None
    try:
        with pn.io.hold(document):
            try:
                yield
            finally:
                _draw_all(_SOON.pop(document, {}))
    finally:
        del _ACTING[document]


def draw_soon(draw, pane=None, *, is_late=False):
    """Call a function that changes the page at the end of the act that is under way; at once where there is no server.

    Parameters
    ----------
    draw : callable
        Without arguments; it is called once, however often it was asked for. It may change Bokeh's own models.
    pane : panel.pane.Bokeh, optional
        What holds the models: a notebook is told of the change.
    is_late : bool, optional
        After the browser has painted what is drawn soon.
    """
    document = _served_document()
    if document is None:
        draw()
        if pane is not None:
            pn.io.push_notebook(pane)
        return
    waiting = (_LATE if is_late else _SOON).setdefault(document, {})
    is_first = not waiting
    waiting[draw] = None
    if is_late and is_first:
        document.add_timeout_callback(partial(_draw, document, _LATE), LATE_MS)
    elif is_first and document not in _ACTING:
        document.add_next_tick_callback(partial(_draw, document, _SOON))


class _Words(pn.pane.HTML):
    """A pane whose text changes alone: Panel would send style sheets again, and the browser lay out the page anew."""

    priority = 0  # nobody else gets one

    def _update(self, ref, model):
        model.text = self._transform_object(self.object)["object"]


def html_view(state, names, words, **options):
    """Return a pane of HTML that follows some parameters.

    Parameters
    ----------
    state : VettingState
        The one state.
    names : list of str
        Its parameters.
    words : callable
        Takes the state, returns the HTML.
    **options
        Of `panel.pane.HTML`.

    Returns
    -------
    panel.pane.HTML
    """
    pane = _Words(words(state), **options)

    def write():
        pane.object = words(state)

    state.param.watch(lambda *_: draw_soon(write), names)
    return pane


def made_late(make, **options):
    """Return a place for a view that is made once the browser has painted the page: a person looks elsewhere first.

    Parameters
    ----------
    make : callable
        Without arguments; returns the view.
    **options
        Of `panel.Column`; its height keeps the rest of the page where it is.

    Returns
    -------
    panel.Column
        With the view in it at once where there is no server.
    """
    place = pn.Column(margin=0, **options)

    def fill():
        place.append(make())

    pn.state.onload(lambda: draw_soon(fill, is_late=True))
    return place


def draw_once_built(draw):
    """Call a function that changes a widget which is only now sent to the browser; at once where there is no server."""
    document = _served_document()
    if document is None:
        draw()
    else:
        document.add_timeout_callback(partial(_draw, document, {document: {draw: None}}), _BUILT_MS)


def _draw(document, waiting):
    with one_message():
        _draw_all(waiting.pop(document, {}))


def _draw_all(waiting):
    for draw in waiting:
        draw()


def _served_document():
    """Return the document of a page whose browser listens, or None."""
    document = pn.state.curdoc
    if document is None or document.session_context is None:
        return None
    return document
