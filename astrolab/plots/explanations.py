"""Plots that say why: one object's reasons, the reasons of the strangest, and whether the scores can be trusted."""

import holoviews as hv
import numpy as np
import pandas as pd
from holoviews.operation.datashader import rasterize
from scipy.stats import spearmanr

from astrolab.plots.rankings import N_POINTS_MAX, ranking_table
from astrolab.plots.spectra import plot_gallery, plot_spectrum
from astrolab.plots.style import BLUE, GREEN, GREY, ORANGE, SIZE, SKY, VERMILLION, harmless
from astrolab.schema import OBJECT, spectral_dim

_COLORS = (ORANGE, GREEN, SKY)
_LINE_HEIGHT = 17  # px of a line of the title
_CELL_LETTERS = 32  # of a line of a reason in a cell of the gallery
_CELL_LINES = 3
_CLOUD = {"cmap": ["#9DC3DD", BLUE, "#00466E"], "cnorm": "log"}  # few to many; seen on white and on black


def plot_explanation(ranked, regions, ordinary=None):
    """Plot one object with what made its score.

    Parameters
    ----------
    ranked : xarray.Dataset
        One object of `rank_anomalies` or `attach_spectra`, such as ``ranked.isel(object=0)``: dims
        ``(wavelength_rest)``, vacuum Å. With ``attribution`` (from `attribute_anomaly`) that is drawn below.
    regions : pandas.DataFrame
        What `explain_anomaly` gives; rows of other objects are left out.
    ordinary : xarray.Dataset, optional
        The nearest ordinary object (`nearest_ordinary`), on the same grid, with ``flux`` or better ``flux_model``:
        drawn as a faint line.

    Returns
    -------
    holoviews.Layout
        Spectrum with 1σ band and reconstruction, the residual in σ, and the attribution of each pixel, on one
        wavelength axis. Named regions are shaded, numbered from the most important, and put into words above. Pixels
        with ``ivar == 0`` are left out.

    Raises
    ------
    ValueError
        If there is not exactly one object, or it has no ``flux_model``.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> vae = al.VAE(n_wavelength=100)
    >>> ranking, _, scale = al.score_anomalies(vae, rest)
    >>> top = al.attach_spectra(vae, rest, ranking.head(2))
    >>> regions = al.explain_anomaly(vae, top, scale)
    >>> type(al.plot_explanation(top.isel(object=0), regions)).__name__
    'Layout'
    """
    if "flux_model" not in ranked:
        raise ValueError("the object has no 'flux_model', expected one of attach_spectra(models, spectra, ranking).")
    figure = plot_spectrum(ranked)
    one = ranked.isel({OBJECT: 0}) if OBJECT in ranked.dims else ranked
    own = _regions_of(regions, one["targetid"].item())
    spectrum, residual = figure.values()
    front = [] if ordinary is None else [_faint(ordinary, spectrum)]
    words = [f"{row.region}  {harmless(row.text)}" for row in own.itertuples()]
    height = 370 + _LINE_HEIGHT * len(words)
    options = _options(spectrum)
    panels = [
        _overlaid(_shades(own), spectrum, [*front, *_numbers(own, options["ylim"])]).opts(
            title="\n".join([options["title"], *words]), height=height
        ),
        _overlaid(_shades(own), residual),
    ]
    if "attribution" in one:
        panels[1] = panels[1].opts(xlabel="")
        panels.append(_attribution_panel(one, own).opts(xlim=_options(residual)["xlim"]))
    return hv.Layout(panels).cols(1).opts(toolbar="right")


def plot_reason_gallery(ranked, regions, n=12):
    """Plot the strangest spectra side by side with what made their scores, small and still, for a report.

    Parameters
    ----------
    ranked : xarray.Dataset
        In rank order, as for `plot_gallery`.
    regions : pandas.DataFrame
        What `explain_anomaly` gives.
    n : int, optional
        How many, from object 0 on.

    Returns
    -------
    holoviews.Layout
        As `plot_gallery`, with named regions shaded and the most important one put into words.

    Raises
    ------
    ValueError
        As `plot_gallery`.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> vae = al.VAE(n_wavelength=100)
    >>> ranking, _, scale = al.score_anomalies(vae, rest)
    >>> top = al.attach_spectra(vae, rest, ranking.head(2))
    >>> regions = al.explain_anomaly(vae, top, scale)
    >>> len(al.plot_reason_gallery(top, regions))
    2
    """
    cells = []
    for cell, targetid in zip(plot_gallery(ranked, n).values(), ranked["targetid"].values, strict=False):
        own, options = _regions_of(regions, targetid), _options(cell)
        words = _broken(harmless(own["text"].iloc[0]), _CELL_LETTERS) if len(own) else []
        words += [" "] * (_CELL_LINES - len(words))  # cells side by side are equally high
        title = "\n".join([options["title"], *words])
        height = options["height"] + _LINE_HEIGHT * len(words)
        numbers = _numbers(own, options["ylim"])
        cells.append(_overlaid(_shades(own), cell, numbers).opts(title=title, height=height))
    return hv.Layout(cells).cols(3).opts(shared_axes=False, toolbar=None)


def plot_calibration(ranking):
    """Plot whether scores and p-values mean the same for every object.

    Parameters
    ----------
    ranking : pandas.DataFrame or xarray.Dataset
        What `score_anomalies` gives, or the table of a run (``ranking.parquet``): ``p_value``, ``anomaly_score``,
        ``artefact_score``, ``redshift``, ``snr``, ``n_good``.

    Returns
    -------
    holoviews.Layout
        How many objects have which p-value (ordinary ones fill it evenly, anomalies pile up at 0); p-values against
        those of a uniform distribution, with the 95 % band of a sample this large; the score's median and quartiles
        against redshift, S/N and the number of good pixels in ten equal shares of the objects, with Spearman's ρ: flat
        is sound; and the score against the artefact score.

    Raises
    ------
    ValueError
        If a column is missing.

    Examples
    --------
    >>> import astrolab as al, pandas as pd
    >>> table = {"targetid": np.arange(50), "anomaly_rank": np.arange(1, 51), "anomaly_score": np.linspace(9, 1, 50)}
    >>> table |= {"p_value": np.linspace(0.01, 1, 50), "artefact_score": np.zeros(50), "n_good": np.arange(50)}
    >>> table |= {"redshift": np.linspace(0.5, 3, 50), "snr": np.linspace(1, 9, 50)}
    >>> type(al.plot_calibration(pd.DataFrame(table))).__name__
    'Layout'
    """
    table = ranking_table(ranking)
    missing = [name for name in ("p_value", "artefact_score", "redshift", "snr", "n_good") if name not in table]
    if missing:
        raise ValueError(f"the ranking has no {missing[0]!r}, expected what score_anomalies(models, spectra) gives.")
    p_values = np.sort(table["p_value"].to_numpy("float64"))
    trends = {"redshift": "redshift", "snr": "S/N", "n_good": "good pixels"}
    panels = [_p_histogram(p_values), _p_quantiles(p_values)]
    panels += [_trend(table, name, label) for name, label in trends.items()]
    panels.append(_against_artefacts(table))
    return hv.Layout(panels).cols(2).opts(shared_axes=False, merge_tools=False)


def _regions_of(regions, targetid):
    return regions[regions["targetid"] == targetid].sort_values("region")


def _options(element):
    found = {}
    for group in ("plot", "style"):
        found |= hv.Store.lookup_options("bokeh", element, group).kwargs
    return found


def _overlaid(behind, overlay, front=()):
    """Put elements behind and before those of an overlay, and keep its options."""
    return hv.Overlay([*behind, *overlay.values(), *front]).opts(hv.opts.Overlay(**_options(overlay)))


def _shades(own):
    """Return the regions as shaded spans."""
    spans = [hv.VSpans([(row.wavelength_min, row.wavelength_max)]) for row in own.itertuples()]
    return [span.opts(color=_COLORS[i % len(_COLORS)], alpha=0.25, line_alpha=0) for i, span in enumerate(spans)]


def _numbers(own, limits):
    """Return the numbers of the regions: below excess flux, above missing flux, and in steps, so that none overlap."""
    if own.empty:
        return []
    foot = np.where(own["significance"] > 0, 0.05, 0.55)
    steps = limits[0] + (limits[1] - limits[0]) * (foot + 0.07 * (own["region"].to_numpy() - 1))
    middle = (own["wavelength_min"].to_numpy() + own["wavelength_max"].to_numpy()) / 2
    labels = hv.Labels((middle, steps, own["region"].astype(str).to_numpy(object)), ["x", "y"], "number")
    return [labels.opts(text_font_size="11pt", text_font_style="bold", text_color=GREY)]


def _faint(ordinary, spectrum):
    one = ordinary.isel({OBJECT: 0}) if OBJECT in ordinary.dims else ordinary
    name = "flux_model" if "flux_model" in one else "flux"
    flux = np.where(one["ivar"].values > 0, one[name].values, np.nan)
    x, y = next(element for element in spectrum.values() if isinstance(element, hv.Curve)).dimensions()[:2]
    curve = hv.Curve((one[spectral_dim(one)].values, flux), x, y, label="nearest ordinary object")
    return curve.opts(color=GREY, line_width=1.3, line_dash="dashed")


def _attribution_panel(one, own):
    x = hv.Dimension(spectral_dim(one), label="rest wavelength (Å)")
    y = hv.Dimension("attribution", label="attribution (%)")
    values = 100 * one["attribution"].values.astype("float64")
    wavelength = one[x.name].values
    signs = ((np.maximum(values, 0), VERMILLION), (np.minimum(values, 0), BLUE))
    areas = [hv.Area((wavelength, part), x, y).opts(color=color, line_alpha=0, alpha=0.9) for part, color in signs]
    limit = 1.1 * (np.abs(values).max() or 1)
    return hv.Overlay([*_shades(own), *areas]).opts(
        xlabel=x.label,
        ylabel="attribution (%)",
        height=150,
        ylim=(min(1.1 * values.min(), -0.1 * limit), limit),
        show_legend=False,
        toolbar="right",
        backend_opts={"plot.min_border_left": 75, "plot.min_border_right": 20},
        **SIZE,
    )


def _broken(text, n_letters):
    """Break a text into lines between words."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= n_letters:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _p_histogram(p_values):
    counts, edges = np.histogram(p_values, bins=20, range=(0, 1))
    bars = hv.Histogram((edges, counts), kdims=[("p_value", "p-value")]).opts(color=BLUE, line_color="white")
    even = hv.HLines([len(p_values) / 20]).opts(color=VERMILLION, line_dash="dashed", line_width=1.5)
    title = f"p-values of {len(p_values):,} objects; dashed: uniform"
    return (bars * even).opts(title=title, xlabel="p-value", ylabel="objects", **_panel_size())


def _p_quantiles(p_values):
    n = len(p_values)
    rows = np.unique(np.linspace(0, n - 1, min(n, 1000)).round().astype(int))
    uniform = (np.arange(1, n + 1) - 0.5) / n
    grid = np.linspace(0, 1, 101)
    reach = 1.358 / np.sqrt(n)  # the Kolmogorov-Smirnov band of 95 %
    x, y = hv.Dimension("uniform", label="uniform quantile"), hv.Dimension("p_value", label="p-value")
    band = hv.Area((grid, np.clip(grid - reach, 0, 1), np.clip(grid + reach, 0, 1)), x, [y, "above"])
    line = hv.Curve((uniform[rows], p_values[rows]), x, y).opts(color=BLUE, line_width=2)
    distance = max(np.abs(p_values - uniform).max() + 0.5 / n, 0)
    title = f"Quantiles: largest distance {distance:.3f}, 95 % band ±{reach:.3f}"
    return (band.opts(color=GREY, alpha=0.35, line_alpha=0) * line).opts(
        title=title, xlim=(0, 1), ylim=(0, 1), **_panel_size()
    )


def _trend(table, name, label):
    known = table[np.isfinite(table[name].to_numpy("float64"))]
    x, y = hv.Dimension(name, label=label), hv.Dimension("anomaly_score", label="anomaly score")
    if len(known) < 20:
        return hv.Points(known, [x, y], []).opts(title=f"{len(known)} objects, too few for a trend", **_panel_size())
    share = pd.qcut(known[name], 10, duplicates="drop")
    groups = known.groupby(share, observed=True)
    middle = groups[name].median().to_numpy()
    low, median, high = (groups["anomaly_score"].quantile(q).to_numpy() for q in (0.25, 0.5, 0.75))
    band = hv.Area((middle, low, high), x, [y, "high"]).opts(color=BLUE, alpha=0.25, line_alpha=0)
    line = hv.Curve((middle, median), x, y).opts(color=VERMILLION, line_width=2)
    dots = hv.Scatter((middle, median), x, y).opts(color=VERMILLION, size=7)
    rho = round(spearmanr(known[name], known["anomaly_score"]).statistic, 2) + 0.0  # never "-0.00"
    options = {"ylim": tuple(np.percentile(known["anomaly_score"], [5, 95])), "padding": (0.05, 0)}
    if middle[0] > 0 and middle[-1] > 10 * middle[0]:
        options["logx"] = True
    title = f"Median and quartiles against {label}: Spearman ρ = {rho:+.2f}"
    return (band * line * dots).opts(title=title, **options, **_panel_size())


def _against_artefacts(table):
    x = hv.Dimension("artefact_score", label="artefact score")
    y = hv.Dimension("anomaly_score", label="anomaly score")
    points = hv.Points(table, [x, y], [])
    if len(table) > N_POINTS_MAX:
        cloud = rasterize(points, dynamic=False, width=500, height=280).opts(**_CLOUD)
    else:
        cloud = points.opts(color=BLUE, size=4, alpha=0.5, line_alpha=0)
    return cloud.opts(title="Artefact or astrophysics?", **_panel_size())


def _panel_size():
    return {"height": 280, "show_grid": True, **SIZE}
