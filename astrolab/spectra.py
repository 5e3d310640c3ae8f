"""Dataset in, Dataset out: masks, the rest frame, normalisation."""

from difflib import get_close_matches

import dask.array as da
import numpy as np
import xarray as xr
from numba import njit

from astrolab.lines import SPEED_OF_LIGHT, spectral_lines, without_unit
from astrolab.medians import good_median
from astrolab.pixel_faults import PIXEL_COLUMNS, find_pixel_faults
from astrolab.rebinning import rebin
from astrolab.schema import (
    OBJECT,
    PIXEL_FAULT,
    PIXEL_FAULTS,
    WAVELENGTH,
    WAVELENGTH_REST,
    SchemaError,
    check_spectra,
    spectral_dim,
)


def rest_grid(wavelength_min, wavelength_max, n_wavelength):
    """Make a rest-frame grid whose pixels are equally wide in velocity.

    Parameters
    ----------
    wavelength_min, wavelength_max : float or astropy.units.Quantity
        Centres of the first and the last pixel, rest frame, vacuum, Å (or the unit they have).
    n_wavelength : int
        Number of pixels.

    Returns
    -------
    numpy.ndarray, shape (n_wavelength,)
        Logarithmically spaced pixel centres, Å.

    Raises
    ------
    ValueError
        If the interval is empty, there are fewer than two pixels, or a unit is no length.

    Examples
    --------
    >>> rest_grid(1000, 2000, 3).round(1)
    array([1000. , 1414.2, 2000. ])
    """
    wavelength_min, wavelength_max = without_unit(wavelength_min), without_unit(wavelength_max)
    if not 0 < wavelength_min < wavelength_max:
        raise ValueError(
            f"the rest grid goes from {wavelength_min} to {wavelength_max} Angstrom, expected 0 < first < last."
        )
    if n_wavelength < 2:
        raise ValueError(f"n_wavelength is {n_wavelength}, expected at least 2.")
    return np.geomspace(wavelength_min, wavelength_max, n_wavelength)


def to_restframe(spectra, grid):
    """Shift each spectrum to its rest frame and rebin it onto one common grid.

    Flux is conserved: the flux density is multiplied by ``1 + redshift`` and averaged over each output pixel with the
    overlaps of the input pixels as weights, so the integral over a line is the same before and after. The variance is
    propagated through the same weights. Neighbouring output pixels that share an input pixel are correlated; `ivar`
    holds the diagonal only.

    Parameters
    ----------
    spectra : xarray.Dataset
        Observed spectra, dims ``(object, wavelength)``, vacuum Å; lazy or in memory.
    grid : array_like or astropy.units.Quantity, shape (n_wavelength_rest,)
        Pixel centres of the rest frame, Å (or the unit it has), strictly increasing, such as `rest_grid` makes.

    Returns
    -------
    xarray.Dataset
        The same objects, dims ``(object, wavelength_rest)``, lazy where the input was. Pixels with ``ivar == 0`` do
        not contribute; an output pixel of which good pixels cover less than half has ``flux = ivar = 0``. An object
        whose redshift is NaN or not above -1 stays as a row with ``ivar == 0`` everywhere. ``pixel_faults`` (dims
        ``(object, pixel_fault)``) is what `find_pixel_faults` says of the observed pixels, of which a cosmic ray can
        be told from a line: `score_anomalies` asks it.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame, or the grid does not increase.
    ValueError
        If the grid's unit is no length.

    Notes
    -----
    Overlap weights are those of Carnall (2017, arXiv:1705.05165); the kernel walks both grids once.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.to_restframe(al.simulate_survey(3, seed=0), al.rest_grid(1216, 2900, 100))
    >>> rest.flux.shape
    (3, 100)
    """
    check_spectra(spectra)
    if spectral_dim(spectra) != WAVELENGTH:
        raise SchemaError("the spectra are in the rest frame already, expected the observed frame ('wavelength').")
    grid = np.asarray(without_unit(grid), dtype="float64")
    if grid.ndim != 1 or len(grid) < 2 or not np.all(np.diff(grid) > 0) or not 0 < grid[0] < grid[-1] < np.inf:
        raise SchemaError("the rest grid is no increasing row of positive Angstroms: rest_grid(1216, 2900, 1000).")
    edges = {"edges_in": pixel_edges(spectra[WAVELENGTH].values), "edges_out": pixel_edges(grid)}
    n_columns = max(len(grid), len(PIXEL_COLUMNS))
    planes = _map_pixels(_rebin_and_search, spectra, 3, n_columns, wavelength=spectra[WAVELENGTH].values, **edges)
    flux, ivar = (
        xr.DataArray(plane[:, : len(grid)], dims=(OBJECT, WAVELENGTH_REST), attrs=spectra[name].attrs)
        for name, plane in zip(("flux", "ivar"), planes[:2], strict=True)
    )
    faults = planes[2][:, : len(PIXEL_COLUMNS)]
    faults = xr.DataArray(faults, dims=(OBJECT, PIXEL_FAULT), attrs={"columns": PIXEL_COLUMNS})
    rest = spectra.drop_vars(["flux", "ivar", WAVELENGTH]).drop_dims(WAVELENGTH, errors="ignore")
    attrs = {"units": "Angstrom", "frame": "rest, vacuum"}
    rest = rest.assign({"flux": flux, "ivar": ivar, PIXEL_FAULTS: faults})
    return rest.assign_coords({WAVELENGTH_REST: (WAVELENGTH_REST, grid, attrs)})


def normalize_flux(spectra):
    """Divide each spectrum by its own brightness, so that shapes can be compared.

    The brightness is the median flux of the good pixels, or their typical sigma (that of the median ivar) where that is
    larger, so that noise is never blown up above one.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory.

    Returns
    -------
    xarray.Dataset
        `flux` (dimensionless) and `ivar` scaled together, S/N unchanged; pixels with ``ivar == 0`` do not count, and a
        spectrum without a good pixel stays zero.

    Examples
    --------
    >>> import astrolab as al
    >>> al.normalize_flux(al.simulate_survey(3, seed=0)).flux.attrs["units"]
    'median flux of the spectrum'
    """
    check_spectra(spectra)
    dim = spectral_dim(spectra)
    planes = _map_pixels(_normalize_block, spectra, 2, spectra.sizes[dim])
    units = "median flux of the spectrum", "1 / (median flux of the spectrum)^2"
    return spectra.assign(
        {
            name: ((OBJECT, dim), plane, spectra[name].attrs | {"units": unit})
            for name, plane, unit in zip(("flux", "ivar"), planes, units, strict=True)
        }
    )


def mask_lines(spectra, lines, *, width=3000.0):
    """Mask the pixels around spectral lines.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra in either frame, lazy or in memory. In the observed frame the lines are shifted by each object's
        `redshift`; of an object without one nothing is masked.
    lines : str, float, astropy.units.Quantity, or sequence of them
        Names as in `spectral_lines`, or rest vacuum wavelengths in Å (or the unit they have).
    width : float or astropy.units.Quantity, optional
        Full width of what is masked around each line, km/s (or the unit it has).

    Returns
    -------
    xarray.Dataset
        The same with ``ivar = 0`` in these pixels; flux, and pixels masked before, stay as they are.

    Raises
    ------
    ValueError
        If a name is not in the table of lines, a wavelength is not positive, the width is negative, or a unit is
        not one of wavelength or velocity.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.to_restframe(al.simulate_survey(3, seed=0), al.rest_grid(1216, 2900, 100))
    >>> masked = al.mask_lines(rest, ["C IV", 2798.75], width=5000)
    >>> rest.wavelength_rest.values[(masked.ivar == 0).all("object")].round()[-2:]
    array([2775., 2800.])
    """
    check_spectra(spectra)
    width = without_unit(width, "km / s")
    if not width >= 0:
        raise ValueError(f"width is {width}, expected km/s, not negative: width=3000.")
    dim = spectral_dim(spectra)
    redshift = spectra["redshift"] if dim == WAVELENGTH else xr.zeros_like(spectra["redshift"])
    wavelengths = _line_wavelengths([lines] if isinstance(lines, str) or not np.iterable(lines) else lines)
    ivar = spectra["ivar"]
    ivar = xr.apply_ufunc(
        _mask_block,
        ivar.chunk({dim: -1}) if ivar.chunks else ivar,
        redshift,
        kwargs={"wavelength": spectra[dim].values, "lines": wavelengths, "reach": 0.5 * width / SPEED_OF_LIGHT},
        input_core_dims=[[dim], []],
        output_core_dims=[[dim]],
        dask="parallelized",
        output_dtypes=["float32"],
        keep_attrs=True,
    )
    return spectra.assign(ivar=ivar)


def pixel_edges(centres):
    """Return the edges between pixels, half-way between their centres.

    Parameters
    ----------
    centres : numpy.ndarray, shape (n,)
        Increasing pixel centres, Å.

    Returns
    -------
    numpy.ndarray, shape (n + 1,)
        Edges, Å; the outer pixels are as wide as their inner halves say.

    Examples
    --------
    >>> pixel_edges(np.array([1.0, 2.0, 4.0]))
    array([0.5, 1.5, 3. , 5. ])
    """
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _line_wavelengths(lines):
    known = {line.name: line.wavelength for line in spectral_lines()}
    unknown = [line for line in lines if isinstance(line, str) and line not in known]
    if unknown:
        spelled = {name.replace("α", "a").replace("β", "b").replace("γ", "g"): name for name in known}
        near = spelled[get_close_matches(unknown[0], spelled, n=1, cutoff=0.0)[0]]
        raise ValueError(
            f"there is no line {unknown[0]!r} in the table of lines; did you mean {near!r}? A wavelength in Angstrom "
            "(rest, vacuum) will do too."
        )
    wavelengths = np.array([known[line] if isinstance(line, str) else without_unit(line) for line in lines], "float64")
    if not np.all(wavelengths > 0):
        raise ValueError(f"a line is at {wavelengths.min()} Angstrom, expected a positive rest wavelength.")
    return wavelengths


def _mask_block(ivar, redshift, *, wavelength, lines, reach):
    stretch = 1 + np.asarray(redshift)[:, None]
    rest = wavelength / np.where(stretch > 0, stretch, np.nan)
    is_masked = np.zeros(ivar.shape, bool)
    for line in lines:
        is_masked |= np.abs(rest / line - 1) <= reach
    return np.where(is_masked, 0, ivar).astype("float32")


def _map_pixels(function, spectra, n_planes, n_columns, **options):
    """Apply a function of blocks of flux, ivar and redshift that gives planes, shape (n_planes, object, n_columns).

    xarray.apply_ufunc would copy every block before and after: as much time as the function itself takes. And two
    functions of the same blocks would keep them in memory from one to the other.
    """
    pixels, redshift = [spectra[name].data for name in ("flux", "ivar")], spectra["redshift"].values
    if any(isinstance(part, da.Array) for part in pixels):
        flux = da.asarray(pixels[0]).rechunk({1: -1})
        n_rows = flux.chunks[0]
        redshift = da.from_array(redshift[:, None], chunks=(n_rows, 1))
        both = da.map_blocks(
            function,
            flux,
            da.asarray(pixels[1]).rechunk(flux.chunks),
            redshift,
            new_axis=0,
            chunks=((n_planes,), n_rows, (n_columns,)),
            meta=np.empty((0, 0, 0), "float32"),
            **options,
        )
    else:
        both = function(*pixels, redshift, **options)
    return list(both)


def _rebin_and_search(flux, ivar, redshift, *, wavelength, edges_in, edges_out):
    """Return flux and ivar on the rest grid and, in the first columns of the third plane, what observed pixels say."""
    n_out, n_faults = len(edges_out) - 1, len(PIXEL_COLUMNS)
    planes = np.zeros((3, len(flux), max(n_out, n_faults)), "float32")
    _rebin(flux, ivar, redshift, edges_in, edges_out, planes[:2, :, :n_out])
    planes[2, :, :n_faults] = find_pixel_faults(flux, ivar, wavelength)
    return planes


def _rebin_block(flux, ivar, redshift, *, edges_in, edges_out):
    both = np.zeros((2, len(flux), len(edges_out) - 1), "float32")
    _rebin(flux, ivar, redshift, edges_in, edges_out, both)
    return both


def _rebin(flux, ivar, redshift, edges_in, edges_out, both):
    redshift = np.ravel(redshift).astype("float64")
    rebin(np.ascontiguousarray(flux), np.ascontiguousarray(ivar), redshift, edges_in, edges_out, both[0], both[1])


def _normalize_block(flux, ivar, _):
    both = np.empty((2, *flux.shape), "float32")
    _normalize(np.ascontiguousarray(flux), np.ascontiguousarray(ivar), both[0], both[1])
    return both


@njit(nogil=True, cache=True, error_model="numpy")
def _normalize(flux, ivar, flux_out, ivar_out):
    tops = np.empty(flux.shape[1], np.int16)
    for i in range(len(flux)):
        scale = _brightness(flux[i], ivar[i], tops)
        for k in range(flux.shape[1]):
            flux_out[i, k] = flux[i, k] / scale if ivar[i, k] > 0 else np.float32(0)
            ivar_out[i, k] = ivar[i, k] * (scale * scale)


@njit(nogil=True, cache=True, error_model="numpy")
def _brightness(flux, ivar, tops):
    median = good_median(flux, ivar, tops)
    power, n_good, n_bright = median * median, np.int32(0), np.int32(0)
    for k in range(len(flux)):
        n_good = np.int32(n_good + (ivar[k] > 0))
        n_bright = np.int32(n_bright + (ivar[k] * power >= 1))
    if n_good == 0:
        return np.float32(1)
    if median > 0 and 2 * n_bright > n_good:  # above the sigma of most pixels, and so above the typical one
        return median
    typical = max(good_median(ivar, ivar, tops), np.float32(np.finfo(np.float32).tiny))
    return max(median, np.float32(1) / np.sqrt(typical))
