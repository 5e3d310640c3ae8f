"""The objects nearest in latent space, side by side in one figure: a figure costs a browser more than what is in it."""

import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from astrolab.dashboards.drawing import draw_soon
from astrolab.dashboards.thinning import thinned_rows
from astrolab.plots.spectra import covered_range, flux_range, smooth_flux
from astrolab.plots.style import BLUE, GREY, SKY, VERMILLION
from astrolab.stores.publish import StoreError

N_SHOWN = 4
_SMOOTHING = 2  # pixels
_COLUMNS = 150  # of the screen, that a spectrum has
_LEFT, _WIDE, _HIGH = 0.03, 0.94, 0.8  # of a cell


def neighbours_view(state):
    """Return small plots of the nearest objects; a tap goes there."""
    lines = ColumnDataSource({name: [] for name in ("x", "flux", "model")})
    words = ColumnDataSource({name: [] for name in ("x", "y", "text")})
    plot = _figure(lines, words)
    pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width", margin=0)
    shown = []

    def draw():
        rows, distances = state.spectra.neighbours(state.row, N_SHOWN)
        shown[:] = [int(row) for row in rows]
        cells = [_cell(state.spectra, row, place) for place, row in enumerate(shown)]
        if cells:
            columns = [np.concatenate(parts).astype("float32") for parts in zip(*cells, strict=True)]
            lines.data = dict(zip(("x", "flux", "model"), columns, strict=True))
        texts = [
            _words(state.table.iloc[row], distance) + "\ncannot be read" * (len(cell[0]) == 1)
            for row, distance, cell in zip(shown, distances, cells, strict=True)
        ]
        words.data = {"x": [place + _LEFT for place in range(len(shown))], "y": [0.99] * len(shown), "text": texts}

    def go(event):
        if 0 <= int(event.x) < len(shown):
            state.go_to_row(shown[int(event.x)])

    draw()
    plot.on_event(Tap, go)
    state.param.watch(lambda _: draw_soon(draw, pane, is_late=True), "position")
    return pn.Column(
        pn.pane.HTML("<b>Nearest in latent space</b> (σ apart; tap to go there)", margin=(0, 10), height=16),
        pane,
        margin=0,
    )


def _figure(lines, words):
    """Return the figure: a cell of width 1 for each object."""
    one = figure(
        height=112,
        tools="",
        toolbar_location=None,
        x_range=Range1d(0, N_SHOWN),
        y_range=Range1d(0, 1),
        sizing_mode="stretch_width",
        min_border=2,
        outline_line_alpha=0.4,
    )
    one.axis.visible = False
    one.grid.visible = False
    one.vspan(x=list(range(1, N_SHOWN)), line_color=GREY, line_alpha=0.4)
    one.line("x", "flux", source=lines, color=SKY if pn.config.theme == "dark" else BLUE, line_width=0.9)
    one.line("x", "model", source=lines, color=VERMILLION, line_width=1.2)
    one.text("x", "y", "text", source=words, text_font_size="11px", text_color=GREY, text_baseline="top")
    return one


def _cell(spectra, row, place):
    """Return x, flux and reconstruction of one object, smoothed, in the place of its cell; NaN ends the line."""
    nothing = np.full(1, np.nan)
    try:
        pixels = spectra.spectrum(row)
    except (StoreError, OSError):
        return nothing, nothing, nothing
    flux, _ = smooth_flux(pixels.flux, pixels.err, _SMOOTHING)
    model = np.full_like(flux, np.nan) if pixels.model is None else pixels.model
    low, high, _ = flux_range(pixels.flux, pixels.err, pixels.model, n_rows=0)
    first, last = covered_range(pixels.wavelength, pixels.flux)
    rows = thinned_rows(pixels.wavelength, flux, first, last, _COLUMNS)
    # the model has an opinion of what was not observed too, and it would run into the next cell
    rows = rows[(pixels.wavelength[rows] >= first) & (pixels.wavelength[rows] <= last)]
    x = place + _LEFT + _WIDE * (pixels.wavelength[rows] - first) / max(last - first, 1e-9)
    y = [_HIGH * (values[rows] - low) / (high - low) for values in (flux, model)]
    return [np.append(column, np.nan) for column in (x, *y)]


def _words(about, distance):
    redshift = f"z {about['redshift']:z.3f}" if np.isfinite(about["redshift"]) else "no z"
    return f"{distance:.1f}σ · {about['spectype']} · {redshift}"
