"""Write simulated spectra as DESI files: a coadd and a redrock file for each healpix pixel, and the truth.

Layout and HDUs follow https://desidatamodel.readthedocs.io (``healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM``). RESOLUTION,
four fifths of a real file, is left out, and so are the columns of FIBERMAP and SCORES that only DESI's own pipeline
knows.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from tqdm.auto import tqdm

from astrolab.medians import median_snr
from astrolab.schema import OBJECT, check_spectra
from astrolab.simulation.grid import CAMERAS, N_WAVELENGTH, WAVELENGTH
from astrolab.simulation.instrument import EXPOSURE_TIME, coadd_ivar

_BATCH = 1024  # objects in memory at a time
_OVERLAPS = (("b", "r"), ("r", "z"))
_DESI_TARGET = {"QSO": 1 << 2, "SKY": 1 << 32}  # desitarget's bits; a star or galaxy was targeted as a quasar too
_FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
_IVAR_UNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"


def write_desi_files(spectra, out_dir, *, progress=True):
    """Write a simulated survey as DESI coadd and redrock files, which `read_desi` reads back equal.

    The cameras' own spectra are drawn so that their coadd (``ivar = Σ ivar_c``, ``flux = Σ ivar_c flux_c / ivar``) is
    the given one, to float32 rounding: where two cameras overlap, their difference is Gaussian with the variance that
    their inverse variances say. Spectra are computed and written in batches; a survey of any size needs the memory of
    one.

    Parameters
    ----------
    spectra : xarray.Dataset
        From `simulate_survey`, or a part of it: dims ``(object, wavelength)``, on DESI's grid, observed frame. Pixels
        with ``ivar == 0`` get MASK 1.
    out_dir : str or pathlib.Path
        New or empty folder. Gets ``healpix/main/dark/…/coadd-*.fits`` and ``redrock-*.fits``, and ``truth.csv``.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    list of pathlib.Path
        The coadd files.

    Raises
    ------
    ValueError
        If the spectra are not simulated (the files say that they are), not on DESI's grid, or without healpix.
    FileExistsError
        If `out_dir` is a file or holds something.

    Examples
    --------
    >>> import astrolab as al, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = al.write_desi_files(al.simulate_survey(2, seed=0), folder, progress=False)
    ...     al.read_desi(folder).sizes["object"]
    2
    """
    check_spectra(spectra)
    _check_simulated(spectra)
    out_dir = Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"'{out_dir}' exists and is not an empty folder; give the name of a new one.")
    out_dir.mkdir(parents=True, exist_ok=True)
    table = _table(spectra)
    paths = []
    with tqdm(total=len(table), unit=" spectra", desc="simulate", disable=not progress) as bar:
        for batch in _batches(table):
            rows = np.concatenate([group.index.to_numpy() for _, group in batch])
            pixels = spectra[["flux", "ivar"]].isel({OBJECT: rows}).compute()
            flux, ivar = pixels["flux"].values, pixels["ivar"].values
            start = 0
            for key, group in batch:
                own = slice(start, start + len(group))
                paths.append(_write_pixel(out_dir, key, group, flux[own], ivar[own], spectra.attrs))
                start += len(group)
                bar.update(len(group))
    _write_truth(out_dir, table, paths)
    return paths


def split_cameras(flux, ivar, rng):
    """Split coadded spectra into cameras whose coadd they are.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength), float32
        Coadded flux and inverse variance on DESI's grid.
    rng : numpy.random.Generator or None
        Source of the difference between overlapping cameras; None makes them equal there.

    Returns
    -------
    dict of str to tuple of numpy.ndarray
        For each of 'b', 'r', 'z': flux and ivar, float32, shape (n_object, n_wavelength of the camera).
    """
    cameras = {camera: (flux[:, pixels].copy(), ivar[:, pixels].copy()) for camera, pixels in CAMERAS.items()}
    for blue, red in _OVERLAPS:
        both = slice(CAMERAS[red].start, CAMERAS[blue].stop)
        in_blue = slice(both.start - CAMERAS[blue].start, None)
        in_red = slice(0, both.stop - both.start)
        total = ivar[:, both].astype("float64")
        blue_ivar = (total * _blue_share(blue, red)[both]).astype("float32")
        red_ivar = (total - blue_ivar).astype("float32")
        good = total > 0
        part = np.divide(blue_ivar, total, out=np.zeros_like(total), where=good)
        variance = np.divide(1.0, total * part * (1 - part), out=np.zeros_like(total), where=good)
        noise = np.zeros_like(total) if rng is None else rng.standard_normal(total.shape)
        difference = noise * np.sqrt(variance)
        cameras[blue][0][:, in_blue] = flux[:, both] + (1 - part) * difference
        cameras[red][0][:, in_red] = flux[:, both] - part * difference
        cameras[blue][1][:, in_blue] = blue_ivar
        cameras[red][1][:, in_red] = red_ivar
    return cameras


def _blue_share(blue, red):
    """Return the bluer camera's share of the inverse variance of two cameras on a faint object."""
    dark, one = np.zeros((1, N_WAVELENGTH), "float32"), np.ones(1)
    own, other = (coadd_ivar(dark, one, one, cameras=camera)[0].astype("float64") for camera in (blue, red))
    return np.divide(own, own + other, out=np.zeros_like(own), where=own > 0)


def _check_simulated(spectra):
    if spectra.attrs.get("is_simulated") != 1:
        raise ValueError(
            "the spectra do not say is_simulated = 1, and these files would call them simulated; "
            "give what simulate_survey returns."
        )
    wavelength = spectra["wavelength"].values if "wavelength" in spectra.coords else np.empty(0)
    if wavelength.shape != WAVELENGTH.shape or not np.allclose(wavelength, WAVELENGTH, rtol=0, atol=1e-6):
        raise ValueError(
            f"the spectra have {wavelength.size} observed wavelengths, expected DESI's {N_WAVELENGTH} from 3600 to "
            "9824 Å; give what simulate_survey returns."
        )
    if "healpix" not in spectra.coords or spectra["healpix"].values.min() < 0:
        raise ValueError(
            "the spectra have no healpix pixel, by which DESI's files are sorted; keep the column 'healpix'."
        )


def _table(spectra):
    columns = {name: column.values for name, column in spectra.coords.items() if column.dims == (OBJECT,)}
    return pd.DataFrame(columns).reset_index(drop=True)


def _batches(table):
    """Yield lists of healpix pixels that hold about `_BATCH` objects together."""
    batch, size = [], 0
    for key, group in table.groupby(["survey", "program", "healpix"], sort=True):
        batch.append((key, group))
        size += len(group)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_pixel(out_dir, key, table, flux, ivar, attrs):
    survey, program, healpix = key
    folder = out_dir / "healpix" / survey / program / str(healpix // 100) / str(healpix)
    folder.mkdir(parents=True)
    rng = np.random.Generator(np.random.Philox(key=[attrs["seed"], healpix])) if attrs["with_noise"] else None
    cameras = split_cameras(flux, ivar, rng)
    hdus = [_primary(key, attrs), _fibermap(table)]
    for camera, (own, weight) in cameras.items():
        hdus += _camera_hdus(camera.upper(), own, weight)
    hdus.append(_scores(table, cameras))
    path = folder / f"coadd-{survey}-{program}-{healpix}.fits"
    _write(hdus, path)
    redrock = folder / f"redrock-{survey}-{program}-{healpix}.fits"
    _write([_primary(key, attrs), _redshifts(table, ivar), _fibermap(table)], redrock)
    return path


def _primary(key, attrs):
    survey, program, healpix = key
    hdu = fits.PrimaryHDU()
    hdu.header["EXTEND"] = True
    hdu.header["SPGRP"] = ("healpix", "how the spectra are grouped")
    hdu.header["SPGRPVAL"] = int(healpix)
    hdu.header["HPXPIXEL"] = (int(healpix), "healpix pixel")
    hdu.header["HPXNSIDE"] = 64
    hdu.header["HPXNEST"] = True
    hdu.header["SURVEY"] = survey
    hdu.header["PROGRAM"] = program
    hdu.header["SIMSEED"] = (int(attrs["seed"]), "seed of the simulation")
    hdu.header["SIMVERS"] = (attrs["simulator_version"], "version of AstroLab's simulator")
    hdu.header["COMMENT"] = "SIMULATED by AstroLab: these are not observations."
    return hdu


def _fibermap(table):
    n = len(table)
    number = (table["targetid"].to_numpy() & 0xFFFFF) % 5000
    truth = table.get("truth_spectype", pd.Series("", index=table.index))
    magnitude = table.get("truth_magnitude", pd.Series(np.nan, index=table.index)).to_numpy(float)
    exposures = table["n_exposures"].to_numpy() if "n_exposures" in table else np.ones(n)
    target = np.where(truth == "SKY", _DESI_TARGET["SKY"], _DESI_TARGET["QSO"])
    return _binary_table(
        "FIBERMAP",
        ("TARGETID", "K", table["targetid"]),
        ("COADD_FIBERSTATUS", "J", table["fiberstatus"]),
        ("TARGET_RA", "D", table["ra"]),
        ("TARGET_DEC", "D", table["dec"]),
        ("OBJTYPE", "3A", table["objtype"].astype(str)),
        ("PETAL_LOC", "I", number // 500),
        ("DEVICE_LOC", "J", number % 500),
        ("LOCATION", "K", number // 500 * 1000 + number % 500),
        ("FIBER", "J", number),
        ("FLUX_R", "E", np.nan_to_num(10 ** (0.4 * (22.5 - magnitude)))),
        ("DESI_TARGET", "K", target),
        ("COADD_NUMEXP", "I", exposures),
        ("COADD_EXPTIME", "E", exposures * EXPOSURE_TIME),
    )


def _camera_hdus(name, flux, ivar):
    wavelength = fits.ImageHDU(WAVELENGTH[CAMERAS[name.lower()]].copy(), name=f"{name}_WAVELENGTH")
    wavelength.header["BUNIT"] = "Angstrom"
    light = fits.ImageHDU(flux, name=f"{name}_FLUX")
    light.header["BUNIT"] = _FLUX_UNIT
    weight = fits.ImageHDU(ivar, name=f"{name}_IVAR")
    weight.header["BUNIT"] = _IVAR_UNIT
    return [wavelength, light, weight, fits.ImageHDU((ivar == 0).astype("int32"), name=f"{name}_MASK")]


def _scores(table, cameras):
    columns = [("TARGETID", "K", table["targetid"])]
    for camera, (flux, ivar) in cameras.items():
        columns.append((f"MEDIAN_COADD_FLUX_{camera.upper()}", "E", np.median(flux, axis=1)))
        columns.append((f"MEDIAN_COADD_SNR_{camera.upper()}", "E", median_snr(flux, ivar)))
    return _binary_table("SCORES", *columns)


def _redshifts(table, ivar):
    n = len(table)
    not_fitted = np.full(n, np.nan)
    hdu = _binary_table(
        "REDSHIFTS",
        ("TARGETID", "K", table["targetid"]),
        ("Z", "D", table["redshift"]),
        ("ZERR", "D", table["redshift_err"]),
        ("ZWARN", "K", table["redshift_warning"]),
        ("CHI2", "D", not_fitted),
        ("COEFF", "10D", np.zeros((n, 10))),
        ("NPIXELS", "K", (ivar > 0).sum(axis=1)),
        ("SPECTYPE", "6A", table["spectype"].astype(str)),
        ("SUBTYPE", "20A", np.full(n, "")),
        ("NCOEFF", "K", np.zeros(n)),
        ("DELTACHI2", "D", not_fitted),
    )
    hdu.header["COMMENT"] = "Z is drawn about the truth; no template was fitted, so CHI2 and DELTACHI2 are NaN."
    return hdu


def _binary_table(name, *columns):
    made = [fits.Column(name=title, format=code, array=np.asarray(values)) for title, code, values in columns]
    return fits.BinTableHDU.from_columns(made, name=name)


def _write(hdus, path):
    """Write under a temporary name, then rename; checksums carry no time, so that equal spectra give equal bytes."""
    for hdu in hdus:
        hdu.header["SIMULATD"] = (True, "simulated, not observed")
        hdu.add_checksum(when="at simulation")
    part = path.with_name(path.name + ".part")
    fits.HDUList(hdus).writeto(part)
    part.replace(path)


def _write_truth(out_dir, table, paths):
    columns = ["targetid", "ra", "dec", "healpix", *(name for name in table if name.startswith("truth_"))]
    file_of = {int(path.parent.name): path.relative_to(out_dir).as_posix() for path in paths}
    truth = table[columns].assign(file=table["healpix"].map(file_of))
    truth.to_csv(out_dir / "truth.csv", index=False)
