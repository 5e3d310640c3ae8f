"""The latent map: where the object lies among all; a shape drawn on it chooses what to vet.

Up to 20,000 objects are points; of more, each cell of a raster shows the largest score. What is drawn is made once, for
all pages of a server.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import panel as pn
from bokeh.events import SelectionGeometry, Tap
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d
from bokeh.plotting import figure

from astrolab.dashboards.drawing import draw_soon, one_message
from astrolab.dashboards.explorer_grid import within_polygon
from astrolab.plots.rankings import N_POINTS_MAX, latent_positions
from astrolab.plots.style import ORANGE, VERMILLION

_SHAPE = 180, 240  # cells of the raster
_DRAWN = WeakKeyDictionary()  # spectra -> what their map shows


class _Drawn(NamedTuple):
    """What a map shows of all objects; `places` are those of the rows that have spectra."""

    x: np.ndarray
    y: np.ndarray
    score: np.ndarray
    places: np.ndarray


def latent_view(state, ranking=None):
    """Return the latent map, the current object marked; a tap goes to the nearest object that has a spectrum here.

    A box or a lasso chooses the objects within it: the queue then holds no others.

    Parameters
    ----------
    state : VettingState
        The one state.
    ranking : pandas.DataFrame, optional
        Every ranked object (``ranking.parquet``); by default those of the state.
    """
    if state.spectra not in _DRAWN:
        _DRAWN[state.spectra] = _drawn(state.table, state.table if ranking is None else ranking)
    drawn = _DRAWN[state.spectra]
    if drawn is None:
        return pn.pane.HTML("<p>This ranking has no latent vectors: there is no map.</p>", margin=(2, 10))
    here, chosen = (ColumnDataSource({"x": [], "y": []}) for _ in range(2))
    one = _figure(drawn)
    one.scatter("x", "y", source=chosen, size=5, color=ORANGE, line_alpha=0)
    one.scatter("x", "y", source=here, size=16, fill_alpha=0, line_color=VERMILLION, line_width=3)
    pane = pn.pane.Bokeh(one, sizing_mode="stretch_width", margin=0)

    def mark():
        x, y = drawn.places[[state.row]].T
        here.data = {"x": x, "y": y}

    def mark_chosen():
        x, y = drawn.places[sorted(state.chosen or ())].T
        chosen.data = {"x": x, "y": y}

    def go(event):
        with one_message():
            state.go_to_row(nearest_row(drawn.places, event.x, event.y))

    def choose(event):
        if event.final:
            with one_message():
                state.choose(rows_within(drawn.places, event.geometry))

    mark()
    one.on_event(Tap, go)
    one.on_event(SelectionGeometry, choose)
    state.param.watch(lambda _: draw_soon(mark, pane, is_late=True), "position")
    state.param.watch(lambda _: draw_soon(mark_chosen, pane, is_late=True), "chosen")
    words = "<b>Map by score</b>: tap to go, drag to choose"
    return pn.Column(pn.pane.HTML(words, margin=(2, 10, 0, 10), height=16), pane, margin=0, sizing_mode="stretch_width")


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


def rows_within(places, geometry):
    """Return the rows of the places that a drawn shape encloses.

    Parameters
    ----------
    places : numpy.ndarray, shape (n_object, 2)
        Positions.
    geometry : dict
        As Bokeh tells of a selection: ``type`` ``"rect"`` with x0, x1, y0, y1, or ``"poly"`` with lists x, y.

    Returns
    -------
    numpy.ndarray of int
        None of them for another kind of shape, which only a forged message has.

    Examples
    --------
    >>> import numpy as np
    >>> rows_within(np.array([[0.0, 0.0], [2.0, 2.0]]), {"type": "rect", "x0": 1, "x1": 3, "y0": 1, "y1": 3})
    array([1])
    """
    x, y = np.ascontiguousarray(places.T, dtype="float32")
    if geometry.get("type") == "rect":
        x0, x1, y0, y1 = (geometry[edge] for edge in ("x0", "x1", "y0", "y1"))
        return np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
    if geometry.get("type") == "poly":
        return np.flatnonzero(within_polygon(x, y, np.asarray(geometry["x"], "f4"), np.asarray(geometry["y"], "f4")))
    return np.array([], int)


def _drawn(table, every):
    latent = [name for name in every if name.startswith("latent_")]
    if not latent:
        return None
    every, _ = latent_positions(every[["targetid", "anomaly_rank", "anomaly_score", *latent]])
    places = every.set_index("targetid")[["latent_x", "latent_y"]].reindex(table["targetid"]).to_numpy()
    every = every.sort_values("anomaly_rank", ascending=False)  # the strangest are drawn last, on top
    return _Drawn(*(every[name].to_numpy("float32") for name in ("latent_x", "latent_y", "anomaly_score")), places)


def _figure(drawn):
    low, high = np.nanpercentile(drawn.score, [2, 98]) if len(drawn.score) else (0, 1)
    colors = LinearColorMapper("Viridis256", low=float(low), high=float(high), nan_color="rgba(0, 0, 0, 0)")
    x, y = (_padded(values) for values in (drawn.x, drawn.y))
    one = figure(
        height=225,
        x_range=Range1d(*x),
        y_range=Range1d(*y),
        tools="box_select,lasso_select,pan,wheel_zoom,reset",
        active_drag="box_select",
        toolbar_location="right",
        sizing_mode="stretch_width",
        min_border=2,
        x_axis_label="latent component 1",
        y_axis_label="latent component 2",
    )
    one.toolbar.logo = None
    one.axis.axis_label_text_font_size = one.axis.major_label_text_font_size = "8pt"
    one.axis.ticker.desired_num_ticks = 4
    if len(drawn.x) > N_POINTS_MAX:
        size = {"x": x[0], "y": y[0], "dw": x[1] - x[0], "dh": y[1] - y[0]}
        one.image(image=[_largest_scores(drawn, x, y)], color_mapper=colors, **size)
        return one
    points = ColumnDataSource({"x": drawn.x, "y": drawn.y, "score": drawn.score})
    color = {"field": "score", "transform": colors}
    dots = one.scatter("x", "y", source=points, size=6 if len(drawn.x) < 2000 else 3, color=color, line_alpha=0)
    dots.nonselection_glyph = None  # what is chosen is marked by the server
    return one


def _padded(values):
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if len(values) else (0.0, 1.0)
    edge = 0.04 * (high - low) or 1.0
    return low - edge, high + edge


def _largest_scores(drawn, x, y):
    """Return the largest score in each cell of the raster, NaN where there is no object."""
    column, row = (
        np.clip(((values - low) / (high - low) * n).astype(int), 0, n - 1)
        for values, (low, high), n in zip((drawn.x, drawn.y), (x, y), _SHAPE[::-1], strict=True)
    )
    cells = np.full(_SHAPE, -np.inf, "float32")
    np.maximum.at(cells, (row, column), drawn.score)
    return np.where(np.isfinite(cells), cells, np.nan)
