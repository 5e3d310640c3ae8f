"""SDSS, BOSS and eBOSS spectra: one spec-PLATE-MJD-FIBER.fits an object.

Data model: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html: HDU 1 the coadded
spectrum (named COADD, or without a name), HDU 2 the pipeline's row (SPECOBJ, SPALL, or without a name).
"""

import numpy as np

from astrolab.readers.files import find_files
from astrolab.readers.fits import Rows, open_fits
from astrolab.readers.lazy import lazy_spectra

_FIRST, _LAST = 35400, 40250
WAVELENGTH = 10 ** (1e-4 * np.arange(_FIRST, _LAST + 1))  # Å, vacuum: 4851 pixels of 69 km/s, 3467–10593 Å
WAVELENGTH.flags.writeable = False
BLOCK_FILES = 256
_TOLERANCE = 0.05  # pixels; float32 loglam is off by up to 0.003

# SPPIXMASK bits of AND_MASK (set in every exposure) after which a pixel says nothing: no fibre, full rejection, no sky,
# no data, rejected in combining, bad flux factor, bad sky χ², red monster (https://www.sdss.org/dr17/algorithms/bitmasks).
# The pipeline gives most of them ivar 0 already. BRIGHTSKY and the bits for a whole fibre stay: their ivar is honest
# ((flux - model) sqrt(ivar) scatters by 1.09 where BRIGHTSKY is set and by 1.14 where nothing is, over 345 spectra).
DO_NOT_USE = sum(1 << bit for bit in (0, 18, 22, 24, 25, 26, 27, 28))
_ZWARNING_NOT_A_TARGET = (1 << 0) | (1 << 7) | (1 << 9)  # SKY, UNPLUGGED, NODATA


def read_sdss(path):
    """Read SDSS, BOSS or eBOSS spectra into one lazy Dataset.

    All spectra lie on one logarithmic grid, ``log10(wavelength) = 1e-4 i``, and are placed on it without resampling.

    Parameters
    ----------
    path : str, path-like, or list of these
        File, folder (every FITS file below it, whatever its name), glob, or fsspec URL.

    Returns
    -------
    xarray.Dataset
        Dims (object, wavelength), one row a file: flux (1e-17 erg/s/cm2/Å) and ivar, lazy; columns in memory; vacuum
        wavelengths 3467–10593 Å, observed frame. `targetid` is the digits PLATE MJD(5) FIBER(4). Pixels outside a
        spectrum, and those whose AND_MASK says so (`DO_NOT_USE`), have ivar 0 and flux 0. Sky fibres are rows too:
        ``is_target`` is False.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BadFileError
        If a file is damaged or not an SDSS spectrum; when pixels are computed, also for NaN flux or negative ivar.
    SchemaError
        If one spectrum stands in two of the files.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.read_sdss("sdss/spec-*.fits")  # doctest: +SKIP
    """
    files = find_files(path)
    columns = [read_columns(file).columns for file in files]
    blocks = [(len(some), some) for some in (files[i : i + BLOCK_FILES] for i in range(0, len(files), BLOCK_FILES))]
    return lazy_spectra(columns, blocks, _read_files, WAVELENGTH)


def plan_blocks(file, rows):
    """Return the blocks in which the pixels of a file are read.

    Parameters
    ----------
    file : str
        Path or URL.
    rows : Rows
        What `read_columns` gave.

    Returns
    -------
    list of tuple
        ``(n_rows, file, start, stop)``.
    """
    return [(len(rows.columns["targetid"]), file, 0, 1)]


def read_columns(path):
    """Read the per-object columns of one file: one row.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    Rows

    Raises
    ------
    BadFileError
        If the file is damaged or not an SDSS spectrum.
    """
    with open_fits(path) as file:
        coadd, pipeline = _tables(file)
        file.verify_small()
        column = file.table(pipeline)
        columns = _identity(file, column, pipeline)
        objtype = "SKY" if _first(column, "U", "OBJTYPE", "SOURCETYPE").upper() == "SKY" else "TGT"
        warning = column("ZWARNING", "i")
        columns |= {
            "redshift": column("Z", "f"),
            "redshift_err": column("Z_ERR", "f"),
            "redshift_warning": warning,
            "spectype": column("CLASS", "U"),
            "subtype": column("SUBCLASS", "U", ""),
            "survey": np.array(["sdss"]),
            "program": np.array([_first(column, "U", "RUN2D")]),
            "objtype": np.array([objtype]),
            "is_target": (warning & _ZWARNING_NOT_A_TARGET == 0) & (objtype == "TGT"),
        }
        has_checksum = all({"CHECKSUM", "DATASUM"} & file.hdus[name].cards.keys() for name in (coadd, pipeline))
    return Rows(columns, has_checksum)


def read_pixels(path, start=0, stop=1):
    """Read one spectrum and place it on the common grid.

    Parameters
    ----------
    path : str
        Path or URL.
    start, stop : int, optional
        Rows: a file has one.

    Returns
    -------
    pixels : numpy.ndarray, shape (2, 1, 4851), float32
        Flux and ivar; flux is 0 where ivar is 0.
    problems : dict of (str, int) to str
        Path and row number of each row that must not be used, with the reason.

    Raises
    ------
    BadFileError
        If the file is damaged, or its wavelengths do not lie on the grid.
    """
    pixels = np.zeros((2, 1, len(WAVELENGTH)), np.float32)
    with open_fits(path) as file:
        column = file.table(_tables(file)[0])
        where = _grid_slice(file, column("LOGLAM", "f"))
        flux, ivar = column("FLUX", "f").astype(np.float32), column("IVAR", "f").astype(np.float32)
        ivar[column("AND_MASK", "i") & DO_NOT_USE != 0] = 0
    flux[ivar == 0] = 0
    pixels[0, 0, where], pixels[1, 0, where] = flux, ivar
    n_ivar = np.count_nonzero(~((ivar >= 0) & (ivar < np.inf)))
    n_flux = np.count_nonzero(~np.isfinite(flux))
    if n_ivar:
        return pixels, {(path, 0): f"ivar is negative or not finite in {n_ivar} pixels"}
    if n_flux:
        return pixels, {(path, 0): f"flux is not finite in {n_flux} pixels that are not masked"}
    return pixels, {}


def read_block(path, start=0, stop=1):
    """Read one spectrum for `PixelBlocks`.

    Parameters
    ----------
    path : str
        Path or URL.
    start, stop : int, optional
        Rows: a file has one.

    Returns
    -------
    ReadyRows
    """
    return ReadyRows(*read_pixels(path, start, stop))


class ReadyRows:
    """Spectra that only have to be put in their place.

    Parameters
    ----------
    pixels, problems
        As `read_pixels` gives them.
    """

    def __init__(self, pixels, problems):
        self._pixels = pixels
        self._problems = {row: reason for (_, row), reason in problems.items()}

    def fill(self, rows, pixels, places):
        """Put rows in their places, and return those of them that must not be used, with the reason."""
        pixels[:, places] = self._pixels[:, rows]
        return self._problems


def _read_files(paths):
    pixels = np.empty((2, len(paths), len(WAVELENGTH)), np.float32)
    problems = {}
    for i, path in enumerate(paths):
        one, reasons = read_pixels(path)
        pixels[:, i] = one[:, 0]
        problems |= reasons
    return pixels, problems


def _tables(file):
    """Return the names of the coadded spectrum and of the pipeline's row."""
    names = list(file.hdus)
    if len(names) < 3 or names[1] not in ("COADD", "1") or names[2] not in ("SPECOBJ", "SPALL", "2"):
        raise file.bad(
            "missing_hdu", "is not an SDSS spectrum: HDU 1 COADD and HDU 2 SPECOBJ or SPALL are not both there"
        )
    if file.n_rows(names[2]) != 1:
        raise file.bad(
            "shape", f"HDU {names[2]} has {file.n_rows(names[2])} rows, expected one: a file is one spectrum"
        )
    if not file.n_rows(names[1]):
        raise file.bad("shape", "has a spectrum without pixels")
    if next(iter(file.hdus.values())).get("VACUUM", True) is False:
        raise file.bad("wavelength", "states wavelengths in air, expected vacuum")
    return names[1], names[2]


def _identity(file, column, pipeline):
    primary = next(iter(file.hdus.values()))
    found = {}
    for name, keyword in (("PLATE", "PLATEID"), ("MJD", "MJD"), ("FIBERID", "FIBERID")):
        in_header = primary.get(keyword)
        value = int(column(name, "i", -1 if in_header is None else in_header)[0])
        if in_header not in (None, value):
            raise file.bad("damaged", f"is {keyword} {in_header} by its first header and {value} by HDU {pipeline}")
        found[name] = value
    plate, mjd, fiber = found.values()
    if not (0 < plate < 10**6 and 0 < mjd < 10**5 and 0 < fiber < 10**4):
        raise file.bad("damaged", f"states plate {plate}, MJD {mjd}, fibre {fiber}, which no spectrum has")
    return {
        "targetid": np.array([int(f"{plate}{mjd:05d}{fiber:04d}")]),
        "ra": _either(column, "PLUG_RA", "RA"),
        "dec": _either(column, "PLUG_DEC", "DEC"),
    }


def _either(column, first, second):
    values = column(first, "f", np.nan)
    return column(second, "f") if np.isnan(values).all() else values


def _first(column, kind, *names):
    """Return the first of these columns that says something."""
    return next((str(value) for name in names if (value := column(name, kind, "")[0])), "")


def _grid_slice(file, loglam):
    index = loglam * 1e4
    if not np.all(np.diff(index) > 0):
        raise file.bad("wavelength", "the wavelengths do not increase")
    first = round(index[0])
    on_grid = np.all(np.abs(index - np.arange(first, first + len(index))) < _TOLERANCE)
    if not on_grid or first < _FIRST or first + len(index) - 1 > _LAST:
        raise file.bad(
            "wavelength", "the wavelengths do not lie on the grid log10(Å) = 1e-4 i, 3467–10593 Å, of SDSS spectra"
        )
    return slice(first - _FIRST, first - _FIRST + len(index))
