"""What does this spectrum look like: the nearest archetypes and known spectra of one object."""

import numpy as np
import pandas as pd

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.hypotheses import scan_redshifts
from astrolab.redshift.templates import open_templates
from astrolab.schema import OBJECT, WAVELENGTH, check_spectra
from astrolab.spectra import rest_grid, to_restframe

_STEP = 1e-4  # of log10 wavelength: 69 km/s
_REACH = 5000.0  # km/s, in which shifts of known spectra are looked for
_OVERLAP = 300  # pixels that two spectra must share


def match_templates(spectrum, known=None, templates=None, *, n_best=5):
    """Find the archetypes, and among known spectra those, that are nearest to one spectrum.

    Parameters
    ----------
    spectrum : xarray.Dataset
        One object (``spectra.isel(object=[i])``), observed frame. Pixels with ``ivar == 0`` do not count.
    known : xarray.Dataset, optional
        Spectra with redshifts and classes, observed frame, any grid: each is scaled and shifted in velocity to the
        object, in the frame of the object's own redshift.
    templates : sequence of TemplateSet, optional
        The archetypes; AstroLab's own by default.
    n_best : int, optional
        Rows of each kind.

    Returns
    -------
    pandas.DataFrame
        Best first within each kind ("archetype", "spectrum"): kind; targetid of a known spectrum (0 for archetypes);
        spectype, subtype; redshift that the match gives the object; velocity and velocity_err (km/s) of the object
        relative to its own redshift; chi2 and n_good of the match (an archetype's chi2 is -2 ln evidence).

    Raises
    ------
    ValueError
        If there is more than one object.
    SchemaError
        If spectra do not keep to the data model.

    Examples
    --------
    >>> import astrolab as al
    >>> survey = al.simulate_survey(6, seed=3, rare_fraction=0)
    >>> al.match_templates(survey.isel(object=[0]), survey.isel(object=[0, 1]))["kind"].iloc[-1]
    'spectrum'
    """
    check_spectra(spectrum)
    if spectrum.sizes[OBJECT] != 1:
        raise ValueError(f"there are {spectrum.sizes[OBJECT]} objects, expected one: spectra.isel(object=[0]).")
    # a grid may go on where nothing was measured, and templates need not
    good = np.flatnonzero(spectrum["ivar"].values[0] > 0)
    spectrum = spectrum.isel({WAVELENGTH: slice(good[0], good[-1] + 1)}) if len(good) else spectrum
    own = float(spectrum["redshift"].values[0])
    own = own if np.isfinite(own) and own > -1 else 0.0
    sets = open_templates() if templates is None else templates
    table = _archetypes(spectrum, sets, n_best)
    if known is not None:
        found = pd.DataFrame(_known(spectrum, own, known))
        table = pd.concat([table, found.dropna(subset="chi2").sort_values("match").head(n_best)], ignore_index=True)
    ratio = (1 + table["redshift"]) / (1 + own)
    table["velocity"] = SPEED_OF_LIGHT * np.log(ratio)
    table["velocity_err"] = SPEED_OF_LIGHT * table.pop("redshift_err") / (1 + table["redshift"])
    columns = ["kind", "targetid", "spectype", "subtype", "redshift", "velocity", "velocity_err", "chi2", "n_good"]
    return table[columns]


def _archetypes(spectrum, templates, n_best):
    """Return the best fit of each set alone, best first."""
    smooth = [one for one in templates if not one.spectype]
    parts = [scan_redshifts(spectrum, [one, *smooth], n_best=1, device="cpu") for one in templates if one.spectype]
    table = pd.concat(parts).assign(kind="archetype", targetid=0)
    return table.sort_values("chi2").head(n_best).reset_index(drop=True)


def _known(spectrum, own, known):
    """Match every known spectrum: scale and shift of least χ² on a logarithmic rest grid of both."""
    check_spectra(known)
    first, last = spectrum[WAVELENGTH].values[[0, -1]] / (1 + own)
    grid = rest_grid(first, last, int(np.log10(last / first) / _STEP))
    one = to_restframe(spectrum.assign_coords(redshift=(OBJECT, [own])), grid)
    flux, ivar = (one[name].values[0].astype("float64") for name in ("flux", "ivar"))
    step = SPEED_OF_LIGHT * np.log(grid[1] / grid[0])
    rows = []
    at_rest = to_restframe(known, grid)
    for i, (other, weight) in enumerate(zip(at_rest["flux"].values, at_rest["ivar"].values, strict=True)):
        velocity, velocity_err, chi2, n_good = _shift(flux, ivar, other.astype("float64"), weight, step)
        redshift = (1 + own) * np.exp(velocity / SPEED_OF_LIGHT) - 1
        rows.append(
            {
                "kind": "spectrum",
                "targetid": int(known["targetid"].values[i]),
                "spectype": str(known["spectype"].values[i]),
                "subtype": "",
                "redshift": redshift,
                "redshift_err": velocity_err / SPEED_OF_LIGHT * (1 + redshift),
                "chi2": chi2,
                "n_good": n_good,
                "match": chi2 / max(n_good, 1),
            }
        )
    return rows


def _shift(flux, ivar, other, other_ivar, step):
    """Velocity of `flux` relative to `other`, its error, χ² and pixels: NaN where they hardly overlap."""
    n = len(flux)
    lags = np.arange(-round(_REACH / step), round(_REACH / step) + 1)
    chi2, count = np.full(len(lags), np.nan), np.zeros(len(lags), int)
    for k, lag in enumerate(lags):
        mine, its = slice(max(lag, 0), n + min(lag, 0)), slice(max(-lag, 0), n + min(-lag, 0))
        good = (ivar[mine] > 0) & (other_ivar[its] > 0)
        count[k] = np.count_nonzero(good)
        if count[k] < _OVERLAP:
            continue
        f, g = flux[mine][good], other[its][good]
        variance, its_variance = 1 / ivar[mine][good], 1 / other_ivar[its][good]
        scale = np.sum(f * g / variance) / np.sum(g * g / variance)
        for _ in range(2):  # the noise of both counts, and that of the other goes with its scale
            w = 1 / (variance + scale**2 * its_variance)
            scale = np.sum(w * f * g) / np.sum(w * g * g)
        chi2[k] = np.sum(w * (f - scale * g) ** 2) if scale > 0 else np.nan
    if not np.isfinite(chi2).any():
        return np.nan, np.nan, np.nan, 0
    best = int(np.nanargmin(chi2 / np.maximum(count, 1)))
    per_pixel = chi2 / np.maximum(count, 1) * count[best]
    if not 0 < best < len(lags) - 1 or not np.isfinite(per_pixel[best - 1 : best + 2]).all():
        return lags[best] * step, np.nan, chi2[best], int(count[best])
    left, middle, right = per_pixel[best - 1 : best + 2]
    bend = 0.5 * (left + right) - middle
    move = np.clip((left - right) / (4 * bend), -1, 1) if bend > 0 else 0.0
    err = step / np.sqrt(bend) if bend > 0 else np.nan
    return (lags[best] + move) * step, err, chi2[best], int(count[best])
