"""The spectra that a page shows, kept in memory block by block: the next object is there before it is asked for."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from astrolab.dashboards.arms import ArmSource
from astrolab.plots import ranking_table
from astrolab.plots.style import harmless
from astrolab.schema import FLUX_UNIT, OBJECT, WAVELENGTH, flux_err, spectral_dim

_SHOWN = ("reasons", "redshift", "snr", "spectype", "ra", "dec")
_BLOCK = 32  # objects that are read at once
_MEMORY = 256 * 2**20  # bytes of blocks that are kept


class Pixels(NamedTuple):
    """One spectrum as it is drawn.

    Attributes
    ----------
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Vacuum Å, in the frame of the Dataset.
    flux, err : numpy.ndarray, shape (n_wavelength,)
        NaN where masked.
    model : numpy.ndarray, shape (n_wavelength,), or None
        The reconstruction.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    err: np.ndarray
    model: np.ndarray | None


class SpectrumCache:
    """The ranked objects of a run; every page of a server shares one.

    Parameters
    ----------
    ranked : xarray.Dataset
        Spectra in rank order, dims ``(object, wavelength_rest)`` or ``(object, wavelength)``, Å.
    regions : pandas.DataFrame, optional
        What `explain_anomaly` gives: targetid, wavelength_min, wavelength_max (rest Å), text.

    Attributes
    ----------
    table : pandas.DataFrame
        What is known of each object, see `astrolab.plots.ranking_table`.
    is_observed : bool
        The wavelengths are observed ones.
    flux_label : str
        What the flux is, for an axis.
    arms : astrolab.dashboards.arms.ArmSource
        The single arms, where the survey's files are still there.

    Raises
    ------
    ValueError
        If it is not a ranking.
    """

    def __init__(self, ranked, regions=None):
        self.table = ranking_table(ranked)
        for name in _SHOWN:
            if name not in self.table:
                raise ValueError(f"ranked has no {name!r}, expected what rank_anomalies(model, spectra) returns.")
        self._ranked, self.arms = ranked, ArmSource(ranked)
        self._regions = {} if regions is None else dict(list(regions.groupby("targetid")))
        dim = spectral_dim(ranked)
        self.is_observed = dim == WAVELENGTH
        self._wavelength = ranked[dim].values
        is_physical = ranked["flux"].attrs.get("units", "") == FLUX_UNIT
        self.flux_label = "flux (10⁻¹⁷ erg s⁻¹ cm⁻² Å⁻¹)" if is_physical else "flux (normalised)"
        n_bytes = 12 * _BLOCK * max(len(self._wavelength), 1)
        self._block = lru_cache(maxsize=max(4, _MEMORY // n_bytes))(self._read_block)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="spectra")
        latent = self.table[[name for name in self.table if name.startswith("latent_")]].to_numpy("float64")
        self._latent = latent / np.maximum(latent.std(axis=0), 1e-12) if len(latent) else latent

    def spectrum(self, row):
        """Return the `Pixels` of one object, by its row; reading may raise `StoreError` and `OSError`."""
        arrays = self._block(row // _BLOCK)
        flux, err, model = (None if array is None else array[row % _BLOCK].astype("float64") for array in arrays)
        return Pixels(self._wavelength, flux, err, model)

    def observed(self, redshift):
        """Return the observed wavelengths (Å) of an object that was ranked at a redshift; None counts as 0."""
        return self._wavelength if self.is_observed else self._wavelength * (1 + (redshift or 0))

    def observed_range(self, redshift):
        """Return the first and the last observed wavelength, see `observed`."""
        wavelength = self.observed(redshift)
        return float(wavelength[0]), float(wavelength[-1])

    def regions(self, row):
        """Return the named regions of an object: a list of (first and last rest wavelength in Å, text)."""
        named = self._regions.get(self.table["targetid"].iloc[row])
        if named is None:
            return []
        columns = (named[name] for name in ("wavelength_min", "wavelength_max", "text"))
        return [(low, high, harmless(str(text))) for low, high, text in zip(*columns, strict=True)]

    def prefetch(self, rows):
        """Read the spectra of some rows in the background; a failure shows when they are asked for."""
        for block in dict.fromkeys(row // _BLOCK for row in rows):
            self._reader.submit(self._block, block)

    def prefetch_arms(self, row):
        """Read the single arms of an object in the background, from one file; return the future."""
        return self.arms.submit(self._read_arms, row)

    def _read_arms(self, row):
        self.arms.read(row, self.spectrum(row))

    def neighbours(self, row, n=4):
        """Return the rows of the objects nearest in latent space, the nearest first.

        Parameters
        ----------
        row : int
            Of the object itself, which is left out.
        n : int, optional
            How many, if there are as many.

        Returns
        -------
        rows : numpy.ndarray of int
        distance : numpy.ndarray of float
            In standard deviations of each latent component, of these objects.
        """
        if not self._latent.shape[1]:
            return np.array([], int), np.array([])
        distance = np.sqrt(((self._latent - self._latent[row]) ** 2).sum(axis=1))
        nearest = np.argsort(distance, kind="stable")
        nearest = nearest[nearest != row][:n]
        return nearest, distance[nearest]

    def _read_block(self, block):
        some = self._ranked.isel({OBJECT: slice(block * _BLOCK, (block + 1) * _BLOCK)})
        some = some[[name for name in ("flux", "ivar", "flux_model") if name in some]].load()
        err = flux_err(some).values.astype("float32")
        flux = np.where(np.isfinite(err), some["flux"].values, np.nan).astype("float32")
        return flux, err, some["flux_model"].values if "flux_model" in some else None
