"""Spectra of a selection, stacked: a bounded random sample is read from the store and averaged in the rest frame."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from html import escape
from typing import NamedTuple

import numpy as np
import panel as pn
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from astrolab.dashboards.drawing import draw_soon
from astrolab.plots.spectra import place_names
from astrolab.plots.style import BLUE, GREY, SKY
from astrolab.schema import OBJECT, WAVELENGTH, WAVELENGTH_REST, SchemaError, spectral_dim
from astrolab.spectra import normalize_flux, rest_grid, to_restframe
from astrolab.stores.publish import StoreError
from astrolab.stores.spectra import open_spectra

N_SPECTRA = 200
N_BLOCKS = 16  # of the store, which are read whole: 64 MB each in a survey of DESI's size
_LEAST = 3  # spectra that a pixel of the stack needs, where there are as many
_FIRST, _LAST, _N_PIXELS = 1000.0, 7500.0, 1500  # Å, of the grid where the run has none


class Stack(NamedTuple):
    """Spectra put together pixel by pixel.

    Attributes
    ----------
    flux : numpy.ndarray, shape (n_wavelength,)
        NaN where too few spectra have a good pixel.
    low, high : numpy.ndarray, shape (n_wavelength,)
        16th and 84th percentile of the spectra: their scatter, not the error of `flux`.
    n_spectra : numpy.ndarray, shape (n_wavelength,)
        Spectra with a good pixel.
    """

    flux: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_spectra: np.ndarray


def stack_spectra(flux, ivar, of="mean"):
    """Stack spectra on one grid.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Flux in units of each spectrum's own brightness, and its inverse variance; pixels with ``ivar == 0`` do not
        count.
    of : {"mean", "median"}, optional
        The mean is weighted by ivar, and so follows the best spectra; the median is not, and so does not.

    Returns
    -------
    Stack

    Examples
    --------
    >>> stack_spectra(np.array([[1.0, 2.0], [4.0, 9.0]]), np.array([[2.0, 1.0], [1.0, 0.0]])).flux
    array([2., 2.])
    """
    good = ivar > 0
    n_spectra = good.sum(axis=0)
    is_known = n_spectra >= min(_LEAST, max(len(flux), 1))
    if len(flux) <= _LEAST:
        is_known = n_spectra > 0
    masked = np.where(good, flux, np.nan)[:, is_known].astype("float64")
    line, low, high = (np.full(flux.shape[1], np.nan) for _ in range(3))
    if masked.size:
        low[is_known], middle, high[is_known] = np.nanpercentile(masked, [16, 50, 84], axis=0)
        weight = np.where(good, ivar, 0)[:, is_known].astype("float64")
        line[is_known] = middle if of == "median" else np.nansum(masked * weight, axis=0) / weight.sum(axis=0)
    return Stack(line, low, high, n_spectra)


def draw_sample(rows, block_size, *, n_spectra=N_SPECTRA, n_blocks=N_BLOCKS, seed=0):
    """Draw some rows of a store at random, from not too many of its blocks.

    The rows are shuffled; the first blocks that come up are the ones that are read, and of the rows in them the first
    that come up are taken. Where the rows lie in no more than `n_blocks` blocks this is a plain random sample.

    Parameters
    ----------
    rows : numpy.ndarray of int
        Of the selected objects, in the store.
    block_size : int
        Rows a block.
    n_spectra, n_blocks : int, optional
        At most so many.
    seed : int, optional
        The same seed draws the same rows.

    Returns
    -------
    numpy.ndarray of int
        Sorted.

    Examples
    --------
    >>> len(draw_sample(np.arange(10_000), 100, n_spectra=20, n_blocks=2))
    20
    """
    shuffled = np.random.default_rng(seed).permutation(np.sort(rows))
    blocks, first = np.unique(shuffled // block_size, return_index=True)
    read = blocks[np.argsort(first)[:n_blocks]]
    return np.sort(shuffled[np.isin(shuffled // block_size, read)][:n_spectra])


class StackSource:
    """Where the spectra of a survey are read from; every page of a server shares one.

    Parameters
    ----------
    spectra_path : str, optional
        The store that was ranked.
    ranked : xarray.Dataset, optional
        The strangest objects with their spectra: what is stacked where that store cannot be opened.

    Attributes
    ----------
    reader : concurrent.futures.ThreadPoolExecutor
        What reads: one stack at a time, and the pages go on meanwhile.
    """

    def __init__(self, spectra_path=None, ranked=None):
        self._path, self._ranked = spectra_path, ranked
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="stack")

    def read(self, targetid, seed=0):
        """Read a sample of some objects in the rest frame, each divided by its own brightness.

        Parameters
        ----------
        targetid : numpy.ndarray of int64
            The objects.
        seed : int, optional
            Of the sample.

        Returns
        -------
        rest : xarray.Dataset
            At most ``N_SPECTRA`` objects, dims ``(object, wavelength_rest)``, Å, in memory.
        words : str
            What they are a sample of.

        Raises
        ------
        StoreError
            If the spectra cannot be read, or there are none of these objects.
        """
        spectra, where = self._spectra
        rows = np.flatnonzero(np.isin(spectra["targetid"].values, targetid))
        if not len(rows):
            raise StoreError(f"none of the selected objects has a spectrum in {where}.")
        block_size = spectra["flux"].chunksizes[OBJECT][0] if spectra["flux"].chunks else len(spectra[OBJECT])
        taken = draw_sample(rows, block_size, seed=seed)
        some = spectra.isel({OBJECT: taken})
        some = some.drop_vars([name for name in some.data_vars if name not in ("flux", "ivar")]).load()
        if spectral_dim(some) == WAVELENGTH:
            some = to_restframe(some, self._grid)
        n_missing = len(targetid) - len(rows)
        of = f"{len(rows):,} selected" + (
            f" that have a spectrum in {where}; {n_missing:,} more have not" * (n_missing > 0)
        )
        if len(taken) == len(rows):
            return normalize_flux(some), f"all {of}"
        n_blocks = len(np.unique(taken // block_size))
        return normalize_flux(
            some
        ), f"a random {len(taken):,} (seed {seed}, from {n_blocks} block{'s' * (n_blocks > 1)}) of {of}"

    @cached_property
    def _spectra(self):
        reason = "the run does not say which store it ranked"
        if self._path is not None:
            try:
                return open_spectra(self._path), "the store"
            except StoreError as error:
                reason = str(error)
        if self._ranked is None:
            raise StoreError(f"there are no spectra to stack: {reason}")
        return self._ranked, "the run folder"

    @property
    def _grid(self):
        if self._ranked is not None and WAVELENGTH_REST in self._ranked.coords:
            return self._ranked[WAVELENGTH_REST].values
        return rest_grid(_FIRST, _LAST, _N_PIXELS)


class StackView:
    """The stack of the selection, read at a click.

    Parameters
    ----------
    state : ExplorerState
        The one state of this page.
    source : StackSource
        Of the spectra.
    """

    def __init__(self, state, source):
        self.state, self._source = state, source
        self._rest = self._words = None
        self.message = pn.pane.HTML("", margin=(4, 8))
        self.button = pn.widgets.Button(label="Stack these spectra", on_click=self.stack, width=150, margin=(2, 6))
        self.of = pn.widgets.RadioButtonGroup(
            options={"ivar-weighted mean": "mean", "median": "median"}, value="mean", width=240, margin=(2, 6)
        )
        self.pixels = ColumnDataSource({name: [] for name in ("x", "flux", "low", "high", "n")})
        self._lines = ColumnDataSource({name: [] for name in ("x", "at", "name", "y")})
        self.figure = self._make_figure()
        pane = pn.pane.Bokeh(self.figure, sizing_mode="stretch_width", margin=0)
        self._card = pn.Column(pane, sizing_mode="stretch_width", margin=0, visible=False)
        self.of.param.watch(lambda _: self._draw(), "value")
        state.param.watch(lambda _: draw_soon(self._say_state), "limits")
        self._say_state()
        self.view = pn.Column(
            pn.FlexBox(self.button, self.of, self.message, align_items="center", margin=0),
            self._card,
            sizing_mode="stretch_width",
            margin=0,
        )

    def stack(self, _=None):
        """Read a sample of the selection, in the background where there is a page to go on with, and draw it."""
        targetid = self.state.survey.targetid[self.state.keep]
        if not len(targetid):
            self._say_state()
            return
        self.button.disabled = True
        self.message.object = f"reading up to {N_SPECTRA} spectra …"
        document = pn.state.curdoc
        if document is None or document.session_context is None:
            self._finish(self._read(targetid))
            return

        def go_on(done):
            document.add_next_tick_callback(lambda: self._finish(done.result()))

        self._source.reader.submit(self._read, targetid).add_done_callback(go_on)

    def _read(self, targetid):
        try:
            return (*self._source.read(targetid), None)
        except (StoreError, SchemaError, OSError) as error:
            return None, None, f"<b>NOT stacked:</b> {escape(str(error))}"

    def _finish(self, found):
        self._rest, self._words, problem = found
        self.button.disabled = False
        self._stacked = self.state.limits
        if problem is None:
            self._draw()
            self._say_state()
        else:
            self._card.visible = False
            self.message.object = problem

    def _say_state(self):
        if not self.state.n_selected:
            self.button.disabled = True
            self.message.object = "Nothing is selected, so there is nothing to stack: undo, or clear the selection."
            return
        self.button.disabled = False
        if self._rest is None:
            self.message.object = (
                f"Reads up to {N_SPECTRA} random spectra of the {self.state.n_selected:,} selected objects."
            )
        elif self._stacked is not self.state.limits:
            self.message.object = "The selection has changed: this is the stack of the one before."
        else:
            self.message.object = ""

    def _draw(self):
        if self._rest is None:
            return
        rest = self._rest
        stack = stack_spectra(rest["flux"].values, rest["ivar"].values, self.of.value)
        known = np.isfinite(stack.flux)
        if not known.any():
            self.message.object = "The sample has no good pixel in common: select more objects."
            return
        x = rest[WAVELENGTH_REST].values[known]
        columns = {"flux": stack.flux, "low": stack.low, "high": stack.high, "n": stack.n_spectra}
        self.pixels.data = {"x": x} | {name: values[known] for name, values in columns.items()}
        low, high = np.percentile(stack.low[known], 1), np.percentile(stack.high[known], 99.5)
        room = 0.05 * (high - low)
        _set(self.figure.y_range, min(low - room, 0), high + 4 * room)
        _set(self.figure.x_range, float(x[0]), float(x[-1]))
        placed = place_names(float(x[0]), float(x[-1]), width=1000, only_major=True)
        self._lines.data = {
            "x": [one[0] for one in placed],
            "name": [one[1] for one in placed],
            "at": [one[2] for one in placed],
            "y": [0.92 - 0.07 * one[3] for one in placed],
        }
        words = {"mean": "Ivar-weighted mean", "median": "Median"}[self.of.value]
        self.figure.title.text = f"{words} of {self._words}"
        self._card.visible = True

    def _make_figure(self):
        one = figure(
            height=240,
            min_width=250,
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            tools="xpan,xbox_zoom,xwheel_zoom,reset,save",
            active_drag="xbox_zoom",
            x_axis_label="rest wavelength (Å, vacuum)",
            y_axis_label="flux / own median",
            sizing_mode="stretch_width",
        )
        one.toolbar.logo, one.toolbar.autohide = None, True
        one.title.text_font_size, one.axis.axis_label_text_font_size = "12px", "11px"
        one.grid.grid_line_alpha = 0.15
        one.extra_y_ranges = {"names": Range1d(0, 1)}
        color = SKY if pn.config.theme == "dark" else BLUE
        label = "16 to 84 % of the spectra"
        one.varea("x", "low", "high", source=self.pixels, fill_color=GREY, fill_alpha=0.4, legend_label=label)
        one.line("x", "flux", source=self.pixels, color=color, line_width=1.6, legend_label="stack")
        lines = {"source": self._lines, "y_range_name": "names"}
        one.segment("x", 0, "x", "y", line_color=GREY, line_dash="dotted", **lines)
        one.text("at", "y", "name", text_font_size="11px", text_color=GREY, text_align="center", **lines)
        legend = one.legend[0]
        legend.update(orientation="horizontal", padding=0, margin=0, background_fill_alpha=0, border_line_alpha=0)
        legend.update(label_text_font_size="11px", glyph_height=12, label_height=14)
        one.add_layout(legend, "above")
        return one


def _set(axis, start, end):
    axis.update(start=start, end=end, reset_start=start, reset_end=end)
