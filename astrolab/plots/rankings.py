"""Plots of a ranking and of the training behind it."""

import datashader as ds
import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import HoverTool
from holoviews.operation.datashader import rasterize
from scipy.stats import spearmanr

from astrolab.plots.style import BLUE, GREY, SIZE, VERMILLION, harmless
from astrolab.schema import OBJECT

N_POINTS_MAX = 20_000  # more than these are rasterised, so that a browser stays quick
_BLUES = ["#9DC3DD", BLUE, "#00466E"]  # few to many; seen on white and on black
N_NAMED = 500  # the strangest keep a point of their own, with their name on hover, over a rasterised map


def plot_latent(ranked, color="anomaly_score"):
    """Plot where objects lie in the latent space, on its first two principal components.

    Parameters
    ----------
    ranked : xarray.Dataset or pandas.DataFrame
        What `rank_anomalies` gives, with ``latent`` (object, latent_dim); or the table of a run (``ranking.parquet``),
        with columns ``latent_0``, ``latent_1``, …
    color : str, optional
        The number of each object that colours its point.

    Returns
    -------
    holoviews.Points or holoviews.Overlay
        One point an object, with targetid (as text: it does not fit a browser's number), rank and score on hover. Above
        20,000 objects a raster of the largest value in each cell, and points for the 500 strangest.

    Raises
    ------
    ValueError
        If there are no latent vectors, or `color` is not a number of each object.

    Examples
    --------
    >>> import astrolab as al
    >>> table = {"targetid": [1, 2, 3], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 2.0, 1.0]}
    >>> table |= {"latent_0": [3.0, 0.1, -0.1], "latent_1": [2.0, -0.2, 0.2]}
    >>> len(al.plot_latent(pd.DataFrame(table)))
    3
    """
    table = ranking_table(ranked)
    if color not in table or not pd.api.types.is_numeric_dtype(table[color]):
        numbers = ", ".join(name for name in table.select_dtypes("number") if name != "targetid")
        raise ValueError(f"color is {color!r}, expected a number of each object, one of: {numbers}.")
    table, labels = latent_positions(table)
    table = table.sort_values("anomaly_rank", ascending=False)  # the strangest are drawn last, on top
    kdims = [hv.Dimension("latent_x", label=labels[0]), hv.Dimension("latent_y", label=labels[1])]
    names = [name for name in ("redshift", "snr", "spectype") if name in table and name != color]
    vdims = list(dict.fromkeys([color, "name", "anomaly_rank", "anomaly_score", *names]))
    limits = tuple(np.nanpercentile(table[color], [2, 98])) if len(table) else (0, 1)
    style = {"cmap": "viridis", "colorbar": True, "clabel": _words(color), "clim": limits}
    style |= {"height": 420, **SIZE}

    def points(rows, size):
        dots = hv.Points(rows[[*[k.name for k in kdims], *vdims]], kdims, vdims)
        hover = HoverTool(tooltips=[(_words(name), f"@{name}") for name in vdims])
        return dots.opts(color=color, size=size, tools=[hover], alpha=0.85, line_color=GREY, line_width=0.5, **style)

    if len(table) <= N_POINTS_MAX:
        return points(table, size=6 if len(table) < 2_000 else 3).opts(title=_counted(table))
    every = hv.Points(table[["latent_x", "latent_y", color]], kdims, color)
    raster = rasterize(every, aggregator=ds.max(color), dynamic=False, width=700, height=420).opts(**style)
    return (raster * points(table.tail(N_NAMED), size=5)).opts(
        title=f"{_counted(table)}; the {N_NAMED} strangest as points"
    )


def plot_scores(ranked):
    """Plot the scores: how many objects have which, and whether they merely follow redshift or S/N.

    Parameters
    ----------
    ranked : xarray.Dataset or pandas.DataFrame
        What `rank_anomalies` gives, or the table of a run (``ranking.parquet``): ``anomaly_score``, ``redshift``,
        ``snr``.

    Returns
    -------
    holoviews.Layout
        A histogram (counts on a log axis), and the score against redshift and against S/N with the median in ten equal
        shares of the objects, and Spearman's ρ: a sound score shows no trend. Objects without a redshift are left out
        of that panel.

    Examples
    --------
    >>> import astrolab as al
    >>> table = {"targetid": [1, 2, 3], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 2.0, 1.0]}
    >>> table |= {"redshift": [0.5, 1.0, 2.0], "snr": [5.0, 2.0, 3.0]}
    >>> len(al.plot_scores(pd.DataFrame(table)))
    3
    """
    table = ranking_table(ranked)
    scores = table["anomaly_score"].to_numpy("float64")
    counts, edges = np.histogram(scores, bins=min(60, max(10, len(scores) // 10)))
    histogram = hv.Histogram((edges, np.maximum(counts, 0.1)), kdims=[("anomaly_score", "anomaly score")]).opts(
        title=_counted(table),
        ylabel="objects",
        logy=True,
        ylim=(0.5, max(2 * counts.max(initial=1), 2)),
        color=BLUE,
        line_color=None,
        height=260,
        **SIZE,
    )
    panels = [_score_against(table, name) for name in ("redshift", "snr")]
    return hv.Layout([histogram, *panels]).cols(1).opts(shared_axes=False, merge_tools=False)


def plot_history(history):
    """Plot how the loss went down while a model was fitted.

    Parameters
    ----------
    history : pandas.DataFrame
        What `fit` returns: columns ``epoch``, ``loss_train``, ``loss_valid``.

    Returns
    -------
    holoviews.Overlay
        Both losses against epoch; the epoch of the smallest validation loss is marked.

    Raises
    ------
    ValueError
        If a column is missing.

    Examples
    --------
    >>> import astrolab as al
    >>> history = pd.DataFrame({"epoch": [1, 2], "loss_train": [1.0, 0.7], "loss_valid": [1.1, 0.9]})
    >>> type(al.plot_history(history)).__name__
    'Overlay'
    """
    missing = [name for name in ("epoch", "loss_train", "loss_valid") if name not in history]
    if missing:
        raise ValueError(f"history has no column {missing[0]!r}, expected the table that fit(…) returns.")
    overlay = hv.Curve(history, "epoch", ("loss_train", "loss"), label="training").opts(color=BLUE, line_width=2)
    overlay *= hv.Curve(history, "epoch", ("loss_valid", "loss"), label="validation").opts(
        color=VERMILLION, line_width=2, line_dash="dashed"
    )
    if history["loss_valid"].notna().any():
        best = history.loc[[history["loss_valid"].idxmin()]]
        overlay *= hv.Scatter(best, "epoch", ("loss_valid", "loss"), label="best").opts(color=VERMILLION, size=9)
    return overlay.opts(title="Loss of each epoch", height=300, legend_position="top_right", show_grid=True, **SIZE)


def ranking_table(ranked):
    """Return the numbers of each ranked object as a table.

    Parameters
    ----------
    ranked : xarray.Dataset or pandas.DataFrame
        What `rank_anomalies` gives, or the table of a run (returned as a copy).

    Returns
    -------
    pandas.DataFrame
        One row an object, in the order given: every coordinate along ``object``, ``latent_0``, ``latent_1``, … where
        there are latent vectors, and ``name``: the targetid as text, exact also where a browser's numbers are not.
        Texts are made `harmless`.

    Raises
    ------
    ValueError
        If the objects are not ranked.
    """
    if isinstance(ranked, xr.Dataset):
        columns = {name: c.values for name, c in ranked.coords.items() if c.dims == (OBJECT,)}
        if "latent" in ranked:
            columns |= {f"latent_{i}": column for i, column in enumerate(ranked["latent"].values.T)}
        table = pd.DataFrame(columns)
    else:
        table = ranked.copy()
    missing = [name for name in ("targetid", "anomaly_score", "anomaly_rank") if name not in table]
    if missing:
        raise ValueError(f"the objects have no {missing[0]!r}, expected what rank_anomalies(model, spectra) returns.")
    words = [name for name in table if table[name].dtype.kind not in "biuf"]
    texts = {name: [harmless(str(text)) for text in table[name]] for name in words}
    texts["name"] = [str(targetid) for targetid in table["targetid"]]
    return table.assign(**{name: np.array(text, dtype=object) for name, text in texts.items()})


def latent_positions(table):
    """Return where each object lies on the first two principal components of the latent space.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an object, with ``latent_0``, ``latent_1``, …

    Returns
    -------
    table : pandas.DataFrame
        The same with ``latent_x`` and ``latent_y``; the sign is such that the largest loading is positive.
    labels : list of str
        Of the two axes, with the share of the variance.

    Raises
    ------
    ValueError
        If there are no latent vectors.
    """
    names = [name for name in table if name.startswith("latent_")]
    if not names:
        raise ValueError("the objects have no latent vectors, expected what rank_anomalies(model, spectra) returns.")
    latent = table[names].to_numpy("float64")
    centred = latent - latent.mean(axis=0, keepdims=True) if len(latent) else latent
    variance, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(variance)[::-1][:2]
    axes = axes[:, order]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
    position = np.zeros((len(table), 2))
    position[:, : len(order)] = centred @ axes
    share = variance[order] / (variance.sum() or 1)
    labels = [f"latent component {i + 1} ({part:.0%} of the variance)" for i, part in enumerate(share)]
    return table.assign(latent_x=position[:, 0], latent_y=position[:, 1]), [*labels, ""][:2]


def _words(name):
    return {"name": "targetid", "snr": "S/N"}.get(name, name.replace("_", " "))


def _counted(table):
    return f"{len(table):,} objects"


def _score_against(table, name):
    """Return the score against one number of each object, with the median in ten equal shares of the objects."""
    known = table[np.isfinite(table[name].to_numpy("float64"))]
    x, y = hv.Dimension(name, label=_words(name)), hv.Dimension("anomaly_score", label="anomaly score")
    dots = hv.Points(known, [x, y], [])
    if len(known) > N_POINTS_MAX:
        cloud = rasterize(dots, dynamic=False, width=700, height=260).opts(cmap=_BLUES, cnorm="log")
    else:
        cloud = dots.opts(color=BLUE, size=4, alpha=0.5, line_alpha=0)
    if len(known) < 20:
        return cloud.opts(title=f"{len(known)} objects, too few for a trend", height=240, **SIZE)
    share = pd.qcut(known[name], 10, duplicates="drop")
    medians = known.groupby(share, observed=True)[[name, "anomaly_score"]].median()
    trend = hv.Curve(medians, x, y).opts(color=VERMILLION, line_width=2) * hv.Scatter(medians, x, y).opts(
        color=VERMILLION, size=7
    )
    rho = round(spearmanr(known[name], known["anomaly_score"]).statistic, 2) + 0.0  # never "-0.00"
    return (cloud * trend).opts(title=f"Against {_words(name)}: Spearman ρ = {rho:+.2f}", height=240, **SIZE)
