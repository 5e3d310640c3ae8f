"""The latent map: where the object lies among all."""

import holoviews as hv
import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource

from astrolab.dashboards.drawing import draw_soon
from astrolab.plots import plot_latent, ranking_table
from astrolab.plots.rankings import latent_positions
from astrolab.plots.style import VERMILLION


def latent_view(state, ranking=None):
    """Return the latent map, the current object marked; a tap goes to the nearest object that has a spectrum here.

    Parameters
    ----------
    state : VettingState
        The one state.
    ranking : pandas.DataFrame, optional
        Every ranked object (``ranking.parquet``); by default those of the state.
    """
    every = state.table if ranking is None else ranking_table(ranking)
    if not any(name.startswith("latent_") for name in every):
        return pn.pane.HTML("<p>This ranking has no latent vectors: there is no map.</p>", margin=(2, 10))
    places, _ = latent_positions(every)
    places = places.set_index("name").reindex(state.table["name"])[["latent_x", "latent_y"]].to_numpy()
    here = ColumnDataSource({"x": [], "y": []})
    options = {"height": 245, "min_width": 200, "xticks": 4, "toolbar": None, "colorbar": False}
    options |= {"xlabel": "latent component 1", "ylabel": "latent component 2"}
    options |= {"fontsize": {"title": "9pt", "labels": "8pt", "ticks": "8pt"}}
    options |= {"title": "Latent map by score: tap to go there"}
    figure = hv.render(plot_latent(every).opts(hv.opts.Points(**options), hv.opts.Image(**options)))
    figure.scatter("x", "y", source=here, size=16, fill_alpha=0, line_color=VERMILLION, line_width=3)
    figure.on_event(Tap, lambda event: state.go_to_row(nearest_row(places, event.x, event.y)))
    pane = pn.pane.Bokeh(figure, sizing_mode="stretch_width", margin=0)

    def mark():
        x, y = places[state.row]
        here.data = {"x": [x], "y": [y]}

    mark()
    state.param.watch(lambda _: draw_soon(mark, pane), "position")
    return pane


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
