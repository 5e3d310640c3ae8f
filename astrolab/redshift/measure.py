"""Physics of quasars and galaxies, measured from spectra: continuum slope, emission lines, absorption troughs."""

from typing import NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from astrolab.redshift.line_fits import N_COLUMN, NOT_VISIBLE, fit_power_law, measure_line
from astrolab.redshift.scan import clean_spectra, in_range
from astrolab.redshift.troughs import ABSORPTION, measure_absorption
from astrolab.schema import OBJECT, WAVELENGTH, SchemaError, check_spectra
from astrolab.spectra import pixel_edges
from astrolab.stores.passes import whole_spectra


class MeasuredLine(NamedTuple):
    """Where a line is measured; rest frame, vacuum, Å.

    Attributes
    ----------
    key, name : str
        Prefix of the columns, and the name of the line.
    wavelength : float
        Where velocity is 0.
    window : tuple of float
        Over which light is summed.
    sides : tuple of tuple of float
        Where the continuum, a straight line, is fitted.
    """

    key: str
    name: str
    wavelength: float
    window: tuple
    sides: tuple


# windows of C IV and Mg II: Vestergaard & Peterson (2006), Wang et al. (2009); iron is part of the continuum
LINES = (
    MeasuredLine("civ", "C IV 1549", 1549.06, (1500.0, 1600.0), ((1445.0, 1465.0), (1690.0, 1710.0))),
    MeasuredLine("mgii", "Mg II 2799", 2798.75, (2700.0, 2900.0), ((2640.0, 2680.0), (2920.0, 2960.0))),
    MeasuredLine("hbeta", "Hβ", 4862.68, (4760.0, 4935.0), ((4720.0, 4750.0), (5080.0, 5110.0))),
    MeasuredLine("oiii", "[O III] 5007", 5008.24, (4988.0, 5030.0), ((4972.0, 4984.0), (5034.0, 5054.0))),
    MeasuredLine("halpha", "Hα and [N II]", 6564.61, (6430.0, 6690.0), ((6350.0, 6400.0), (6760.0, 6820.0))),
)
# free of lines: Vanden Berk et al. (2001), AJ 122, 549
CONTINUUM = np.array(
    [
        (1275, 1290), (1350, 1360), (1445, 1465), (1690, 1710), (1970, 2000), (2150, 2200), (3010, 3040), (3240, 3290),
        (4020, 4040), (4190, 4220), (5080, 5110), (5600, 5650), (6005, 6035), (6890, 7010),
    ],
    dtype="float64",
)  # fmt: skip
_PIVOT = 3000.0  # Å
_QUANTITIES = (
    ("ew", "Angstrom", "spect.line.eqWidth", "rest equivalent width (emission positive) of {}"),
    ("fwhm", "km s-1", "spect.line.width", "FWHM of a Gaussian fitted to {}, not corrected for the instrument"),
    ("velocity", "km s-1", "spect.dopplerVeloc", "velocity that halves the light of {} (negative: blueshift)"),
    ("w80", "km s-1", "spect.line.width", "width that holds the middle 80 per cent of the light of {}"),
)
_FLAGS = "bits, 0 = good: 1 not visible, 2 no line of 5 sigma, 4 no Gaussian fits, 8 no positive continuum"


def measure_lines(spectra, redshift=None):
    """Measure continuum, emission lines and absorption troughs where they are visible.

    Continuum slope of a power law in line-free windows; of C IV, Mg II, Hβ, [O III] 5007 and Hα (blended with [N II])
    the equivalent width and, where it is significant, FWHM, velocity and W80, over a straight continuum of their own
    (iron is not modelled: of Mg II and Hβ part of it counts for continuum); balnicity and absorption index of C IV over
    the best quasar templates. Errors are 1 sigma, propagated from `ivar` through line and continuum.

    Parameters
    ----------
    spectra : xarray.Dataset
        Observed frame, dims ``(object, wavelength)``, vacuum Å; lazy or in memory. Pixels with ``ivar == 0`` count for
        nothing.
    redshift : array_like, shape (n_object,), optional
        The spectra's own by default. Where it is NaN nothing is visible.

    Returns
    -------
    xarray.Dataset
        Dims ``(object,)``: `continuum_slope` (flux per Å goes as wavelength to it) and `continuum_3000` (observed flux
        per Å at rest 3000 Å, extrapolated if need be); ``LINE_ew``, ``LINE_fwhm``, ``LINE_velocity``, ``LINE_w80`` and
        ``LINE_flag`` for LINE in civ, mgii, hbeta, oiii, halpha; `balnicity`, `absorption_index` and `absorption_flag`;
        each with its ``_err``. NaN where the flag says why. Every variable has ``units`` and ``ucd`` in its attrs.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame.
    ValueError
        If there is not one redshift for each object.

    References
    ----------
    Vestergaard & Peterson (2006), ApJ 641, 689 (windows); Whittle (1985), MNRAS 213, 1 (widths from percentiles);
    Weymann et al. (1991), ApJ 373, 23 (balnicity); Trump et al. (2006), ApJS 165, 1 (absorption index).

    Examples
    --------
    >>> import astrolab as al
    >>> lines = al.measure_lines(al.simulate_survey(3, seed=1))
    >>> lines["civ_fwhm"].attrs["units"], lines["civ_fwhm"].attrs["ucd"]
    ('km s-1', 'spect.line.width')
    """
    check_spectra(spectra)
    if WAVELENGTH not in spectra.dims:
        raise SchemaError(
            "the spectra are in the rest frame, expected dims ('object', 'wavelength'): give them as read."
        )
    redshift = np.asarray(spectra["redshift"].values if redshift is None else redshift, "float64")
    n = spectra.sizes[OBJECT]
    if redshift.shape != (n,):
        raise ValueError(f"redshift has shape {redshift.shape}, expected ({n},): one for each object.")
    flux, ivar = whole_spectra(spectra)
    columns = _columns()
    table = da.map_blocks(
        measure_block,
        flux,
        ivar,
        da.from_array(redshift[:, None], chunks=(flux.chunks[0], 1)),
        wavelength=np.asarray(spectra[WAVELENGTH].values, "float64"),
        chunks=(flux.chunks[0], (len(columns),)),
        dtype="float64",
        meta=np.empty((0, 0)),
    ).compute()
    variables = {}
    for (name, attrs), values in zip(columns.items(), table.T, strict=True):
        values = values.astype("int64") if name.endswith("_flag") else values
        variables[name] = (OBJECT, values, attrs)
    coords = {"targetid": spectra["targetid"], "redshift": (OBJECT, redshift, {"ucd": "src.redshift"})}
    return xr.Dataset(variables, coords=coords)


def measure_block(flux, ivar, redshift, wavelength):
    """Measure the spectra of one chunk.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        As observed.
    redshift : numpy.ndarray, shape (n_object, 1)
        Of each object.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed frame, vacuum, Å.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_column), float64
        The columns of `measure_lines`, in order.
    """
    sane = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & (ivar < 1e20) & (np.abs(flux) < 1e15)
    good_flux, good_ivar = np.where(sane, flux, 0).astype("float64"), np.where(sane, ivar, 0).astype("float64")
    step = np.diff(pixel_edges(wavelength))
    parts = []
    for one, weight, z in zip(good_flux, good_ivar, redshift[:, 0], strict=True):
        stretch = 1 + z if np.isfinite(z) and z > -1 else 1e9  # nothing is visible
        at, width = wavelength / stretch, step / stretch
        power = np.empty(4)
        fit_power_law(at, one, weight, CONTINUUM, _PIVOT, power)
        row = [power[[1, 3, 0, 2]]]
        for line in LINES:
            own = np.empty(N_COLUMN)
            measure_line(at, width, one, weight, line.wavelength, *line.window, np.array(line.sides), own)
            row.append(own)
        parts.append(np.concatenate(row))
    lines = np.array(parts).reshape(len(flux), 4 + N_COLUMN * len(LINES))
    near = in_range(good_flux, good_ivar)
    clean, weight, _ = clean_spectra(*near, wavelength)
    absorption = measure_absorption(clean, weight, near[1], wavelength, redshift[:, 0])
    return np.concatenate([lines, absorption], axis=1)


def _columns():
    """Names of the columns of `measure_block`, and the attrs of each."""
    columns = {}
    _add(columns, "continuum_slope", "1", "spect.index;spect.continuum", "index of a power law of flux per Angstrom")
    level = "observed flux per Angstrom at rest 3000 Angstrom"
    _add(columns, "continuum_3000", "1e-17 erg s-1 cm-2 Angstrom-1", "phot.flux.density;spect.continuum", level)
    for line in LINES:
        for quantity, unit, ucd, words in _QUANTITIES:
            _add(columns, f"{line.key}_{quantity}", unit, ucd, words.format(line.name))
        columns[f"{line.key}_flag"] = {"ucd": "meta.code.qual", "long_name": f"{line.name}: {_FLAGS}"}
    for name, words in ABSORPTION:
        _add(columns, name, "km s-1", "spect.line.eqWidth", words)
    columns["absorption_flag"] = {"ucd": "meta.code.qual", "long_name": f"bits, 0 = good: {NOT_VISIBLE} not visible"}
    return columns


def _add(columns, name, unit, ucd, words):
    columns[name] = {"units": unit, "ucd": ucd, "long_name": words}
    columns[f"{name}_err"] = {"units": unit, "ucd": f"stat.error;{ucd}", "long_name": f"1 sigma error of {name}"}
