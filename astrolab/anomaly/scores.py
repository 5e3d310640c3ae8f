"""Raw scores of spectra under a model: what one chunk of the survey gives, computed where the chunk is.

A chunk (n objects) gives one float32 array of shape ``(n, n_columns)``; columns are named by `block_columns`.
"""

from functools import lru_cache

import dask
import dask.array as da
import numpy as np
import pandas as pd
import torch
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
                _score_batch(model, _tensor(flux[start : start + _BATCH]), _tensor(ivar[start : start + _BATCH]))
                for start in range(0, len(flux), _BATCH)
            ]
    finally:
        torch.set_num_threads(n_threads)
    return torch.cat(parts).numpy() if parts else np.empty((0, len(block_columns(described[1]["n_latent"]))), "float32")


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
    out = model(flux, ivar)
    good = ivar > 0
    n_good = good.sum(dim=1)
    count = n_good.clamp_min(1)
    residual = torch.where(good, flux - out.flux_model, 0)
    weight = torch.where(good, out.ivar_model, 0)
    chi2 = (residual**2 * weight).sum(dim=1) / count
    snr = torch.where(good, flux * ivar.sqrt(), 0).sum(dim=1) / count
    columns = [n_good, snr, torch.log(chi2.clamp_min(1e-6)), *_band_columns(residual * weight, weight, good)]
    return torch.cat([torch.stack(columns, dim=1).float(), out.latent_mean.float()], dim=1)


def _band_columns(weighted, weight, good):
    """Find the most significant window of each width; sums by doubling, so without cancellation."""
    columns, width = [], 1
    sums = [weighted, weight, good.float()]
    for wanted in BAND_WIDTHS:
        while width < wanted:
            sums = [total[:, :-width] + total[:, width:] for total in sums]
            width *= 2
        numerator, denominator, n_good = sums
        significance = numerator / denominator.clamp_min(1e-20).sqrt()
        # a window that is mostly unmeasured says nothing
        significance = torch.where(n_good > 0.5 * width, significance, 0)
        at = significance.abs().argmax(dim=1, keepdim=True)
        columns += [significance.gather(1, at)[:, 0], at[:, 0]]
    return columns


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
