"""The explorer's figures: latent map, sky, histograms. Each shows the selected objects over all of them, in grey."""

import math
from functools import partial

import numpy as np
import panel as pn
from bokeh.events import SelectionGeometry
from bokeh.models import (
    BasicTicker,
    BoxAnnotation,
    BoxSelectTool,
    ColorBar,
    ColumnDataSource,
    CustomJSHover,
    EqHistColorMapper,
    FixedTicker,
    HoverTool,
    LassoSelectTool,
    LinearColorMapper,
    LogColorMapper,
    LogTicker,
    NumeralTickFormatter,
    PanTool,
    Range1d,
    ResetTool,
    WheelZoomTool,
)
from bokeh.palettes import Cividis256, Viridis256
from bokeh.plotting import figure

from astrolab.dashboards.drawing import draw_soon
from astrolab.dashboards.explorer_grid import count_cells
from astrolab.dashboards.explorer_sky import map_order, pixel_density, sky_raster
from astrolab.dashboards.explorer_state import N_OBJECTS, Box, Lasso, column_words
from astrolab.plots.style import BLUE, GREY, SKY, VERMILLION

N_BINS = 60
_GREYS = [f"{GREY}{alpha:02x}" for alpha in range(0x38, 0xC0, 4)]  # the page's own ground shows through, light or dark
_MAP, _SKY_SHAPE = (210, 320), (160, 320)  # cells, y and x
_SPARSE = {2_000: 4, 200_000: 2}  # with fewer objects in view, cells so many times wider: one object stays visible
_IN_PIXEL = 5  # objects that a healpix pixel of the sky should hold, on average
_N_CORNERS = 500
_NOWHERE = {"x": [], "y": []}


class _View:
    """A figure that draws itself anew, under the page's lock, when the selection or what is in view changes."""

    def __init__(self, state, name, *, height, tools, **options):
        self.state, self.name = state, name
        self.figure = figure(
            height=height,
            min_width=250,
            sizing_mode="stretch_width",
            tools="",
            toolbar_location="above",
            output_backend="canvas",
            **options,
        )
        one = self.figure
        one.add_tools(*tools)
        one.toolbar.logo = None
        one.title.text_font_size, one.axis.axis_label_text_font_size = "12px", "11px"
        one.axis.major_label_text_font_size = "10px"
        one.grid.grid_line_alpha = 0.15
        one.on_event(SelectionGeometry, self._take)
        self.pane = pn.pane.Bokeh(one, sizing_mode="stretch_width", margin=0)
        state.param.watch(self.draw_soon, "limits")

    def draw_soon(self, *_):
        """Draw as soon as the page's lock allows."""
        draw_soon(self.draw, self.pane)

    def extent(self):
        """Return x_min, x_max, y_min, y_max of what is in view."""
        ranges = self.figure.x_range, self.figure.y_range
        return tuple(edge for axis in ranges for edge in sorted((float(axis.start), float(axis.end))))

    def _take(self, event):
        shape = drawn_shape(event.geometry)
        if event.final and shape is not None:
            self._limit(shape)

    def _limit(self, shape):
        self.state.limit(self.name, shape)


class _Raster(_View):
    """A map of cells: a zoom counts the objects in view anew, on the server."""

    def __init__(self, state, name, extent, palette, *, tools=(), **options):
        x_min, x_max, y_min, y_max = extent
        super().__init__(
            state,
            name,
            x_range=Range1d(x_min, x_max),
            y_range=Range1d(y_min, y_max),
            tools=[BoxSelectTool(renderers=[]), WheelZoomTool(), PanTool(), ResetTool(), *tools],
            **options,
        )
        one = self.figure
        one.toolbar.active_drag, one.toolbar.active_scroll = one.toolbar.tools[:2]
        nothing = np.zeros((1, 1), "float32")
        self.cells = ColumnDataSource(
            {"x": [0], "y": [0], "dw": [1], "dh": [1]} | {key: [nothing] for key in ("all", "kept", "value")},
            name=f"{name} cells",
        )
        self.mappers = {
            "linear": LinearColorMapper(palette),
            "logarithmic": LogColorMapper(palette),
            "equalised": EqHistColorMapper(palette),
        }
        for mapper in self.mappers.values():
            mapper.nan_color = "#00000000"
        self._greys = LogColorMapper(_GREYS, nan_color="#00000000", low_color="#00000000")
        place = {"x": "x", "y": "y", "dw": "dw", "dh": "dh", "source": self.cells}
        one.image("all", color_mapper=self._greys, **place)
        self._image = one.image("value", color_mapper=self.mappers["linear"], **place)
        self.bar = ColorBar(color_mapper=self.mappers["linear"], width=10, padding=4)
        self.bar.update(major_label_text_font_size="10px", background_fill_alpha=0)
        one.add_layout(self.bar, "right")
        self.brush = ColumnDataSource(dict(_NOWHERE))
        one.patch("x", "y", source=self.brush, fill_alpha=0, line_color=VERMILLION, line_width=2)
        for axis in (one.x_range, one.y_range):  # Bokeh's event of both comes half a second later
            axis.on_change("start", self._follow_view)
            axis.on_change("end", self._follow_view)

    def _follow_view(self, attr, old, new):
        draw_soon(self.draw, self.pane, is_late=True)  # many turns of a wheel are one count

    def draw(self, *_):
        """Count the objects in view, and show the counts and what was drawn."""
        extent = self.extent()
        if not all(map(math.isfinite, extent)) or extent[0] == extent[1] or extent[2] == extent[3]:
            return
        x, y, dw, dh = extent[0], extent[2], extent[1] - extent[0], extent[3] - extent[2]
        n_all, n_kept, value = self.count(extent)
        images = {"all": [n_all], "kept": [n_kept], "value": [value]}
        self.cells.data = {"x": [x], "y": [y], "dw": [dw], "dh": [dh]} | images
        some = n_all[n_all > 0]
        low, high = (float(some.min()), float(some.max())) if len(some) else (1.0, 2.0)
        self._greys.update(low=low, high=max(high, 2 * low))  # below low is no object: nothing is drawn
        self.brush.data = _outline(self.state.limits.get(self.name))

    def fit_colors(self, value, scale):
        """Set the limits of the colours; return the scale that can be shown."""
        known = value[np.isfinite(value)]
        if scale == "logarithmic":
            known = known[known > 0]
            scale = scale if len(known) else "linear"
        low, high = np.percentile(known, [2, 98]) if len(known) else (0, 1)
        high = high if high > low else low + (abs(low) or 1) * 1e-3
        mapper = self.mappers[scale]
        mapper.update(low=float(low), high=float(high))
        self._image.glyph.color_mapper = self.bar.color_mapper = mapper
        self.bar.ticker = LogTicker() if scale == "logarithmic" else BasicTicker(desired_num_ticks=5)
        return scale


class LatentMap(_Raster):
    """The latent map, coloured by the mean of a column over the selected objects of each cell."""

    def __init__(self, state):
        x, y, (x_label, y_label) = state.survey.places
        labels = {"x_axis_label": x_label, "y_axis_label": y_label}
        lasso = LassoSelectTool(renderers=[], continuous=False)
        super().__init__(state, "map", padded(x) + padded(y), Viridis256, height=330, tools=[lasso], **labels)
        tips = [("mean", "@value{custom}"), ("selected", "@kept of @all")]
        number = CustomJSHover(code="return Number.isFinite(value) ? value.toPrecision(4) : '–'")
        hover = HoverTool(renderers=[self._image], tooltips=tips, formatters={"@value": number}, visible=False)
        self.figure.add_tools(hover)
        state.param.watch(self.draw_soon, ["color", "scale"])
        self.draw()

    def count(self, extent):
        """Count the objects of each cell in view, and colour them."""
        state, survey = self.state, self.state.survey
        x, y, _ = survey.places
        is_density = state.color == N_OBJECTS
        value = x if is_density else survey.column(state.color)
        cells = count_cells(x, y, value, state.keep, extent, _MAP)
        n_in_view = int(cells.n_all.sum())
        for n, times in _SPARSE.items():
            if n_in_view < n:
                cells = count_cells(x, y, value, state.keep, extent, tuple(n // times for n in _MAP))
                break
        shown = _blank(cells.n_kept) if is_density else cells.mean
        words = "objects a cell" if is_density else f"mean {column_words(state.color)}"
        scale = self.fit_colors(shown, state.scale)
        fallen = "" if scale == state.scale else " (linear: no value is above 0)"
        self.figure.title.text = f"Map: {words}{fallen} · {n_in_view:,} in view"
        return cells.n_all, cells.n_kept, shown


class SkyMap(_Raster):
    """The density of objects on the sky, in healpix pixels."""

    def __init__(self, state):
        ra, dec = state.survey.column("ra"), state.survey.column("dec")
        extent = padded(ra, 0, 360)[::-1] + padded(dec, -90, 90)  # east is left
        labels = {"x_axis_label": "RA (deg)", "y_axis_label": "Dec (deg)"}
        super().__init__(state, "sky", extent, Cividis256, height=205, **labels)
        self.draw()

    def count(self, extent):
        """Count the objects of each healpix pixel in view."""
        survey = self.state.survey
        order = map_order(extent, _SKY_SHAPE[1])
        while order > 3 and survey.n_in_pixel(order) < _IN_PIXEL:  # less would be noise
            order -= 1
        every = sky_raster(survey.density(order), extent, _SKY_SHAPE, order)
        kept = every
        if self.state.limits:
            kept = sky_raster(pixel_density(survey.pixels[self.state.keep], order), extent, _SKY_SHAPE, order)
        self.fit_colors(kept, "logarithmic")
        self.figure.title.text = f"Sky: objects per deg² (nside {1 << order})"
        return every, kept, kept


class Histogram(_View):
    """How many objects have which value of a column; counts on a logarithmic axis."""

    def __init__(self, state, name, *, is_log=False):
        self._bins = partial(state.survey.bins, name, N_BINS, is_log)
        self.edges = state.survey.edges(name, N_BINS, is_log)
        axes = {"x_axis_type": "log" if is_log else "linear", "y_axis_type": "log"}
        super().__init__(
            state,
            name,
            height=165,
            tools=[BoxSelectTool(dimensions="width", renderers=[])],
            y_range=Range1d(0.5, 2),
            x_range=Range1d(float(self.edges[0]), float(self.edges[-1])),
            x_axis_label=column_words(name),
            y_axis_label="objects",
            **axes,
        )
        one = self.figure
        one.toolbar_location = None
        one.yaxis.formatter = NumeralTickFormatter(format="0a")
        if is_log:
            one.xaxis.formatter = NumeralTickFormatter(format="0.[00]")
        one.yaxis.ticker = FixedTicker(ticks=[10**power for power in range(9)])
        n_all = self._count(slice(None))
        one.y_range.end = 2.0 * max(n_all.max(initial=1), 1)
        bars = {"left": self.edges[:-1], "right": self.edges[1:], "all": n_all, "kept": n_all}
        self.bars = ColumnDataSource(bars, name=f"{name} bars")
        color = SKY if pn.config.theme == "dark" else BLUE
        bar = {"left": "left", "right": "right", "bottom": 0.5, "line_alpha": 0, "source": self.bars}
        one.quad(top="all", fill_color=GREY, fill_alpha=0.45, **bar)
        one.quad(top="kept", fill_color=color, **bar)
        self.brush = BoxAnnotation(visible=False, fill_alpha=0, line_color=VERMILLION, line_width=2, level="overlay")
        one.add_layout(self.brush)
        one.add_tools(HoverTool(tooltips=[("from", "@left"), ("to", "@right"), ("selected", "@kept of @all")]))
        self.draw()

    def draw(self, *_):
        """Count the selected objects of each bar."""
        state = self.state
        kept = self._count(state.keep) if state.limits else self.bars.data["all"]
        self.bars.data = dict(self.bars.data) | {"kept": kept}
        self.figure.title.text = f"{column_words(self.name)}: {kept.sum():,} of {self.bars.data['all'].sum():,}"
        limit = state.limits.get(self.name)
        self.brush.visible = limit is not None
        if limit is not None:
            self.brush.update(left=float(limit[0]), right=float(limit[1]))

    def _count(self, objects):
        return np.bincount(self._bins()[objects], minlength=N_BINS + 1)[:N_BINS]

    def _limit(self, shape):
        if isinstance(shape, Box):
            self.state.limit(self.name, (shape.x0, shape.x1))


def drawn_shape(geometry):
    """Return what a person drew on a figure.

    Parameters
    ----------
    geometry : dict
        Of Bokeh's event, from a browser: not to be trusted.

    Returns
    -------
    Box, Lasso or None
        None where it is nothing that encloses objects.

    Examples
    --------
    >>> drawn_shape({"type": "rect", "x0": 0, "x1": 2, "y0": 1, "y1": 3})
    Box(x0=0.0, x1=2.0, y0=1.0, y1=3.0)
    """
    try:
        if geometry["type"] == "rect":
            shape = Box(*(float(geometry[edge]) for edge in Box._fields))
            corners = shape
        else:
            x, y = ([float(value) for value in geometry[axis]] for axis in "xy")
            every = slice(None, None, max(1, len(x) // _N_CORNERS))
            shape = Lasso(tuple(x[every]), tuple(y[every]))
            corners = x + y
            if len(shape.x) < 3 or len(shape.x) != len(shape.y):
                return None
    except (KeyError, TypeError, ValueError):
        return None
    is_point = isinstance(shape, Box) and shape.x0 == shape.x1
    return None if is_point or not all(map(math.isfinite, corners)) else shape


def padded(values, low=-math.inf, high=math.inf):
    """Return the range of values with a little room on either side.

    Parameters
    ----------
    values : numpy.ndarray
        NaN do not count.
    low, high : float, optional
        Where the range ends at the latest.

    Returns
    -------
    tuple of float
    """
    known = values[np.isfinite(values)]
    first, last = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    room = 0.03 * (last - first) or 0.5
    return max(first - room, low), min(last + room, high)


def _blank(counts):
    """Return counts as float32, NaN where there is nothing: there the ground shows."""
    return np.where(counts > 0, counts, np.nan).astype("float32")


def _outline(shape):
    """Return the corners of what was drawn."""
    if shape is None:
        return dict(_NOWHERE)
    if isinstance(shape, Lasso):
        return {"x": list(shape.x), "y": list(shape.y)}
    return {"x": [shape.x0, shape.x1, shape.x1, shape.x0], "y": [shape.y0, shape.y0, shape.y1, shape.y1]}
