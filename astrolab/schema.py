"""What a spectra Dataset is: its names, dimensions, dtypes and units, and the check that it keeps to them.

A set of spectra is an `xarray.Dataset` with dimensions ``(object, wavelength)`` (observed frame) or
``(object, wavelength_rest)`` (rest frame). The frame is in the dimension's name, so that two frames never align by
accident. Everything that is one number an object is a coordinate along ``object``, held in memory.
"""

import numpy as np
import xarray as xr

OBJECT = "object"
WAVELENGTH = "wavelength"
WAVELENGTH_REST = "wavelength_rest"
# what observed pixels say of an instrument's faults, and a rest grid no longer shows; dims (object, pixel_fault)
PIXEL_FAULTS, PIXEL_FAULT = "pixel_faults", "pixel_fault"

FLUX_UNIT = "1e-17 erg s-1 cm-2 Angstrom-1"
IVAR_UNIT = "1e34 erg-2 s2 cm4 Angstrom2"

# redshift_warning is the survey's own bit mask (0 = good); this bit is AstroLab's: nobody measured a redshift.
NO_REDSHIFT = 1 << 31

# name -> (kind of dtype, attributes); "U" stands for any string, also numpy's variable-width StringDType
COLUMNS = {
    "targetid": ("int64", {"long_name": "the survey's identifier, unique along object"}),
    "ra": ("float64", {"units": "deg", "long_name": "right ascension, ICRS"}),
    "dec": ("float64", {"units": "deg", "long_name": "declination, ICRS"}),
    "redshift": ("float64", {"long_name": "redshift; NaN where none was measured"}),
    "redshift_err": ("float64", {"long_name": "1 sigma uncertainty of redshift"}),
    "redshift_warning": ("int64", {"long_name": "bit mask of the redshift fit, 0 = good"}),
    "spectype": ("U", {"long_name": "QSO, GALAXY or STAR; empty where unknown"}),
    "survey": ("U", {"long_name": "survey"}),
    "program": ("U", {"long_name": "observing program"}),
    "healpix": ("int32", {"long_name": "healpix pixel, nside 64, nested; -1 where unknown"}),
    "objtype": ("U", {"long_name": "what the fibre was put on: TGT, SKY, empty where unassigned or unknown"}),
    "fiberstatus": ("int64", {"long_name": "bit mask of the fibre, 0 = good"}),
    "is_target": ("bool", {"long_name": "a science target on a working fibre (not sky, not blank)"}),
    "snr": ("float32", {"long_name": "median flux / sigma over the good pixels of the observed spectrum"}),
}
REQUIRED_COLUMNS = ("targetid", "ra", "dec", "redshift", "redshift_err", "redshift_warning", "spectype", "survey")


class SchemaError(ValueError):
    """A Dataset does not keep to AstroLab's data model.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.simulate_survey(2, seed=0)
    >>> al.check_spectra(spectra.assign_coords(targetid=spectra.targetid.astype("float64")))
    Traceback (most recent call last):
    astrolab.schema.SchemaError: 'targetid' is float64, expected int64; above 2**53 a float cannot hold a DESI TARGETID.
    """


def spectral_dim(spectra):
    """Return the name of the spectral dimension, which also names the frame.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra, dims ``(object, wavelength)`` or ``(object, wavelength_rest)``.

    Returns
    -------
    str
        ``"wavelength"`` (observed frame) or ``"wavelength_rest"``.

    Raises
    ------
    SchemaError
        If the Dataset has neither of the two, or both.
    """
    found = [dim for dim in (WAVELENGTH, WAVELENGTH_REST) if dim in spectra.dims]
    if len(found) != 1:
        dims = ", ".join(map(str, spectra.dims)) or "none"
        raise SchemaError(
            f"the Dataset has dimensions ({dims}), expected 'object' and one of 'wavelength', 'wavelength_rest'; "
            "read spectra with read_desi, read_sdss or open_spectra."
        )
    return found[0]


def check_spectra(spectra):
    """Check that a Dataset keeps to the data model, and return it unchanged.

    Looks at names, dimensions, dtypes and the in-memory columns; lazy flux is not computed.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra, dims ``(object, wavelength)`` or ``(object, wavelength_rest)``; flux in 1e-17 erg/s/cm2/Å, wavelengths
        in Å (vacuum).

    Returns
    -------
    xarray.Dataset
        The same object.

    Raises
    ------
    SchemaError
        With what was found, what is expected and what to type.
    TypeError
        If `spectra` is not an `xarray.Dataset`.

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.check_spectra(al.simulate_survey(4, seed=0))
    >>> spectra.sizes["object"]
    4
    """
    if not isinstance(spectra, xr.Dataset):
        raise TypeError(
            f"spectra is a {type(spectra).__name__}, expected an xarray.Dataset such as open_spectra(path) gives."
        )
    dim = spectral_dim(spectra)
    _check_arrays(spectra, dim)
    _check_wavelength(spectra, dim)
    for name in REQUIRED_COLUMNS:
        if name not in spectra.coords:
            where = "a data variable" if name in spectra else "missing"
            raise SchemaError(
                f"'{name}' is {where}, expected a coordinate along 'object': "
                f"spectra.assign_coords({name}=('object', values))."
            )
    for name, (kind, _) in COLUMNS.items():
        if name in spectra.coords:
            _check_column(spectra[name], kind)
    _check_unique(spectra["targetid"].values)
    return spectra


def check_targetid(targetid, whose):
    """Refuse identifiers that went through a float, as those of a pandas table with a missing row do.

    Parameters
    ----------
    targetid : pandas.Series
        Of a table.
    whose : str
        What the table holds, for the sentence.

    Raises
    ------
    SchemaError
        If they are floats.

    Examples
    --------
    >>> import pandas as pd
    >>> check_targetid(pd.Series([39627652591521181]), "labels")
    """
    if len(targetid) and targetid.dtype.kind == "f":
        raise SchemaError(
            f"the targetid of the {whose} is a float, expected int64; above 2**53 a float cannot hold a DESI TARGETID."
        )


def flux_err(spectra):
    """Return the 1 sigma uncertainty of the flux.

    Parameters
    ----------
    spectra : xarray.Dataset
        Spectra with `ivar`, either frame.

    Returns
    -------
    xarray.DataArray
        ``1 / sqrt(ivar)``, dims as `ivar`, in 1e-17 erg/s/cm2/Å; NaN where ``ivar == 0`` (pixel not to be used).

    Examples
    --------
    >>> import astrolab as al
    >>> flux_err(al.simulate_survey(2, seed=0)).dims
    ('object', 'wavelength')
    """
    ivar = spectra["ivar"]
    err = (1 / np.sqrt(ivar.where(ivar > 0))).rename("flux_err")
    return err.assign_attrs(units=FLUX_UNIT, long_name="1 sigma uncertainty of flux")


def _check_arrays(spectra, dim):
    for name in ("flux", "ivar"):
        if name not in spectra.data_vars:
            raise SchemaError(f"the Dataset has no variable '{name}', expected one with dims ('object', '{dim}').")
        array = spectra[name]
        if array.dims != (OBJECT, dim):
            raise SchemaError(
                f"'{name}' has dims {array.dims}, expected ('object', '{dim}'): {name}.transpose('object', '{dim}')."
            )
        if array.dtype != np.float32:
            raise SchemaError(f"'{name}' is {array.dtype}, expected float32: spectra['{name}'].astype('float32').")


# as files spell it
_ANGSTROMS = ("Angstrom", "angstrom", "Angstroms", "angstroms", "AA", "Å", "0.1 nm")


def _check_wavelength(spectra, dim):
    if dim not in spectra.coords:
        raise SchemaError(f"'{dim}' has no values, expected wavelengths in Angstrom as a coordinate.")
    unit = spectra[dim].attrs.get("units", "Angstrom")
    if unit not in _ANGSTROMS:
        raise SchemaError(
            f"'{dim}' is in {unit!r}, expected Angstrom: convert its values, and set spectra[{dim!r}].attrs['units']."
        )
    wavelength = spectra[dim].values
    if wavelength.dtype != np.float64:
        raise SchemaError(f"'{dim}' is {wavelength.dtype}, expected float64 in Angstrom.")
    if len(wavelength) < 2:
        raise SchemaError(f"'{dim}' has {len(wavelength)} pixels, expected at least 2: pixels have widths.")
    if not np.all(np.isfinite(wavelength)) or np.any(np.diff(wavelength) <= 0) or np.any(wavelength <= 0):
        raise SchemaError(
            f"'{dim}' is not finite, positive and strictly increasing; coadd the cameras onto one grid first, "
            "as read_desi does."
        )


def _check_column(column, kind):
    if column.dims != (OBJECT,):
        raise SchemaError(f"'{column.name}' has dims {column.dims}, expected ('object',).")
    if column.chunks is not None:
        raise SchemaError(f"'{column.name}' is lazy, expected values in memory: spectra['{column.name}'].load().")
    dtype = column.dtype
    if kind == "U":
        if dtype.kind not in "UTO":
            raise SchemaError(f"'{column.name}' is {dtype}, expected strings.")
    elif dtype != np.dtype(kind):
        hint = "; above 2**53 a float cannot hold a DESI TARGETID" if column.name == "targetid" else ""
        raise SchemaError(f"'{column.name}' is {dtype}, expected {kind}{hint}.")


def _check_unique(targetid):
    values, counts = np.unique(targetid, return_counts=True)
    if np.any(counts > 1):
        twice = values[counts > 1]
        raise SchemaError(
            f"'targetid' {twice[0]} stands {counts.max()} times ({len(twice)} ids are repeated), expected each once; "
            "keep one spectrum an object, or give each epoch its own id."
        )
