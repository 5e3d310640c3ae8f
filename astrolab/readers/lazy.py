"""Turn the columns and pixel blocks of many files into one lazy Dataset that keeps to the data model."""

from functools import partial

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from astrolab.readers.files import BadFileError
from astrolab.schema import COLUMNS, FLUX_UNIT, IVAR_UNIT, check_spectra


def lazy_spectra(columns, blocks, read_block, wavelength):
    """Build the Dataset that a reader returns.

    Parameters
    ----------
    columns : list of dict of str to numpy.ndarray
        The in-memory columns of each file, in order; each of shape (n_rows,).
    blocks : list of tuple
        ``(n_rows, *arguments)`` of each block of rows, in the same order.
    read_block : callable
        ``read_block(*arguments)`` gives ``(pixels, problems)``: flux and ivar as one float32 array of shape
        (2, n_rows, n_wavelength), and the bad rows as a dict of row number to reason.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Vacuum, observed frame, Å.

    Returns
    -------
    xarray.Dataset
        Dims (object, wavelength); flux and ivar lazy, one chunk a block.
    """
    sizes = tuple(block[0] for block in blocks)
    name = f"read-spectra-{tokenize(blocks, read_block)}"
    read = partial(_read_good, read_block)
    graph = {(name, 0, i, 0): (read, *block[1:]) for i, block in enumerate(blocks)}
    pixels = da.Array(
        HighLevelGraph.from_collections(name, graph),
        name,
        chunks=((2,), sizes, (len(wavelength),)),
        dtype=np.float32,
    )
    merged = {key: np.concatenate([one[key] for one in columns]) for key in columns[0]}
    return check_spectra(spectra_dataset(pixels[0], pixels[1], wavelength, merged))


def spectra_dataset(flux, ivar, wavelength, columns):
    """Put arrays and columns together, with units.

    Parameters
    ----------
    flux, ivar : array, shape (n_object, n_wavelength), float32
        1e-17 erg/s/cm2/Å and its inverse variance, 0 where a pixel must not be used.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Vacuum, observed frame, Å.
    columns : dict of str to numpy.ndarray
        Columns along object.

    Returns
    -------
    xarray.Dataset
        Dims (object, wavelength).
    """
    attrs = {"units": "Angstrom", "long_name": "vacuum wavelength, observed frame"}
    coords = {"wavelength": ("wavelength", wavelength, attrs)}
    for name, values in columns.items():
        coords[name] = ("object", values, COLUMNS[name][1] if name in COLUMNS else {})
    data = {
        "flux": (("object", "wavelength"), flux, {"units": FLUX_UNIT, "long_name": "flux density"}),
        "ivar": (("object", "wavelength"), ivar, {"units": IVAR_UNIT, "long_name": "inverse variance; 0 = do not use"}),
    }
    return xr.Dataset(data, coords)


def _read_good(read_block, *arguments):
    pixels, problems = read_block(*arguments)
    if problems:
        (path, row), reason = next(iter(problems.items()))
        raise BadFileError(
            path, "bad_pixels", f"row {row}: {reason}; astrolab ingest sets such rows aside and keeps the others"
        )
    return pixels
