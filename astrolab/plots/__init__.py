"""Plots: HoloViews elements on the bokeh backend, returned and never shown."""

from astrolab.plots.changes import plot_rank_change
from astrolab.plots.explanations import plot_calibration, plot_explanation, plot_reason_gallery
from astrolab.plots.rankings import plot_history, plot_latent, plot_scores, ranking_table
from astrolab.plots.spectra import plot_gallery, plot_spectrum
from astrolab.plots.templates import plot_templates

__all__ = [
    "plot_calibration",
    "plot_explanation",
    "plot_gallery",
    "plot_history",
    "plot_latent",
    "plot_rank_change",
    "plot_reason_gallery",
    "plot_scores",
    "plot_spectrum",
    "plot_templates",
    "ranking_table",
]
