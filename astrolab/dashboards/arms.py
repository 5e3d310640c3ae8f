"""The single arms of a spectrum, read from the survey's own file, if it is still there.

A store keeps coadds and the names of the files that they were made from. A file that stands under such a name now is
believed where its arms, coadded and rebinned again, are the spectrum that was ranked.
"""

import glob
import posixpath
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property

import numpy as np
import xarray as xr

from astrolab.readers.desi import WAVELENGTH as GRID
from astrolab.readers.desi import read_arms, read_columns
from astrolab.readers.files import BadFileError, find_files
from astrolab.schema import FLUX_UNIT, OBJECT, REQUIRED_COLUMNS, WAVELENGTH, SchemaError, spectral_dim
from astrolab.spectra import to_restframe

ARMS = ("B", "R", "Z")
_N_KEPT = 64  # objects
_N_INDEXED = 100  # files that are looked through for an object that no file's name tells of
_FAR = 0.05  # sigma: rounding, no more


class NoArmsError(Exception):
    """The single arms of an object cannot be had; it says why."""


class ArmSource:
    """Where the single arms of ranked objects are read from; every page of a server shares one.

    Parameters
    ----------
    ranked : xarray.Dataset
        Spectra in rank order; ``attrs["provenance"]`` names the files that its store was ingested from.
    """

    def __init__(self, ranked):
        self._made_from = ranked.attrs.get("provenance", {})
        self._columns = {name: ranked[name].values for name in REQUIRED_COLUMNS if name in ranked.coords}
        self._columns |= {name: ranked[name].values for name in ("program", "healpix") if name in ranked.coords}
        self._wavelength, self._is_observed = ranked[spectral_dim(ranked)].values, spectral_dim(ranked) == WAVELENGTH
        self._found, self._reader = OrderedDict(), ThreadPoolExecutor(1, thread_name_prefix="arms")
        self._never = _why_never(self._made_from)
        self._listed = None if self._never else self._reader.submit(lambda: self._named)

    def why_not(self, row):
        """Return why the arms of an object cannot be had; ``""`` where nothing known yet speaks against it."""
        found = self._found.get(row)
        if found is not None:
            return found if isinstance(found, str) else ""
        if self._never or not self._listed.done():
            return self._never
        path = self._named.get(self._file_name(row))
        return _why_gone([path]) if path else "" if self._files else _why_gone(self._sources)

    def known(self, row):
        """Return the arms of an object if they have been read: a dict of arm to flux and err, as `Pixels` has them."""
        found = self._found.get(row)
        return found if isinstance(found, dict) else None

    def read(self, row, coadd):
        """Read the arms of an object; what comes of it is what `known` and `why_not` tell then.

        Parameters
        ----------
        row : int
            Of the object.
        coadd : astrolab.dashboards.cache.Pixels
            Its spectrum as it was ranked.
        """
        if row not in self._found:
            try:
                self._found[row] = self._read(row, coadd)
            except (NoArmsError, BadFileError, SchemaError, OSError) as error:
                self._found[row] = str(error)
        while len(self._found) > _N_KEPT:
            self._found.popitem(last=False)

    def forget(self, row):
        """Forget why an object's arms could not be had, so that they are asked for again."""
        if self.known(row) is None:
            self._found.pop(row, None)

    def submit(self, act, *arguments):
        """Do something beside the pages, one thing at a time; return its future."""
        return self._reader.submit(act, *arguments)

    def _read(self, row, coadd):
        if why_not := self.why_not(row):
            raise NoArmsError(why_not)
        targetid = int(self._columns["targetid"][row])
        path = self._named.get(self._file_name(row)) or self._holder_of(targetid)
        arms = read_arms(path, targetid)
        if arms is None:
            raise NoArmsError(f"the file '{path}' has no object {targetid}")
        flux, ivar = self._as_ranked(row, np.stack(list(arms.values()), axis=1))
        scale = _scale(flux[0], ivar[0], coadd)
        if scale is None:
            raise NoArmsError(
                f"the arms in '{path}' do not coadd to the spectrum that was ranked: the file has changed"
            )
        flux, err = np.where(ivar > 0, flux * scale, np.nan), np.where(ivar > 0, ivar, np.nan) ** -0.5 * scale
        return {name: (flux[at], err[at]) for at, name in enumerate(arms) if name in ARMS}

    def _as_ranked(self, row, pixels):
        """Return flux and ivar, shape (2, n_arms, n_wavelength), on the wavelengths of the ranking."""
        if self._is_observed:
            if not np.array_equal(self._wavelength, GRID):
                raise NoArmsError("the spectra were ranked on other wavelengths than those of their file")
            return pixels.astype("float64")
        n = pixels.shape[1]
        columns = {name: (OBJECT, np.repeat(self._columns[name][row], n)) for name in REQUIRED_COLUMNS}
        columns["targetid"] = OBJECT, np.arange(n)
        data = {name: ((OBJECT, WAVELENGTH), one) for name, one in zip(("flux", "ivar"), pixels, strict=True)}
        observed = xr.Dataset(data, coords=columns | {WAVELENGTH: GRID})
        observed["flux"].attrs["units"] = FLUX_UNIT
        rest = to_restframe(observed, self._wavelength)
        return np.stack([rest["flux"].values, rest["ivar"].values]).astype("float64")

    def _file_name(self, row):
        known = [self._columns[name][row] if name in self._columns else "" for name in ("survey", "program", "healpix")]
        return "coadd-{}-{}-{}.fits".format(*known)

    @property
    def _sources(self):
        return self._made_from["sources"]

    @cached_property
    def _files(self):
        """All files that the sources name now."""
        found = []
        for source in self._sources:
            with suppress(OSError, ImportError):  # those that are there
                found += find_files(source)
        return found

    @cached_property
    def _named(self):
        return {posixpath.basename(path).removesuffix(".gz"): path for path in self._files}

    @cached_property
    def _index(self):
        """The first file that holds each object."""
        index = {}
        for path in self._files if len(self._files) <= _N_INDEXED else []:
            try:
                rows = read_columns(path)
            except (BadFileError, OSError):  # one of the others may have it
                continue
            index = dict.fromkeys([] if rows is None else rows.columns["targetid"].tolist(), path) | index
        return index

    def _holder_of(self, targetid):
        if targetid in self._index:
            return self._index[targetid]
        why_gone = _why_gone(self._sources)
        raise NoArmsError(why_gone or f"none of the {len(self._files)} files of the store is known to hold this object")


def _scale(flux, ivar, coadd):
    """Return by what a flux was divided to become a coadd that was ranked; None where it is another spectrum."""
    good = ivar > 0
    if not np.array_equal(good, np.isfinite(coadd.flux)):
        return None
    if not good.any():
        raise NoArmsError("the spectrum has no good pixel")
    shown, own = coadd.flux[good], flux[good]
    scale = np.median(coadd.err[good] * np.sqrt(ivar[good]))
    return scale if np.abs((shown - scale * own) / coadd.err[good]).max() < _FAR else None


def _why_never(made_from):
    """Return why no object of a store has single arms, ``""`` where it may."""
    if not made_from.get("sources"):
        return "the ranked store does not say which files it was made from"
    survey = made_from.get("survey")
    return "" if survey == "desi" else f"the files of {survey} hold no single arms"


def _why_gone(paths):
    """Return which of some paths is not there any more; nobody asks a server far away."""
    gone = next((path for path in paths if "://" not in path and not glob.glob(path)), None)  # noqa: PTH207
    return "" if gone is None else f"'{gone}' is not there"
