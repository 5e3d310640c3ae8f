"""The spectrum card: figures that stay, and data sources that are filled anew for each object.

What changes from object to object is data, and nothing that a figure would be laid out anew for: its title stands above
it, as text.
"""

import textwrap
from html import escape

import numpy as np
import panel as pn
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, HoverTool, Label, Legend, LegendItem, Range1d
from bokeh.plotting import figure

from astrolab.dashboards.arms import ARMS
from astrolab.dashboards.drawing import draw_soon, html_view
from astrolab.dashboards.looks import FIELD
from astrolab.dashboards.thinning import thinned_rows
from astrolab.plots.spectra import covered_range, flux_range, masked_runs, place_names, smooth_flux
from astrolab.plots.style import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION
from astrolab.stores.publish import StoreError

HEIGHT, HEIGHT_RESIDUAL = 268, 125
_ROW = 0.062  # of the height: a row of line names
PURPLE = "#CC79A7"  # Okabe and Ito's too
_AROUND_LINE = 0.04  # of its wavelength: what a zoom on a line shows on either side
_EDGES = {"min_border_left": 62, "min_border_right": 10}


def spectrum_view(state):
    """Return the spectrum card: flux with 1 sigma, masks, reconstruction, residual, line names, and their controls."""
    card = _Card(state)
    title = html_view(state, ["position", "redshift"], _title, margin=(0, 10), height=17)
    return pn.Column(title, card.pane, _controls(state), sizing_mode="stretch_width", margin=0)


class _Card:
    """The two figures of one page."""

    def __init__(self, state):
        self._state, self._auto, self._frame = state, (0.0, 1.0), None
        self._x, self._seen, self._sent = (
            np.array([]),
            None,
            None,
        )  # wavelengths, `Pixels`, the view that has them in full
        color = SKY if pn.config.theme == "dark" else BLUE
        self._pixels = ColumnDataSource({name: np.array([]) for name in ("x", "flux", "low", "high", "model")})
        self._residuals = ColumnDataSource({name: np.array([]) for name in ("x", "residual")})
        self._masks, self._regions = (ColumnDataSource({"x0": [], "x1": [], "text": []}) for _ in range(2))
        self._lines = ColumnDataSource({name: [] for name in ("x", "name", "at", "y")})
        self._arms = {arm: ColumnDataSource({"x": np.array([]), "flux": np.array([])}) for arm in ARMS}
        self._x_range = Range1d(0, 1)
        self._flux = self._flux_figure(color)
        self._residual = self._residual_figure(color)
        for renderer in (*self._flux.renderers, *self._residual.renderers):  # nothing is selected here, or muted
            renderer.update(nonselection_glyph=None, muted_glyph=None)
        self.pane = pn.pane.Bokeh(
            column(self._flux, self._residual, sizing_mode="stretch_width", spacing=0),
            sizing_mode="stretch_width",
            margin=0,
        )
        self.draw()
        watch = {self.draw: ["position", "redshift", "is_observed"], self._fill_flux: ["smoothing"]}
        watch |= {self._ask_arms: ["position", "with_arms"]}
        watch |= {self._show_parts: ["with_lines", "with_model", "with_masks"], self._zoom_on_line: ["line"]}
        for act, names in watch.items():
            soon = self._soon(act)
            state.param.watch(soon, names, onlychanged=names != ["line"])  # "the whole spectrum" also where it is named
        for edge in ("start", "end"):
            self._x_range.on_change(edge, lambda attr, old, new: draw_soon(self._refine, self.pane, is_late=True))

    def _figure(self, height, **options):
        one = figure(
            height=height,
            x_range=self._x_range,
            y_range=Range1d(0, 1),
            tools="xpan,xbox_zoom,box_zoom,xwheel_zoom,reset,save",
            active_drag="box_zoom",
            toolbar_location="right",
            sizing_mode="stretch_width",
            **_EDGES,
            **options,
        )
        one.toolbar.logo = None
        one.toolbar.autohide = True
        one.vstrip(
            x0="x0", x1="x1", source=self._regions, fill_color=ORANGE, fill_alpha=0.25, line_alpha=0, name="named"
        )
        one.vstrip(x0="x0", x1="x1", source=self._masks, fill_color=GREY, fill_alpha=0.3, line_alpha=0, name="masks")
        return one

    def _flux_figure(self, color):
        one = self._figure(HEIGHT)
        one.axis.axis_label_text_font_size = "11px"
        one.yaxis.axis_label = self._state.spectra.flux_label
        one.extra_y_ranges = {"names": Range1d(0, 1)}
        band = one.varea("x", "low", "high", source=self._pixels, fill_color=GREY, fill_alpha=0.4)
        flux = one.step("x", "flux", source=self._pixels, color=color, line_width=1.1, mode="center", name="flux")
        arms = [
            one.step(
                "x", "flux", source=self._arms[arm], color=own, line_width=1.1, mode="center", name=f"{arm.lower()} arm"
            )
            for arm, own in zip(ARMS, (color, PURPLE, GREEN), strict=True)
        ]
        model = one.line("x", "model", source=self._pixels, color=VERMILLION, line_width=1.8, name="model")
        lines = {"source": self._lines, "name": "lines", "y_range_name": "names"}
        one.segment("x", 0, "x", "y", line_color=GREY, line_dash="dotted", **lines)
        font = {"text_font_size": "11px", "text_color": GREY, "text_align": "center", "text_baseline": "bottom"}
        one.text("at", "y", "name", **font, **lines)
        named, masks = (one.select_one({"name": name}) for name in ("named", "masks"))
        one.add_tools(HoverTool(renderers=[named], tooltips=[("named region", "@text")]))
        items = [("flux", flux), ("1σ", band), ("reconstruction", model), ("masked", masks), ("made the score", named)]
        items[1:1] = [(what.name, what) for what in arms]
        legend = Legend(items=[LegendItem(label=label, renderers=[what]) for label, what in items])
        legend.update(orientation="horizontal", padding=0, margin=0, border_line_alpha=0, background_fill_alpha=0)
        legend.update(label_text_font_size="11px", glyph_height=12, label_height=14, spacing=10)
        one.add_layout(legend, "above")
        self._problem = Label(
            x=20, y=110, x_units="screen", y_units="screen", text_font_size="13px", text_color=VERMILLION
        )
        one.add_layout(self._problem)
        self._legend = legend
        self._coadd, self._by_arm = legend.items[0], legend.items[1:4]
        for item, renderer in zip(self._by_arm, arms, strict=True):
            item.visible = renderer.visible = False
        one.xaxis.major_label_text_alpha = 0
        one.xaxis.major_label_text_font_size = "1px"
        return one

    def _residual_figure(self, color):
        one = self._figure(HEIGHT_RESIDUAL)
        one.yaxis.axis_label = "residual (σ)"
        one.axis.axis_label_text_font_size = "11px"
        one.hspan(y=[-3, 3], line_color=VERMILLION, line_dash="dashed")
        one.hspan(y=[0], line_color=GREY)
        one.step("x", "residual", source=self._residuals, color=color, line_width=0.8, mode="center", name="residual")
        return one

    def _soon(self, act):
        return lambda *_: draw_soon(act, self.pane)

    def draw(self):
        """Fill the figures with the object that is looked at."""
        state = self._state
        try:
            self._seen = state.spectra.spectrum(state.row)
        except (StoreError, OSError) as error:
            self._seen, self._frame = None, None
            self._problem.text = textwrap.fill(f"This spectrum cannot be read: {error}", 80)
            for source in (self._pixels, self._residuals):
                source.data = {name: np.array([]) for name in source.data}
            return
        self._problem.text = ""
        if self._frame != state.is_observed:
            self._x_range.update(start=self._auto[0], end=self._auto[1])  # a zoom in another frame means nothing
            self._residual.xaxis.axis_label = f"{'observed' if state.is_observed else 'rest'} wavelength (Å)"
            self._flux.yaxis.axis_label = state.spectra.flux_label
        self._frame = state.is_observed
        known = state.redshift is not None
        observed = state.spectra.observed(state.redshift_ranked)
        self._x = observed if state.is_observed else observed / (1 + (state.redshift if known else 0.0))
        self._fit_x_range(covered_range(self._x, self._seen.flux))
        self._fill_flux()
        self._fill_residual()
        starts, stops = masked_runs(self._x, self._seen.flux)
        self._masks.data = {"x0": starts, "x1": stops, "text": [""] * len(starts)}
        self._fill_regions(self._x[0] / observed[0])
        self._fill_lines(known)

    def _fit_x_range(self, covered):
        """Show all of the object, unless the person has zoomed: then the zoom stays."""
        span = self._auto[1] - self._auto[0]
        is_zoomed = abs(self._x_range.start - self._auto[0]) + abs(self._x_range.end - self._auto[1]) > 1e-6 * span
        self._auto = tuple(map(float, covered))
        self._x_range.update(reset_start=self._auto[0], reset_end=self._auto[1])
        if not is_zoomed:
            self._x_range.update(start=self._auto[0], end=self._auto[1])

    def _refine(self):
        """Send what the view needs in full, where it was zoomed or moved."""
        view = self._x_range.start, self._x_range.end
        if self._seen is not None and len(self._pixels.data["x"]) < len(self._x) and view != self._sent:
            self._fill_flux()
            self._fill_residual()

    def _fill_flux(self):
        x, pixels = self._x, self._seen
        if pixels is None:
            return
        shown, shown_err = smooth_flux(pixels.flux, pixels.err, self._state.smoothing)
        good = np.isfinite(shown)
        bridge = np.interp(x, x[good], shown[good]) if good.any() else np.zeros_like(x)  # a band knows no gaps
        half = np.where(good, shown_err, 0)
        model = np.full_like(x, np.nan) if pixels.model is None else pixels.model
        self._sent = self._x_range.start, self._x_range.end
        rows = thinned_rows(x, shown, *self._sent)
        columns = {"x": x, "flux": shown, "low": bridge - half, "high": bridge + half, "model": model}
        self._pixels.data = {name: column[rows].astype("float32") for name, column in columns.items()}
        self._fill_arms()
        is_seen = (x >= self._sent[0]) & (x <= self._sent[1])
        seen = is_seen if (is_seen & np.isfinite(pixels.flux)).sum() > 8 else slice(None)
        model = None if pixels.model is None else pixels.model[seen]
        low, high, _ = flux_range(pixels.flux[seen], pixels.err[seen], model, n_rows=0)
        _set_range(self._flux.y_range, low, low + (high - low) * 1.16)

    def _ask_arms(self):
        """Read the object's arms in the background, and draw them once they are there."""
        state = self._state
        if not state.with_arms or state.spectra.arms.known(state.row) or state.why_no_arms:
            self._fill_arms()
            return
        row, document = state.row, pn.state.curdoc
        done = state.spectra.prefetch_arms(row)
        if document is None or document.session_context is None:
            done.exception()
            self._fill_arms()
        else:
            tell = self._soon(self._fill_arms)
            done.add_done_callback(lambda _: document.add_next_tick_callback(lambda: row == state.row and tell()))

    def _fill_arms(self):
        """Show the arms, each smoothed by itself, in place of the coadd, where they are wanted and there."""
        state = self._state
        arms = state.spectra.arms.known(state.row) if state.with_arms and self._seen is not None else None
        state.why_no_arms = state.spectra.arms.why_not(state.row)
        self._coadd.visible = self._coadd.renderers[0].visible = arms is None
        for arm, item in zip(ARMS, self._by_arm, strict=True):
            item.visible = item.renderers[0].visible = arms is not None and arm in arms
            if item.visible:
                flux, _ = smooth_flux(*arms[arm], state.smoothing)
                rows = thinned_rows(self._x, flux, *self._sent)
                columns = {"x": self._x, "flux": flux}
                self._arms[arm].data = {name: column[rows].astype("float32") for name, column in columns.items()}

    def _fill_residual(self):
        x, pixels = self._x, self._seen
        residual = np.full_like(x, np.nan) if pixels.model is None else (pixels.flux - pixels.model) / pixels.err
        rows = thinned_rows(x, residual, *self._sent)
        self._residuals.data = {"x": x[rows].astype("float32"), "residual": residual[rows].astype("float32")}
        finite = np.abs(residual[np.isfinite(residual)])
        limit = max(5.0, min(30.0, float(np.quantile(finite, 0.995)) * 1.1)) if len(finite) else 5.0
        _set_range(self._residual.y_range, -limit, limit)

    def _fill_regions(self, scale):
        state = self._state
        to_x = scale * (1 + (state.redshift_ranked or 0))
        named = state.spectra.regions(state.row)
        columns = list(zip(*named, strict=True)) if named else [[], [], []]
        self._legend.items[-1].visible = bool(named)
        self._regions.data = {"x0": np.array(columns[0]) * to_x, "x1": np.array(columns[1]) * to_x, "text": columns[2]}

    def _fill_lines(self, known):
        state = self._state
        redshift = state.redshift if state.is_observed else 0.0
        placed = place_names(*self._auto, redshift) if known else []
        self._lines.data = {
            "x": [x for x, *_ in placed],
            "name": [name for _, name, *_ in placed],
            "at": [at for _, _, at, _ in placed],
            "y": [0.93 - _ROW * row for *_, row in placed],
        }

    def _show_parts(self, *_):
        parts = {"lines": self._state.with_lines, "model": self._state.with_model, "masks": self._state.with_masks}
        for one in (self._flux, self._residual):
            for name, is_shown in parts.items():
                for renderer in one.select({"name": name}):
                    renderer.visible = is_shown

    def _zoom_on_line(self):
        low, high = self._auto
        if self._state.line in self._lines.data["name"]:
            x = self._lines.data["x"][self._lines.data["name"].index(self._state.line)]
            low, high = x * (1 - _AROUND_LINE), x * (1 + _AROUND_LINE)
        self._x_range.update(start=low, end=high)
        self.draw()


def _controls(state):
    """Return the row of controls below the plot."""
    redshift = pn.widgets.FloatInput.from_param(
        state.param.redshift,
        label="Redshift (z)",
        step=0.001,
        format="0.00000",
        width=105,
        stylesheets=[FIELD],
        css_classes=["field-redshift"],
        margin=(0, 5),
    )
    buttons = [
        ("−", "redshift 300 km/s lower ([)", lambda _: state.step_redshift(-1), 30),
        ("+", "redshift 300 km/s higher (])", lambda _: state.step_redshift(1), 30),
        ("other z", "next redshift known of the object (v)", lambda _: state.next_redshift(), 64),
        ("reset", "back to the redshift that it was ranked at (e)", lambda _: state.reset_redshift(), 52),
    ]
    buttons = [
        pn.widgets.Button(label=label, description=about, on_click=act, width=width, height=30, margin=(17, 2))
        for label, about, act, width in buttons
    ]
    smoothing = pn.widgets.IntSlider.from_param(state.param.smoothing, label="Smooth (s, d)", width=96)
    parts = {"with_lines": "lines (l)", "with_masks": "masks (m)", "is_observed": "observed (o)"}
    parts |= {"with_model": "model (t)", "with_image": "image (i)"}
    toggles = [_box(state.param[name], label) for name, label in parts.items()]
    grid = pn.Column(
        pn.Row(*toggles[:3], margin=0), pn.Row(*toggles[3:], *_arms_control(state), margin=0), margin=(4, 0)
    )
    wrapped = {"flex-wrap": "wrap"}  # where the page is narrow, or enlarged
    return pn.Row(redshift, *buttons, smoothing, grid, margin=0, sizing_mode="stretch_width", styles=wrapped)


def _box(parameter, label):
    return pn.widgets.Checkbox.from_param(parameter, label=label, margin=(0, 4))


def _arms_control(state):
    """Return the box that asks for single arms, and why it is locked, where it is."""
    box = _box(state.param.with_arms, "arms (f)")

    def lock():
        box.disabled = bool(state.why_no_arms) and not state.with_arms

    def why(state):
        words = f"no single arms: {state.why_no_arms}"
        return f'<abbr title="{escape(words)}">why?</abbr>' if state.why_no_arms else ""

    lock()
    state.param.watch(lambda _: draw_soon(lock), ["why_no_arms", "with_arms"])
    return box, html_view(state, ["why_no_arms"], why, margin=0)


def _title(state):
    row, here = state.current, state.redshift
    parts = [row["name"], row["spectype"]]
    parts += [f"z = {row['redshift']:z.4f}" if np.isfinite(row["redshift"]) else "no redshift"]
    parts += [f"S/N {row['snr']:.1f}"] if np.isfinite(row["snr"]) else []
    text = "  ·  ".join(escape(part) for part in map(str, parts) if part)
    moved = "" if here is None or here == state.redshift_ranked else f"  ·  drawn at z = {here:.5g}"
    return f"<b style='font-size:13px;white-space:pre'>{text}{moved}</b>"


def _set_range(axis, start, end):
    axis.update(start=start, end=end, reset_start=start, reset_end=end)
