"""DESI coadds: cameras B, R and Z of one petal or healpix pixel, and the redrock redshifts beside them.

Data model: https://desidatamodel.readthedocs.io (coadd-SURVEY-PROGRAM-PIXNUM.fits, redrock-SURVEY-PROGRAM-PIXNUM.fits).
RESOLUTION, four fifths of a file, is never read.
"""

import os
import posixpath
from itertools import pairwise

import numpy as np

from astrolab.readers.cameras import WAVELENGTH, Arm, CameraRows
from astrolab.readers.files import BadFileError, exists, find_files
from astrolab.readers.fits import Rows, open_fits
from astrolab.readers.lazy import lazy_spectra
from astrolab.schema import NO_REDSHIFT

CAMERAS = ("B", "R", "Z")
BLOCK_ROWS = 1024
_TOLERANCE = 0.01  # Å; float32 wavelengths are off by up to 0.0005
_COMPANIONS = {"REDSHIFTS", "ZBEST", "MGII", "QN_RR", "EMLINEFIT"}

# FIBERSTATUS bits after which the spectrum is not that of its target (desispec.fiberbitmasking, bits for all cameras):
# unassigned, broken fibre, missing or bad position, bad fibre, trace, flat, arc, many bad columns, many rejected.
# The others inform (stuck, restricted, poor position) or concern one arm, whose ivar is 0 already (bad amplifier).
FATAL_FIBERSTATUS = sum(1 << bit for bit in (0, 2, 8, 9, 16, 17, 18, 19, 20, 21))


def read_desi(path, *, survey=None, program=None, healpix=None):
    """Read DESI coadds into one lazy Dataset.

    The cameras are coadded, weighted by inverse variance, onto the one grid of 3600–9824 Å in steps of 0.8 Å, on which
    all of them lie. Redshifts come from the redrock file beside each coadd, matched by TARGETID.

    Parameters
    ----------
    path : str, path-like, or list of these
        File, folder (every coadd below it), glob, or fsspec URL such as ``s3://…`` (anonymous without credentials).
    survey, program : str, optional
        Such as ``"main"`` and ``"dark"``; with any of these three, `path` is the root of a production, such as
        ``…/iron``, and only the coadds of its healpix tree that match are read.
    healpix : int or list of int, optional
        Healpix pixels, nside 64, nested.

    Returns
    -------
    xarray.Dataset
        Dims (object, wavelength): flux (1e-17 erg/s/cm2/Å) and ivar, lazy; columns in memory; vacuum wavelengths,
        observed frame, Å. Pixels with MASK ≠ 0 and arms that are not there have ivar 0 and, where no other arm sees
        them, flux 0. Sky and blank fibres are rows too: ``is_target`` is False. ``attrs["is_simulated"]`` is 1 where a
        file says so.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    BadFileError
        If a file is damaged or not a DESI coadd; when pixels are computed, also for NaN flux or negative ivar.
    SchemaError
        If one TARGETID stands in two of the files.

    Notes
    -----
    Coaddition: ``ivar = Σ ivar_c``, ``flux = Σ ivar_c flux_c / ivar`` over the cameras c, as coadd_cameras of desispec
    does for a diagonal covariance.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.read_desi("s3://desidata/iron", survey="main", program="dark", healpix=10016)  # doctest: +SKIP
    """
    if survey is not None or program is not None or healpix is not None:
        path = _healpix_files(os.fspath(path), survey, program, healpix)
    files = [(file, rows) for file in find_files(path) if (rows := read_columns(file)) is not None]
    if not files:
        raise FileNotFoundError(f"'{path}' holds redrock or other companion files but no DESI coadd.")
    blocks = [block for file, rows in files for block in plan_blocks(file, rows)]
    spectra = lazy_spectra([rows.columns for _, rows in files], blocks, read_pixels, WAVELENGTH)
    return spectra.assign_attrs(is_simulated=1) if any(rows.is_simulated for _, rows in files) else spectra


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
    n_rows = len(rows.columns["targetid"])
    edges = [*range(0, n_rows, BLOCK_ROWS), n_rows]
    return [(stop - start, file, start, stop) for start, stop in pairwise(edges)]


def read_columns(path):
    """Read the per-object columns of one coadd and check that its images fit together.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    Rows or None
        None for a file that goes with a coadd, such as redrock's: it has no spectra of its own.

    Raises
    ------
    BadFileError
        If the coadd, or the redrock file beside it, is damaged or not what it should be.
    """
    with open_fits(path) as file:
        has_arm = any(name[:2] in ("B_", "R_", "Z_") for name in file.hdus)
        if not has_arm and _COMPANIONS & file.hdus.keys():
            return None
        if not has_arm:
            raise file.bad("missing_hdu", "is not a DESI coadd: it has no HDU B_FLUX, R_FLUX or Z_FLUX")
        n_rows = file.n_rows("FIBERMAP")
        cameras = _check_cameras(file, n_rows)
        _grid_slices(file, cameras)
        file.verify_small()
        columns = _fibermap_columns(file, n_rows)
        used = ["FIBERMAP", *(name for name in file.hdus if name[:1] in cameras and name[1:] in _USED)]
        has_checksum = all({"CHECKSUM", "DATASUM"} & file.hdus[name].cards.keys() for name in used)
        is_simulated = next(iter(file.hdus.values())).get("SIMULATD", False) is True
    columns.update(_redshift_columns(path, columns["targetid"]))
    return Rows(columns, has_checksum, is_simulated)


def read_pixels(path, start, stop):
    """Read rows of a coadd and coadd the cameras.

    Parameters
    ----------
    path : str
        Path or URL.
    start, stop : int
        Rows.

    Returns
    -------
    pixels : numpy.ndarray, shape (2, stop - start, 7781), float32
        Flux and ivar; flux is 0 where ivar is 0.
    problems : dict of (str, int) to str
        Path and row number of each row that must not be used, with the reason.

    Raises
    ------
    BadFileError
        If the file is damaged.
    """
    block = read_block(path, start, stop)
    pixels = np.empty((2, stop - start, len(WAVELENGTH)), np.float32)
    problems = block.fill(np.arange(stop - start), pixels, np.arange(stop - start))
    return pixels, {(path, start + row): reason for row, reason in problems.items()}


def read_block(path, start, stop):
    """Read rows of a coadd, verified, as they lie in the file.

    Parameters
    ----------
    path : str
        Path or URL.
    start, stop : int
        Rows.

    Returns
    -------
    CameraRows

    Raises
    ------
    BadFileError
        If the file is damaged.
    """
    with open_fits(path) as file:
        cameras = _check_cameras(file, file.n_rows("FIBERMAP"))
        return CameraRows(_read_cameras(file, cameras, start, stop))


def read_arms(path, targetid):
    """Read the single arms of one object of a coadd, and no other object's pixels.

    Checksums are not verified, for which all of a file would be read: compare the coadd with what is known of it.

    Parameters
    ----------
    path : str
        Path or URL.
    targetid : int
        The object.

    Returns
    -------
    dict of str to numpy.ndarray, or None
        ``"coadd"``, as `read_desi` gives it, and ``"B"``, ``"R"``, ``"Z"``, those that the file has: flux
        (1e-17 erg/s/cm2/Å) and ivar of shape (2, 7781), float32, on the grid of 3600–9824 Å; 0 where an arm does not
        see, and where a pixel must not be used. None where the file has no such object.

    Raises
    ------
    BadFileError
        If the file is damaged, or not a DESI coadd.

    Examples
    --------
    >>> from astrolab.readers.desi import read_arms
    >>> read_arms("coadd-main-dark-10016.fits", 39627652591521181)["B"]  # doctest: +SKIP
    """
    with open_fits(path, with_checksums=False) as file:
        rows = np.flatnonzero(file.table("FIBERMAP")("TARGETID", "i") == targetid)
        if not len(rows):
            return None
        cameras = _check_cameras(file, file.n_rows("FIBERMAP"))
        arms = _read_cameras(file, cameras, rows[0], rows[0] + 1)
    return {"coadd": _only_row(arms), **{camera: _only_row({camera: arm}) for camera, arm in arms.items()}}


_USED = ("_WAVELENGTH", "_FLUX", "_IVAR", "_MASK")


def _check_cameras(file, n_rows):
    """Return the cameras of a file whose images all have the shapes they must have."""
    cameras = [camera for camera in CAMERAS if any(camera + part in file.hdus for part in _USED)]
    with_mask = [camera for camera in cameras if camera + "_MASK" in file.hdus]
    if with_mask and with_mask != cameras:
        raise file.bad("missing_hdu", f"has HDU {with_mask[0]}_MASK but not the MASK of every camera")
    for camera in cameras:
        expected = (n_rows, *file.shape(camera + "_WAVELENGTH"))
        for part in _USED[1 : 3 + bool(with_mask)]:
            if file.shape(camera + part) != expected:
                found = file.shape(camera + part)
                raise file.bad("shape", f"HDU {camera}{part} has shape {found}, expected {expected}")
    return cameras


def _grid_slices(file, cameras):
    """Return where each arm lies on the grid."""
    slices = {camera: _grid_slice(file, camera) for camera in cameras}
    starts = [where.start for where in slices.values()]
    if starts != sorted(starts):
        raise file.bad("wavelength", f"has its cameras {', '.join(cameras)} in the wrong order: arms are swapped")
    return slices


def _grid_slice(file, camera):
    wavelength = file.image(camera + "_WAVELENGTH").astype(np.float64)
    first = round((wavelength[0] - WAVELENGTH[0]) / 0.8) if wavelength.size and np.isfinite(wavelength[0]) else -1
    where = slice(first, first + len(wavelength))
    grid = WAVELENGTH[where] if first >= 0 else WAVELENGTH[:0]
    if len(grid) != len(wavelength) or not np.all(np.abs(wavelength - grid) < _TOLERANCE):
        what = "increase" if np.any(~(np.diff(wavelength) > 0)) else "lie on the grid 3600–9824 Å in steps of 0.8 Å"
        raise file.bad("wavelength", f"the wavelengths of camera {camera} do not {what}")
    return where


def _read_cameras(file, cameras, start, stop):
    arms = {}
    for camera, where in _grid_slices(file, cameras).items():
        flux, ivar = (_bits(file.image(camera + part, start, stop)) for part in ("_FLUX", "_IVAR"))
        if len(flux) < file.shape(camera + "_FLUX")[0]:  # a few rows would keep the bytes of all
            flux, ivar = flux.copy(), ivar.copy()
        has_mask = camera + "_MASK" in file.hdus
        is_masked = file.flags(camera + "_MASK", start, stop) if has_mask else np.zeros((len(flux), 0), bool)
        arms[camera] = Arm(flux, ivar, is_masked, where)
    return arms


def _only_row(arms):
    pixels, one = np.empty((2, 1, len(WAVELENGTH)), np.float32), np.zeros(1, int)
    CameraRows(arms).fill(one, pixels, one)
    return pixels[:, 0]


def _bits(image):
    return np.ascontiguousarray(image, ">f4").view(np.uint32)


def _fibermap_columns(file, n_rows):
    column = file.table("FIBERMAP")
    targetid = column("TARGETID", "i")
    objtype = column("OBJTYPE", "U", "?")
    status = column("COADD_FIBERSTATUS", "i", -1)
    if (status < 0).all():
        status = column("FIBERSTATUS", "i", 0)
    is_target = np.isin(objtype, ("TGT", "?")) & ((status & FATAL_FIBERSTATUS) == 0) & (targetid > 0)
    primary = next(iter(file.hdus.values()))
    healpix = primary.get("HPXPIXEL", -1)
    return {
        "targetid": targetid,
        "ra": column("TARGET_RA", "f", np.nan),
        "dec": column("TARGET_DEC", "f", np.nan),
        "survey": np.full(n_rows, str(primary.get("SURVEY", "desi"))),
        "program": np.full(n_rows, str(primary.get("PROGRAM", ""))),
        "healpix": np.full(n_rows, healpix if isinstance(healpix, int) else -1, np.int32),
        "objtype": np.where(objtype == "?", "", objtype),
        "fiberstatus": status,
        "is_target": is_target,
    }


def _redshift_columns(path, targetid):
    n_rows = len(targetid)
    columns = {
        "redshift": np.full(n_rows, np.nan),
        "redshift_err": np.full(n_rows, np.nan),
        "redshift_warning": np.full(n_rows, NO_REDSHIFT, np.int64),
        "spectype": np.full(n_rows, "", "U6"),
        "subtype": np.full(n_rows, "", "U20"),
        "delta_chi2": np.full(n_rows, np.nan),
    }
    redrock = _redrock_path(path)
    if redrock is None:
        return columns
    with open_fits(redrock) as file:
        column = file.table("REDSHIFTS")
        fitted = column("TARGETID", "i")
        found = {
            "redshift": column("Z", "f"),
            "redshift_err": column("ZERR", "f"),
            "redshift_warning": column("ZWARN", "i"),
            "spectype": column("SPECTYPE", "U"),
            "subtype": column("SUBTYPE", "U", ""),
            "delta_chi2": column("DELTACHI2", "f", np.nan),
        }
    order = np.argsort(fitted, kind="stable")
    if np.any(np.diff(fitted[order]) == 0):
        raise BadFileError(redrock, "damaged", "gives two redshifts for one TARGETID")
    if not len(fitted):
        return columns
    at = np.minimum(np.searchsorted(fitted[order], targetid), len(fitted) - 1)
    row = order[at]
    has = fitted[row] == targetid
    for name, values in found.items():
        columns[name] = np.where(has, values[row], columns[name])
    return columns


def _redrock_path(path):
    folder, name = posixpath.split(path)
    for prefix in ("coadd", "spectra"):
        if name.startswith(prefix):
            beside = posixpath.join(folder, "redrock" + name.removeprefix(prefix))
            return beside if exists(beside) else None
    return None


def _healpix_files(root, survey, program, healpix):
    pixels = healpix if isinstance(healpix, (list, tuple, np.ndarray)) else [healpix]
    tree = root if posixpath.basename(root.rstrip("/")) == "healpix" else posixpath.join(root, "healpix")
    survey, program = survey or "*", program or "*"
    return [
        posixpath.join(tree, survey, program, "*", "*", f"coadd-{survey}-{program}-*.fits*")
        if pixel is None
        else posixpath.join(
            tree, survey, program, str(pixel // 100), str(pixel), f"coadd-{survey}-{program}-{pixel}.fits*"
        )
        for pixel in pixels
    ]
