"""Plots of spectra: one in depth, or the strangest side by side."""

import holoviews as hv
import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter1d

from astrolab.lines import lines_between
from astrolab.plots.style import BLUE, GREY, SIZE, VERMILLION, harmless
from astrolab.schema import FLUX_UNIT, OBJECT, WAVELENGTH, flux_err, spectral_dim

_SAME_LEFT_EDGE = {"plot.min_border_left": 75, "plot.min_border_right": 20}
_NARROWEST = 620  # px of axis for which line names are laid out; a wider plot only gives them more room
_GALLERY_WIDTH = 280


def plot_spectrum(spectra, *, with_lines=True, smoothing=0):
    """Plot one spectrum with its 1 sigma band, reconstruction, residual and line names.

    Parameters
    ----------
    spectra : xarray.Dataset
        One object, such as ``ranked.isel(object=0)``: dims ``(wavelength)`` or ``(wavelength_rest)``, vacuum, Å; flux
        in 1e-17 erg/s/cm2/Å or normalised, as its ``units`` say. With ``flux_model`` the reconstruction is drawn too.
    with_lines : bool, optional
        Name the major lines (in the observed frame: at the object's redshift).
    smoothing : float, optional
        Sigma of a Gaussian in pixels, weighted by ivar; 0 shows the pixels as they are. The band becomes the
        uncertainty of the smoothed flux; the residual stays that of single pixels.

    Returns
    -------
    holoviews.Overlay or holoviews.Layout
        The spectrum and, where there is a reconstruction, ``(flux - flux_model) / flux_err`` below it on the same
        wavelength axis. Pixels with ``ivar == 0`` are left out and their place is shaded.

    Raises
    ------
    ValueError
        If there is not exactly one object, or `smoothing` is negative.
    SchemaError
        If the Dataset has no spectral dimension.

    Examples
    --------
    >>> import astrolab as al
    >>> figure = al.plot_spectrum(al.simulate_survey(2, seed=0).isel(object=0))
    """
    if not smoothing >= 0:
        raise ValueError(f"smoothing is {smoothing}, expected a width in pixels, 0 or more.")
    one = _one_object(spectra)
    x, y = _spectrum_dimensions(one)
    wavelength, flux, err, model = _arrays(one)
    lines = _line_names(one, wavelength, flux) if with_lines else []
    low, high, top = flux_range(flux, err, model, n_rows=max((row for *_, row in lines), default=-1) + 1)

    overlay = _masked_spans(wavelength, flux) * _flux_curves(wavelength, flux, err, smoothing, x, y)
    if model is not None:
        overlay *= hv.Curve((wavelength, model), x, y, label="reconstruction").opts(color=VERMILLION, line_width=1.8)
    if lines:
        overlay *= _draw_lines(lines, low, high, top, x, y)
    panel = overlay.opts(
        title=_title(one),
        xlabel=x.label,
        ylabel=y.label,
        height=370,
        xlim=covered_range(wavelength, flux),
        ylim=(low, top),
        legend_position="top",
        legend_opts={"click_policy": "hide", "padding": 0, "margin": 2, "border_line_alpha": 0},
        toolbar="right",
        backend_opts=_SAME_LEFT_EDGE,
        **SIZE,
    )
    if model is None:
        return panel
    residual = _residual_panel(wavelength, (flux - model) / err, x).opts(xlim=covered_range(wavelength, flux))
    return hv.Layout([panel.opts(xlabel=""), residual]).cols(1).opts(toolbar="right")


def plot_gallery(ranked, n=12):
    """Plot the strangest spectra side by side, small and still, for a report.

    Parameters
    ----------
    ranked : xarray.Dataset
        In rank order, as `rank_anomalies` gives: dims ``(object, wavelength_rest)`` (or ``wavelength``), Å.
    n : int, optional
        How many, from object 0 on.

    Returns
    -------
    holoviews.Layout
        Three columns. Flux (smoothed by 2 pixels, ivar-weighted; pixels with ``ivar == 0`` left out) and, where there
        is one, the reconstruction.

    Raises
    ------
    ValueError
        If there is no object, or `n` is less than 1.

    Examples
    --------
    >>> import astrolab as al
    >>> len(al.plot_gallery(al.simulate_survey(4, seed=0), n=3))
    3
    """
    n_shown = min(n, ranked.sizes[OBJECT])
    if n_shown < 1:
        raise ValueError(f"ranked has {ranked.sizes[OBJECT]} objects and n is {n}, expected at least one of each.")
    top = ranked.isel({OBJECT: slice(0, n_shown)}).compute()
    cells = [_gallery_cell(top.isel({OBJECT: row})) for row in range(n_shown)]
    return hv.Layout(cells).cols(3).opts(shared_axes=False, toolbar=None)


def _one_object(spectra):
    if OBJECT in spectra.dims:
        if spectra.sizes[OBJECT] != 1:
            raise ValueError(
                f"the Dataset holds {spectra.sizes[OBJECT]} objects, expected one: spectra.isel(object=0)."
            )
        spectra = spectra.isel({OBJECT: 0})
    return spectra


def _value(one, name):
    """Return a number or word of the object; None where there is none, or it is NaN or empty."""
    if name not in one.coords:
        return None
    value = one[name].item()
    if isinstance(value, str):
        return harmless(value) or None
    return None if value != value else value


def _title(one):
    rank, targetid = _value(one, "anomaly_rank"), _value(one, "targetid")
    redshift, snr, score = (_value(one, name) for name in ("redshift", "snr", "anomaly_score"))
    parts = [
        rank is not None and f"#{rank}",
        targetid is not None and str(targetid),
        _value(one, "spectype"),
        f"z = {redshift:.4f}" if redshift is not None else "no redshift",
        snr is not None and f"S/N {snr:.1f}",
        score is not None and f"score {score:.2f}",
    ]
    return "  ·  ".join(part for part in parts if part)


def _spectrum_dimensions(one):
    dim = spectral_dim(one)
    frame = "observed" if dim == WAVELENGTH else "rest"
    units = one["flux"].attrs.get("units", "")
    label = "flux (10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹)" if units == FLUX_UNIT else "flux (normalised)"
    return hv.Dimension(dim, label=f"{frame} wavelength (Å)"), hv.Dimension("flux", label=label)


def _arrays(one):
    """Return wavelength, flux, err and model of one object as float64; flux and err NaN at masked pixels."""
    err = flux_err(one).values.astype("float64")
    flux = np.where(np.isfinite(err), one["flux"].values, np.nan).astype("float64")
    model = one["flux_model"].values.astype("float64") if "flux_model" in one else None
    return one[spectral_dim(one)].values, flux, err, model


def smooth_flux(flux, err, sigma):
    """Smooth one spectrum by a Gaussian over pixels, weighted by ivar.

    Parameters
    ----------
    flux, err : numpy.ndarray, shape (n_wavelength,)
        Flux and its sigma, in the same units; NaN where masked.
    sigma : float
        Width of the Gaussian in pixels; 0 returns what was given.

    Returns
    -------
    mean, mean_err : numpy.ndarray, shape (n_wavelength,)
        NaN stays NaN, and counts for nothing beside it.

    Examples
    --------
    >>> smooth_flux(np.array([1.0, np.nan, 1.0]), np.array([1.0, np.nan, 1.0]), 1)[0]
    array([ 1., nan,  1.])
    """
    if sigma == 0:
        return flux, err
    good = np.isfinite(flux)
    ivar = np.where(good, err, np.inf) ** -2.0
    kernel = gaussian_filter1d(np.eye(1, 8 * int(np.ceil(sigma)) + 1, 4 * int(np.ceil(sigma)))[0], sigma)
    weight = convolve1d(ivar, kernel, mode="constant")
    total = convolve1d(np.where(good, flux, 0) * ivar, kernel, mode="constant")
    variance = convolve1d(ivar, kernel**2, mode="constant")
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, mean_err = total / weight, np.sqrt(variance) / weight
    return np.where(good, mean, np.nan), np.where(good, mean_err, np.nan)


def covered_range(wavelength, flux):
    """Return the first and the last wavelength with a flux (not NaN), the whole range where there are not two."""
    good = wavelength[np.isfinite(flux)]
    return (good[0], good[-1]) if len(good) > 1 else (wavelength[0], wavelength[-1])


def flux_range(flux, err, model, n_rows):
    """Return low and high of what matters (lines, not single noisy pixels), and the top that leaves room for names.

    Parameters
    ----------
    flux, err : numpy.ndarray, shape (n_wavelength,)
        Flux and its sigma; NaN where masked.
    model : numpy.ndarray, shape (n_wavelength,), or None
        The reconstruction.
    n_rows : float
        Rows of line names above.

    Returns
    -------
    low, high, top : float
    """
    curves = [flux] if model is None else [flux, np.where(np.isfinite(flux), model, np.nan)]
    seen = [smoothed[np.isfinite(smoothed)] for smoothed, _ in (smooth_flux(curve, err, 2) for curve in curves)]
    seen = np.concatenate(seen)
    low, high = (min(seen.min(), 0), seen.max()) if len(seen) else (0, 1)
    noise = np.nanmedian(err) if np.isfinite(err).any() else 0
    low, high = low - noise, high + 2 * noise
    span = high - low or 1
    return low - 0.03 * span, high, high + span * (0.04 + 0.075 * n_rows)


def _line_names(one, wavelength, flux, width=_NARROWEST):
    """Return (wavelength on this axis, name, where to write it, row) of the major lines; no two names overlap."""
    redshift = 0 if spectral_dim(one) != WAVELENGTH else _value(one, "redshift")
    if redshift is None:
        return []
    return place_names(*covered_range(wavelength, flux), redshift, width)


def place_names(low, high, redshift=0.0, width=_NARROWEST, only_major=True):
    """Say where to write the names of lines, so that no two overlap.

    Parameters
    ----------
    low, high : float
        Range of the axis, Å.
    redshift : float, optional
        Of the lines on this axis; 0 on a rest-frame axis.
    width : float, optional
        Of the axis, in screen pixels.
    only_major : bool, optional
        Leave out the weaker lines.

    Returns
    -------
    list of tuple
        (wavelength on this axis, name, where to write it, row) of each line.

    Examples
    --------
    >>> [(round(x), name, row) for x, name, _, row in place_names(4800, 5100, width=300)]
    [(4863, 'Hβ', 0), (5008, '[O III] 5007', 0)]
    """
    per_pixel = (high - low) / width
    placed, ends = [], []
    for line in lines_between(low / (1 + redshift), high / (1 + redshift), only_major):
        x = line.wavelength * (1 + redshift)
        half = (3.6 * len(line.name) + 5) * per_pixel
        center = min(max(x, low + half), high - half)
        row = next((row for row, end in enumerate(ends) if end < center - half), len(ends))
        ends[row : row + 1] = [center + half]
        placed.append((x, line.name, center, row))
    return placed


def _draw_lines(lines, low, high, top, x, y):
    n_rows = max(row for *_, row in lines) + 1
    step = (top - high) / (n_rows + 0.5)
    names = hv.Labels([(center, top - step * (row + 0.6), name) for _, name, center, row in lines], [x, y], "line")
    feet = [(at, low, at, top - step * (row + 1.1)) for at, _, _, row in lines]
    marks = hv.Segments(feet, [x, y, "x_end", "y_end"])
    return marks.opts(color=GREY, line_dash="dotted", line_width=1) * names.opts(text_font_size="9pt", text_color=GREY)


def masked_runs(wavelength, flux):
    """Return where the runs of pixels without flux (NaN) begin and end, two arrays of wavelengths."""
    edges = np.concatenate([[wavelength[0]], (wavelength[1:] + wavelength[:-1]) / 2, [wavelength[-1]]])
    masked = np.concatenate([[0], ~np.isfinite(flux), [0]]).astype(int)
    starts, stops = np.flatnonzero(np.diff(masked) == 1), np.flatnonzero(np.diff(masked) == -1)
    return edges[starts], edges[stops]


def _masked_spans(wavelength, flux):
    """Return the runs of pixels without flux as one element of shaded spans."""
    starts, stops = masked_runs(wavelength, flux)
    spans = hv.VSpans((starts, stops), label="masked" if len(starts) else "")
    return spans.opts(color=GREY, alpha=0.2, line_alpha=0)


def _drawable(wavelength, *values):
    """Return the columns of a curve; none of it where no pixel is good, for a curve of NaN alone has no range."""
    columns = (wavelength, *values)
    return columns if np.isfinite(values[0]).any() else tuple(column[:0] for column in columns)


def _flux_curves(wavelength, flux, err, smoothing, x, y):
    shown, shown_err = smooth_flux(flux, err, smoothing)
    band = hv.Spread(_drawable(wavelength, shown, shown_err), x, [y, "flux_err"], label="1σ")
    curve = hv.Curve(_drawable(wavelength, shown), x, y, label="flux")
    return band.opts(color=GREY, fill_alpha=0.4, line_alpha=0) * curve.opts(
        color=BLUE, line_width=1.1, interpolation="steps-mid"
    )


def _residual_panel(wavelength, residual, x):
    y = hv.Dimension("residual", label="residual (σ)")
    finite = np.abs(residual[np.isfinite(residual)])
    limit = max(5.0, min(30.0, float(np.quantile(finite, 0.995)) * 1.1)) if len(finite) else 5.0
    curve = hv.Curve(_drawable(wavelength, residual), x, y, label="residual").opts(
        color=BLUE, line_width=0.8, interpolation="steps-mid"
    )
    guides = hv.HLines([-3, 3]).opts(color=VERMILLION, line_dash="dashed", line_width=1) * hv.HLines([0]).opts(
        color=GREY, line_width=1
    )
    return (_masked_spans(wavelength, residual) * curve * guides).opts(
        xlabel=x.label,
        ylabel=y.label,
        height=170,
        ylim=(-limit, limit),
        show_legend=False,
        toolbar="right",
        backend_opts=_SAME_LEFT_EDGE,
        **SIZE,
    )


def _gallery_cell(one):
    x, y = _spectrum_dimensions(one)
    wavelength, flux, err, model = _arrays(one)
    lines = _line_names(one, wavelength, flux, _GALLERY_WIDTH - 40)
    low, high, top = flux_range(flux, err, model, n_rows=1.5 * max((row + 1 for *_, row in lines), default=0))
    shown, _ = smooth_flux(flux, err, 2)
    cell = hv.Curve(_drawable(wavelength, shown), x, y).opts(color=BLUE, line_width=0.9)
    if model is not None:
        cell *= hv.Curve((wavelength, model), x, y).opts(color=VERMILLION, line_width=1.4)
    if lines:
        cell *= _draw_lines(lines, low, high, top, x, y)
    return cell.opts(
        title=_short_title(one),
        width=_GALLERY_WIDTH,
        height=220,
        xlim=covered_range(wavelength, flux),
        ylim=(low, top),
        xlabel="",
        ylabel="",
        fontsize={"title": "9pt", "ticks": "8pt"},
        default_tools=[],
        show_legend=False,
        shared_axes=False,
    )


def _short_title(one):
    rank, redshift, score = (_value(one, name) for name in ("anomaly_rank", "redshift", "anomaly_score"))
    first = f"#{rank}   {_value(one, 'targetid')}"
    z = "no redshift" if redshift is None else f"z {redshift:.3f}"
    second = "   ".join([_value(one, "spectype") or "", z, "" if score is None else f"score {score:.2f}"])
    return f"{first}\n{second.strip()}"
