"""Raw scores of spectra under a model: what one chunk of the survey gives, computed where the chunk is.

A chunk (n objects) gives one float32 array of shape ``(n, n_columns)``; columns are named by `block_columns`.
"""

from functools import lru_cache

import dask
import dask.array as da
import numpy as np
import pandas as pd
import torch
from numba import njit
from sklearn.ensemble import IsolationForest

from astrolab.models.files import model_from_bytes, model_to_bytes

# widths, in rest-grid pixels, of the windows in which residuals are added up: narrow lines to broad troughs
BAND_WIDTHS = (1, 4, 16, 64)

_BATCH = 1024


def block_columns(n_latent):
    """Return the names of the columns that `score_block` gives.

    Parameters
    ----------
    n_latent : int
        Latent dimensions of the model.

    Returns
    -------
    list of str
        ``n_good`` (good pixels), ``snr_rest`` (their mean S/N in the rest frame), ``log_chi2`` (ln of the mean squared
        residual in sigma), ``band_k`` and ``band_at_k`` (signed significance, in sigma, of the strongest residual in a
        window of k pixels, and the window's first pixel), ``latent_i``.
    """
    bands = [f"{kind}_{width}" for width in BAND_WIDTHS for kind in ("band", "band_at")]
    return ["n_good", "snr_rest", "log_chi2", *bands, *(f"latent_{i}" for i in range(n_latent))]


def raw_scores(model, spectra):
    """Score every spectrum, chunk by chunk, on the Dask cluster in use.

    Parameters
    ----------
    model : torch.nn.Module
        Trained model.
    spectra : xarray.Dataset
        Normalised spectra on the model's grid, dims ``(object, wavelength_rest)``; lazy or in memory. Only the scores
        come back: tens of bytes an object.

    Returns
    -------
    pandas.DataFrame
        One row an object in the order of `spectra`, columns as in `block_columns`; float32.
    """
    described, weights = model_to_bytes(model)
    columns = block_columns(described[1]["n_latent"])
    flux, ivar = (_whole_spectra(spectra[name].data) for name in ("flux", "ivar"))
    scores = da.map_blocks(
        score_block,
        flux,
        ivar,
        described=dask.delayed(described, pure=True),
        weights=dask.delayed(weights, pure=True),
        chunks=(flux.chunks[0], (len(columns),)),
        dtype="float32",
        meta=np.empty((0, 0), "float32"),
    )
    return pd.DataFrame(scores.compute(), columns=columns)


def score_block(flux, ivar, described, weights):
    """Score the spectra of one chunk.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance; pixels with ``ivar == 0`` count for nothing.
    described, weights
        The model, as `model_to_bytes` gives it.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns as in `block_columns`.
    """
    model = _cached_model(described[0], tuple(sorted(described[1].items())), weights)
    # one thread a worker, and so the same sums in the same order everywhere
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            parts = [
                _score_batch(model, flux[start : start + _BATCH], ivar[start : start + _BATCH])
                for start in range(0, len(flux), _BATCH)
            ]
    finally:
        torch.set_num_threads(n_threads)
    return np.concatenate(parts) if parts else np.empty((0, len(block_columns(described[1]["n_latent"]))), "float32")


def reconstruct(model, flux, ivar):
    """Return the reconstruction of spectra.

    Parameters
    ----------
    model : torch.nn.Module
        Trained model.
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance.

    Returns
    -------
    numpy.ndarray, shape (object, n_wavelength), float32
        Also where ``ivar == 0``: the model's opinion of what was not measured.
    """
    with torch.inference_mode():
        return model.eval()(_tensor(flux), _tensor(ivar)).flux_model.numpy()


def isolation_score(latent, seed=0):
    """Score how easily an object is isolated in latent space.

    Parameters
    ----------
    latent : numpy.ndarray, shape (object, n_latent)
        Latent vectors; finite.
    seed : int, optional
        Seed of the forest.

    Returns
    -------
    numpy.ndarray, shape (object,)
        Larger = stranger (Liu, Ting & Zhou 2008: isolation forest of 200 trees).
    """
    forest = IsolationForest(n_estimators=200, max_samples=min(512, len(latent)), random_state=seed)
    return -forest.fit(latent).score_samples(latent)


def _score_batch(model, flux, ivar):
    out = model(_tensor(flux), _tensor(ivar))
    columns = np.empty((len(flux), 3 + 2 * len(BAND_WIDTHS)), "float32")
    arrays = (flux, ivar, out.flux_model.numpy(), out.ivar_model.numpy())
    _score_rows(*(np.ascontiguousarray(array, "float32") for array in arrays), np.array(BAND_WIDTHS), columns)
    return np.concatenate([columns, out.latent_mean.numpy()], axis=1)


@njit(nogil=True, cache=True, error_model="numpy")
def _score_rows(flux, ivar, flux_model, ivar_model, widths, columns):
    """Fill n_good, snr_rest, log_chi2, and for each width the most significant window and its first pixel."""
    n_object, n_wavelength = flux.shape
    weighted, weight, count = np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1)
    for i in range(n_object):
        snr, chi2 = 0.0, 0.0
        for k in range(n_wavelength):
            is_good = ivar[i, k] > 0
            residual = flux[i, k] - flux_model[i, k] if is_good else 0.0
            inverse = ivar_model[i, k] if is_good else 0.0
            snr += flux[i, k] * np.sqrt(ivar[i, k]) if is_good else 0.0
            chi2 += residual * residual * inverse
            weighted[k + 1] = weighted[k] + residual * inverse
            weight[k + 1] = weight[k] + inverse
            count[k + 1] = count[k] + is_good
        n_good = max(count[n_wavelength], 1.0)
        columns[i, 0], columns[i, 1] = count[n_wavelength], snr / n_good
        columns[i, 2] = np.log(max(chi2 / n_good, 1e-6))
        for j in range(len(widths)):
            width, best, at = widths[j], 0.0, 0
            for k in range(n_wavelength - width + 1):
                # a window that is mostly unmeasured says nothing
                if count[k + width] - count[k] > 0.5 * width:
                    total = weighted[k + width] - weighted[k]
                    power = total * total / (weight[k + width] - weight[k])
                    if power > best:
                        best, at = power, k
            total = weighted[at + width] - weighted[at]
            columns[i, 3 + 2 * j], columns[i, 4 + 2 * j] = np.copysign(np.sqrt(best), total), at


@lru_cache(maxsize=4)
def _cached_model(name, config, weights):
    return model_from_bytes((name, dict(config)), weights)


def _tensor(block):
    return torch.from_numpy(np.ascontiguousarray(block, dtype="float32"))


def _whole_spectra(array):
    """Return a Dask array in which every chunk holds whole spectra."""
    if not isinstance(array, da.Array):
        return da.from_array(array, chunks=(_BATCH, -1))
    return array if array.numblocks[1] == 1 else array.rechunk({1: -1})
