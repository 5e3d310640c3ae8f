"""The objects nearest in latent space, side by side."""

import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.layouts import row as bokeh_row
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from astrolab.dashboards.drawing import draw_soon
from astrolab.plots.spectra import covered_range, flux_range, smooth_flux
from astrolab.plots.style import BLUE, SKY, VERMILLION
from astrolab.stores.publish import StoreError

N_SHOWN = 4
_SMOOTHING = 2  # pixels


def neighbours_view(state):
    """Return small plots of the nearest objects; a tap goes there."""
    color = SKY if pn.config.theme == "dark" else BLUE
    cells = [_Cell(state, color) for _ in range(N_SHOWN)]
    figures = bokeh_row(*(cell.figure for cell in cells), sizing_mode="stretch_width", spacing=4)
    pane = pn.pane.Bokeh(figures, sizing_mode="stretch_width", margin=0)

    def draw():
        rows, distances = state.spectra.neighbours(state.row, N_SHOWN)
        for cell, near, distance in zip(cells, rows, distances, strict=False):
            cell.draw(int(near), distance)

    draw()
    state.param.watch(lambda _: draw_soon(draw, pane), "position")
    return pn.Column(
        pn.pane.HTML("<b>Nearest in latent space</b> (σ apart; tap to go there)", margin=(0, 10), height=16),
        pane,
        margin=0,
    )


class _Cell:
    """One small figure, filled anew for each object."""

    def __init__(self, state, color):
        self._state, self._row = state, None
        self._source = ColumnDataSource({"x": [], "flux": [], "model": []})
        self.figure = figure(
            height=112,
            tools="",
            toolbar_location=None,
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            sizing_mode="stretch_width",
            min_border=4,
        )
        self.figure.title.text_font_size = "11px"
        self.figure.axis.major_label_text_font_size = "9px"
        self.figure.xaxis.ticker.desired_num_ticks = 3
        self.figure.yaxis.visible = False
        self.figure.line("x", "flux", source=self._source, color=color, line_width=0.9)
        self.figure.line("x", "model", source=self._source, color=VERMILLION, line_width=1.2)
        self.figure.on_event(Tap, self._go)

    def _go(self, _):
        if self._row is not None:
            self._state.go_to_row(self._row)

    def draw(self, row, distance):
        """Show one object, smoothed."""
        spectra, about = self._state.spectra, self._state.table.iloc[row]
        self._row = row
        redshift = f"z {about['redshift']:.3f}" if np.isfinite(about["redshift"]) else "no z"
        self.figure.title.text = f"{distance:.1f}σ · {about['spectype']} · {redshift}"
        try:
            pixels = spectra.spectrum(row)
        except (StoreError, OSError):
            self.figure.title.text = "cannot be read"
            return
        shown, _ = smooth_flux(pixels.flux, pixels.err, _SMOOTHING)
        model = np.full_like(shown, np.nan) if pixels.model is None else pixels.model
        self._source.data = {"x": pixels.wavelength, "flux": shown, "model": model}
        low, high, _ = flux_range(pixels.flux, pixels.err, pixels.model, n_rows=0)
        first, last = covered_range(pixels.wavelength, pixels.flux)
        self.figure.x_range.update(start=float(first), end=float(last))
        self.figure.y_range.update(start=low, end=high)
