"""When Bokeh's own models may be changed: under the lock of their page."""

import panel as pn


def draw_soon(draw, pane=None):
    """Call a function that changes Bokeh models as soon as the page's lock allows; at once where there is no server.

    Parameters
    ----------
    draw : callable
        Without arguments.
    pane : panel.pane.Bokeh, optional
        What holds the models: a notebook is told of the change.
    """
    document = pn.state.curdoc
    if document is not None and document.session_context is not None:
        document.add_next_tick_callback(draw)
        return
    draw()
    if pane is not None:
        pn.io.push_notebook(pane)
