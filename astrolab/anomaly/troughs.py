"""Absorption in the residuals: broad troughs of outflows, damped absorbers, metal lines of gas in front."""

import numpy as np
import pandas as pd
from scipy.ndimage import binary_closing, uniform_filter1d

from astrolab.anomaly.absorbers import LINES, METALS, OUTFLOW_LINES, mask_absorbers
from astrolab.anomaly.scores import as_members, reconstruct
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.schema import WAVELENGTH, WAVELENGTH_REST, SchemaError, check_spectra, spectral_dim
from astrolab.spectra import pixel_edges

_COLUMNS = ("targetid", "kind", "line", "velocity_min", "velocity_max", "redshift_absorber", "sigma")

# lines to whose blue an outflow's trough may lie, redward of Lyα
_TROUGH_LINES = ("N V", "Si IV", "C IV", "Al III", "Mg II")
_FASTEST, _FARTHEST = 27_000.0, 30_000.0  # km/s blueward of a line: the middle of a trough, its far edge
# what an intervening absorber shows first, and which lines beside it
_METAL_PAIRS = {
    "Mg II": ("Fe II 2344", "Fe II 2382", "Fe II 2586", "Fe II 2600"),
    "C IV": ("Si IV", "Si II 1526", "Al II 1670"),
}
_SAME_GAS = 300.0  # km/s between the lines of one absorber

_SMOOTH = 1_000.0  # km/s over which residuals are averaged
_DEPTH, _SIGMAS = 0.12, 2.5  # a pixel of a trough, of the smoothed residual, in parts of the model and in sigma
_BROAD = 2_000.0  # km/s: no narrower trough is an outflow's or a damped one
_NARROW = 3_000.0  # km/s, or three pixels of a coarse grid: no broader one is a metal line
_BROAD_SIGMAS, _NARROW_SIGMAS = 7.0, 6.0  # a whole trough
_DAMPED_DEPTH = 0.4  # part of the light that is missing in a damped trough
_MARGIN = 500.0  # km/s masked on either side
_REDSHIFT_ERR = 500.0  # km/s: so far redward of Lyα may a damped absorber lie
_N_TURNS = 3


def find_absorbers(models, spectra):
    """Find absorption in what a model leaves of spectra.

    Significant missing flux where absorption is physical: broad troughs up to 27,000 km/s blueward of N V, Si IV, C IV,
    Al III and Mg II, broad troughs in the Lyα forest, and narrow ones redward of Lyα where at least two are metal lines
    of one redshift. What is found is masked and the model asked again, since a trough drags the model down with it.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked the spectra; the first is asked.
    spectra : xarray.Dataset
        Normalised spectra on its grid, dims ``(object, wavelength_rest)``. Pixels with ``ivar == 0`` do not count.

    Returns
    -------
    pandas.DataFrame
        One row an absorber: ``targetid``; ``kind`` (BAL, DLA, metal); ``line``, ``velocity_min`` and ``velocity_max``
        (km/s from that line in the quasar's frame, negative = blueward); ``redshift_absorber`` (DLA, metal);
        ``sigma`` (its significance). Empty where nothing was found.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(5, seed=0), al.rest_grid(1000, 4000, 200)))
    >>> list(find_absorbers(al.VAE(n_wavelength=200), rest))[:3]
    ['targetid', 'kind', 'line']
    """
    check_rest(spectra)
    model, spectra = as_members(models)[0], spectra.compute()
    flux_model, weight = reconstruct(model, spectra["flux"].values, spectra["ivar"].values)
    found = _troughs(spectra, flux_model, weight)
    for _ in range(_N_TURNS):
        masked = mask_absorbers(spectra, found)
        flux_model, _ = reconstruct(model, masked["flux"].values, masked["ivar"].values)
        again = _troughs(spectra, flux_model, weight)
        if again.equals(found):
            break
        found = again
    return found


def check_rest(spectra):
    """Check that spectra are in the rest frame.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame.

    Raises
    ------
    SchemaError
        If they are in the observed frame.
    """
    check_spectra(spectra)
    if spectral_dim(spectra) == WAVELENGTH:
        raise SchemaError(
            "the spectra are in the observed frame, expected normalised ones in the rest frame: "
            "normalize_flux(to_restframe(spectra, grid))."
        )


def _nothing():
    numbers = {name: pd.Series(dtype="float64") for name in _COLUMNS[3:]}
    texts = {name: pd.Series(dtype="object") for name in _COLUMNS[1:3]}
    return pd.DataFrame({"targetid": pd.Series(dtype="int64")} | texts | numbers)


def _troughs(spectra, flux_model, weight):
    """Return the troughs that are absorption of a known kind, as `find_absorbers` describes."""
    runs = _runs(spectra, flux_model, weight)
    outflows = _outflows(runs)
    others = runs[~_in_outflow(runs, outflows)]
    kinds = [
        one for one in (outflows, _damped(others), _metals(others.drop(outflows.index, errors="ignore"))) if len(one)
    ]
    if not kinds:
        return _nothing()
    found = pd.concat(kinds).sort_values(["row", "kind", "velocity_min", "redshift_absorber"], kind="stable")
    found["targetid"] = spectra["targetid"].values[found["row"]]
    return found[list(_COLUMNS)].reset_index(drop=True)


def _in_outflow(runs, outflows):
    """Tell which troughs are an outflow's too, in another of its lines: Lyα and N V are no damped absorbers."""
    outflows = outflows[outflows["line"].isin(OUTFLOW_LINES)]
    pairs = runs[["row", "centre"]].reset_index().merge(outflows[["row", "velocity_min", "velocity_max"]], on="row")
    is_inside = np.zeros(len(pairs), bool)
    for line in OUTFLOW_LINES:
        is_inside |= _velocity(pairs["centre"], line).between(pairs["velocity_min"], pairs["velocity_max"])
    return runs.index.isin(pairs.loc[is_inside, "index"])


def _runs(spectra, flux_model, weight):
    """Return runs of pixels below the model: row, edges and centre (rest Å), redshift, width (km/s), sigma, depth."""
    wavelength = spectra[WAVELENGTH_REST].values
    step = SPEED_OF_LIGHT * np.log(wavelength[-1] / wavelength[0]) / (len(wavelength) - 1)
    width = max(1, round(_SMOOTH / step))
    missing = weight * (flux_model - np.where(weight > 0, spectra["flux"].values, 0))
    total = uniform_filter1d(weight, width, axis=1, mode="constant") * width
    smooth = uniform_filter1d(missing, width, axis=1, mode="constant") * width
    is_low = (smooth > _DEPTH * total * np.abs(flux_model)) & (smooth > _SIGMAS * np.sqrt(total))
    # noise breaks a trough apart no further than it was smoothed
    is_low = binary_closing(np.pad(is_low, ((0, 0), (width, width))), np.ones((1, 2 * width + 1)))[:, width:-width]
    change = np.diff(np.pad(is_low, ((0, 0), (1, 1))).astype("int8"), axis=1)
    (row, first), (_, last) = np.nonzero(change == 1), np.nonzero(change == -1)

    def over_run(values):
        cumulative = np.pad(np.cumsum(values, axis=1, dtype="float64"), ((0, 0), (1, 0)))
        return cumulative[row, last] - cumulative[row, first]

    edges, middle = pixel_edges(wavelength), np.broadcast_to(wavelength, missing.shape)
    weighted = over_run(np.maximum(missing, 0))
    return pd.DataFrame(
        {
            "row": row,
            "low": edges[first],
            "high": edges[last],
            "centre": over_run(np.maximum(missing, 0) * middle) / np.maximum(weighted, 1e-30),
            "redshift": spectra["redshift"].values[row],
            "width": (last - first) * step,
            "sigma": over_run(missing) / np.sqrt(np.maximum(over_run(weight), 1e-30)),
            "depth": over_run(missing) / np.maximum(over_run(weight * np.abs(flux_model)), 1e-30),
            "is_narrow": (last - first) * step <= max(_NARROW, 3 * step),
            "tolerance": max(_SAME_GAS, 0.7 * step),
        }
    )


def _outflows(runs):
    """Give each broad trough redward of Lyα to the first line to its red that absorbs in outflows."""
    broad = runs[(runs["width"] >= _BROAD) & (runs["sigma"] >= _BROAD_SIGMAS) & (runs["centre"] > LINES["Lyα"])]
    parts = []
    for line in _TROUGH_LINES:
        velocity = _velocity(broad["centre"], line)
        is_own = (velocity < 0) & (velocity > -_FASTEST) & (_velocity(broad["low"], line) > -_FARTHEST)
        own = broad[is_own & (_velocity(broad["high"], line) < _BROAD)]
        parts.append(_absorber(own, "BAL", line))
        broad = broad.drop(own.index)
    return pd.concat(parts)


def _damped(runs):
    """Return the broad, deep troughs of the Lyα forest."""
    is_damped = (runs["width"] >= _BROAD) & (runs["sigma"] >= _BROAD_SIGMAS) & (runs["depth"] > _DAMPED_DEPTH)
    damped = runs[is_damped & (runs["centre"] > LINES["Lyβ"]) & (_velocity(runs["centre"], "Lyα") < _REDSHIFT_ERR)]
    redshift = (1 + damped["redshift"]) * damped["centre"] / LINES["Lyα"] - 1
    return _absorber(damped, "DLA", "Lyα").assign(redshift_absorber=redshift)


def _metals(runs):
    """Return narrow troughs that are two lines of one redshift, which no chance makes of few troughs."""
    is_narrow = runs["is_narrow"] & (runs["sigma"] >= _NARROW_SIGMAS)
    narrow = runs[is_narrow & (runs["centre"] > LINES["Lyα"])]
    parts = []
    for anchor, partners in _METAL_PAIRS.items():
        first = narrow.assign(redshift_absorber=(1 + narrow["redshift"]) * narrow["centre"] / METALS[anchor] - 1)
        is_in_front = (first["redshift_absorber"] > 0) & (first["redshift_absorber"] < first["redshift"] + 0.01)
        for partner in partners:
            pairs = first[is_in_front].reset_index().merge(narrow[["row", "centre"]], on="row", suffixes=("", "_other"))
            ratio = pairs["centre_other"] / pairs["centre"] * METALS[anchor] / METALS[partner]
            matching = pairs[SPEED_OF_LIGHT * (ratio - 1).abs() < pairs["tolerance"]]
            parts.append(matching.drop_duplicates("index").set_index("index"))
    found = pd.concat(parts)
    found = found[~found.index.duplicated()]
    empty = found.assign(low=np.nan, high=np.nan)
    return _absorber(empty, "metal", "Mg II").assign(redshift_absorber=found["redshift_absorber"])


def _absorber(runs, kind, line):
    return pd.DataFrame(
        {
            "row": runs["row"],
            "kind": kind,
            "line": line,
            "velocity_min": _velocity(runs["low"], line) - _MARGIN,
            "velocity_max": _velocity(runs["high"], line) + _MARGIN,
            "redshift_absorber": np.nan,
            "sigma": runs["sigma"],
        }
    )


def _velocity(wavelength, line):
    """Return velocities from a line in km/s, negative blueward."""
    return SPEED_OF_LIGHT * (wavelength / LINES[line] - 1)
