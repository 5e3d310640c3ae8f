"""Plots of redshift templates."""

import holoviews as hv
import numpy as np

from astrolab.plots.style import BLUE, GREY, SIZE

_N_PIXELS = 1500  # more than a plot of a report shows


def plot_templates(templates):
    """Plot the mean of each template set, and how far its first vectors move it.

    Parameters
    ----------
    templates : sequence of TemplateSet
        From `open_templates` or `build_templates`; sets without a class (smooth light) are left out.

    Returns
    -------
    holoviews.Layout
        One panel a set, flux in any unit against rest wavelength in Å: the mean, and grey the mean with one prior sigma
        of each vector added and taken away (one tenth of the mean's amplitude where a vector is free).

    Examples
    --------
    >>> import astrolab as al
    >>> type(al.plot_templates(al.open_templates())).__name__
    'Layout'
    """
    panels = [_panel(one) for one in templates if one.spectype]
    return hv.Layout(panels).cols(2).opts(shared_axes=False)


def _panel(one):
    step = max(1, one.vectors.shape[1] // _N_PIXELS)
    wavelength, vectors = 10 ** one.log_wavelength[::step], one.vectors[:, ::step]
    sigma = np.where(np.isfinite(one.prior_err), one.prior_err, 0.1)[1:, None]
    moved = np.sqrt(((sigma * vectors[1:]) ** 2).sum(axis=0))
    axes = "rest wavelength (Å)", "flux"
    band = hv.Area((wavelength, vectors[0] - moved, vectors[0] + moved), axes[0], [axes[1], "high"])
    name = f"{one.spectype} {one.subtype}".strip()
    title = f"{name} · redshift {one.redshift_min:.2f} to {one.redshift_max:.2f}"
    mean = hv.Curve((wavelength, vectors[0]), *axes).opts(color=BLUE, line_width=1)
    size = SIZE | {"height": 230}
    return (band.opts(color=GREY, alpha=0.5, line_alpha=0) * mean).opts(title=title, **size)
