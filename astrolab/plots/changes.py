"""Plots of two rankings against each other."""

import holoviews as hv
import numpy as np
from bokeh.models import HoverTool

from astrolab.plots.style import BLUE, GREY, SIZE, VERMILLION, harmless

_COLORS = {"stayed": GREY, "entered": VERMILLION, "left": BLUE}


def plot_rank_change(diff):
    """Plot the ranks of two rankings against each other, of every object in either top.

    Parameters
    ----------
    diff : RankingDiff
        What `compare_rankings` or `compare_runs` gives.

    Returns
    -------
    holoviews.Overlay
        Rank in B against rank in A, on log axes: grey those that stayed in the top, orange-red those that entered,
        blue those that left; the dotted lines bound the top, on the dashed one nothing changed. Objects without a place
        in one of them stand beyond the last rank shown, at the margin. targetid and the reason on hover.

    Examples
    --------
    >>> import pandas as pd
    >>> import astrolab as al
    >>> a = pd.DataFrame({"targetid": [1, 2, 3], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 5.0, 1.0]})
    >>> b = pd.DataFrame({"targetid": [1, 3, 4], "anomaly_rank": [1, 2, 3], "anomaly_score": [9.0, 4.0, 1.0]})
    >>> type(al.plot_rank_change(al.compare_rankings(a, b, n_top=2))).__name__
    'Overlay'
    """
    table = diff.table
    known = {name: table[name].to_numpy(dtype=float, na_value=np.nan) for name in ("rank_a", "rank_b")}
    last = np.nanmax([*known.values(), np.full(len(table), float(diff.n_top))])
    beyond = 2 * last
    ranks = {name: np.where(np.isnan(rank), beyond, rank) for name, rank in known.items()}
    table = table.assign(
        **ranks,
        targetid=table["targetid"].astype(str),
        why=np.array([harmless(why) for why in table["why"]], dtype=object),
        places=[f"{_place(a)} → {_place(b)}" for a, b in zip(*known.values(), strict=True)],
    )
    kdims = [hv.Dimension("rank_a", label="rank in A"), hv.Dimension("rank_b", label="rank in B")]
    hover = HoverTool(tooltips=[("targetid", "@targetid"), ("rank", "@places"), ("why", "@why")])
    lines = hv.Curve([(0.7, 0.7), (last, last)], *kdims).opts(color=GREY, line_dash="dashed", line_width=1)
    bound = {"color": GREY, "line_dash": "dotted", "line_width": 1}
    lines *= hv.VLine(diff.n_top + 0.5).opts(**bound) * hv.HLine(diff.n_top + 0.5).opts(**bound)
    parts = {}
    for change, color in _COLORS.items():
        rows = table[table["change"] == change]
        dots = hv.Points(rows, kdims, ["targetid", "places", "why"], label=f"{change} ({len(rows):,})")
        parts[change] = dots.opts(color=color, size=7, alpha=0.8, line_alpha=0, tools=[hover])
    limits = (0.7, 1.4 * max(rank.max() for rank in ranks.values()))
    title = f"Top {diff.n_top:,}: rank-biased overlap {diff.rank_biased_overlap:.2f}, Jaccard {diff.jaccard:.2f}"
    axes = {"logx": True, "logy": True, "xlim": limits, "ylim": limits, "legend_position": "top", "legend_cols": 3}
    return (lines * hv.Overlay(list(parts.values()))).opts(title=title, height=460, **axes, **SIZE)


def _place(rank):
    return "not ranked" if np.isnan(rank) else f"{int(rank):,}"
