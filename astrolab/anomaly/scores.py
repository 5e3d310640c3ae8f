"""Raw scores of spectra under a model: what one chunk of the survey gives, computed where the chunk is.

A chunk (n objects) gives one float32 array of shape ``(n, n_columns)``; columns are named by `block_columns`.
"""

from functools import lru_cache
from hashlib import sha256

import dask
import dask.array as da
import numpy as np
import pandas as pd
import torch
from numba import njit

from astrolab.anomaly.artefacts import ARTEFACT_COLUMNS, artefact_evidence
from astrolab.anomaly.classes import CLASS_COLUMNS, class_weights, fit_classes, mean_chi2
from astrolab.anomaly.faults import FAULT_COLUMNS, fault_evidence, model_directions
from astrolab.anomaly.shape import SHAPE_COLUMNS, measure_shape
from astrolab.anomaly.windows import measured_range, running_sums, window_powers, windows_inside
from astrolab.largest import EITHER_SIGN, NEGATIVE, first_largest
from astrolab.models.files import model_from_bytes, model_to_bytes
from astrolab.models.pretrained import is_pretrained_grid, pretrained_vae
from astrolab.pixel_faults import PIXEL_COLUMNS
from astrolab.schema import OBJECT, PIXEL_FAULTS, WAVELENGTH_REST
from astrolab.stores.passes import map_chunks, whole_spectra

# widths, in rest-grid pixels, of the windows in which residuals are added up: narrow lines to broad troughs
BAND_WIDTHS = (1, 4, 16, 64)
# and those in which flux is missed: from narrow troughs to broad ones
TROUGH_WIDTHS = (4, 8, 16)

# columns that the survey's models have no say in, or all of them together
_SHARED = ("n_good", "snr_rest", *PIXEL_COLUMNS, *SHAPE_COLUMNS, *CLASS_COLUMNS, "log_chi2_shipped", *FAULT_COLUMNS)
_WINDOWS = {"band": BAND_WIDTHS, "trough": TROUGH_WIDTHS}

# of each width, the first of its columns among the bands and among the troughs; -1 where there is none
_WINDOW_PLACES = np.array(
    [
        (
            width,
            2 * BAND_WIDTHS.index(width) if width in BAND_WIDTHS else -1,
            2 * (len(BAND_WIDTHS) + TROUGH_WIDTHS.index(width)) if width in TROUGH_WIDTHS else -1,
        )
        for width in sorted({*BAND_WIDTHS, *TROUGH_WIDTHS})
    ]
)

_BATCH = 1024


def block_columns(n_latent, n_members=1):
    """Return the names of the columns that `score_block` gives.

    Parameters
    ----------
    n_latent : int
        Latent dimensions of each model.
    n_members : int, optional
        Models; with several, the columns that depend on the model are named ``0.log_chi2``, ``1.log_chi2``, ….

    Returns
    -------
    list of str
        ``n_good`` (good pixels), ``snr_rest`` (their mean S/N in the rest frame), ``PIXEL_COLUMNS``, ``SHAPE_COLUMNS``,
        ``CLASS_COLUMNS``, ``log_chi2_shipped`` (``log_chi2_model`` of the model that ships with AstroLab, which no
        survey has taught; NaN on another grid than its own) and ``FAULT_COLUMNS``; then of each model
        ``log_chi2`` (ln of the mean squared residual in
        sigma), ``log_chi2_model`` (the same with the weights of `class_weights`), ``band_k`` and ``band_at_k`` (signed
        significance, in sigma, of the strongest residual in a window of k pixels, and the rest wavelength of
        its middle, Å),
        ``trough_k`` and ``trough_at_k`` (the same for missing flux alone, positive), ``ARTEFACT_COLUMNS`` and
        ``latent_i``.
    """
    windows = [(kind, width) for kind, widths in _WINDOWS.items() for width in widths]
    windows = [f"{kind}{what}_{width}" for kind, width in windows for what in ("", "_at")]
    of_model = ["log_chi2", "log_chi2_model", *windows, *ARTEFACT_COLUMNS, *(f"latent_{i}" for i in range(n_latent))]
    prefixes = [""] if n_members == 1 else [f"{i}." for i in range(n_members)]
    return [*_SHARED, *(prefix + name for prefix in prefixes for name in of_model)]


def member_table(table, member=0):
    """Return what one model of several says.

    Parameters
    ----------
    table : pandas.DataFrame
        From `raw_scores`.
    member : int, optional
        Which model.

    Returns
    -------
    pandas.DataFrame
        The same rows; columns as if that model had been alone.
    """
    if "log_chi2" in table:
        return table
    prefix = f"{member}."
    is_own = np.array([name.startswith(prefix) or not _of_model(name) for name in table])
    # columns that lie side by side are not copied: of millions of objects there are hundreds of them
    ends = np.flatnonzero(np.diff(is_own)) + 1
    runs = [table.iloc[:, part[0] : part[-1] + 1] for part in np.split(np.arange(len(is_own)), ends) if is_own[part[0]]]
    return pd.concat(runs, axis=1).rename(columns=lambda name: name.removeprefix(prefix))


def raw_scores(models, spectra, *, chunks_dir=None):
    """Score every spectrum, chunk by chunk, on the Dask cluster in use.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Trained models; a chunk is read once for all of them.
    spectra : xarray.Dataset
        Normalised spectra on the models' grid, dims ``(object, wavelength_rest)``, with ``redshift``, and with
        ``pixel_faults`` where they come from `to_restframe`; lazy or in memory. Only the scores come back: some hundred
        bytes an object.
    chunks_dir : path-like, optional
        Folder that keeps each chunk's scores as soon as they are there, as in `map_chunks`: the same call after a crash
        goes on.

    Returns
    -------
    pandas.DataFrame
        One row an object in the order of `spectra`, columns as in `block_columns`; float32.
    """
    models = as_members(models)
    packed = [model_to_bytes(model) for model in models]
    columns = block_columns(packed[0][0][1]["n_latent"], len(models))
    flux, ivar = whole_spectra(spectra, _BATCH)
    redshift = da.from_array(spectra["redshift"].values[:, None], chunks=(flux.chunks[0], 1))
    scores = map_chunks(
        score_block,
        flux,
        ivar,
        redshift,
        da.asarray(pixel_faults_of(spectra)).rechunk((flux.chunks[0], -1)),
        wavelength=spectra[WAVELENGTH_REST].values,
        described=dask.delayed([described for described, _ in packed], pure=True),
        weights=_delay_weights([weights for _, weights in packed]),
        n_columns=len(columns),
        chunks_dir=chunks_dir,
    )
    return pd.DataFrame(scores, columns=columns)


def as_members(models):
    """Return models as a list, whether one was given or several."""
    return [models] if hasattr(models, "config") else list(models)


def pixel_faults_of(spectra):
    """Return what the observed pixels of spectra said; zeros, which is nothing found, where nobody looked at them.

    Parameters
    ----------
    spectra : xarray.Dataset
        In the rest frame.

    Returns
    -------
    array, shape (object, 3)
        Lazy where the spectra are.
    """
    is_known = PIXEL_FAULTS in spectra
    return spectra[PIXEL_FAULTS].data if is_known else np.zeros((spectra.sizes[OBJECT], len(PIXEL_COLUMNS)), "float32")


def score_block(flux, ivar, redshift, pixel_faults, wavelength, described, weights):
    """Score the spectra of one chunk.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance; pixels with ``ivar == 0`` count for nothing.
    redshift : numpy.ndarray, shape (object, 1)
        Redshift of each, which tells where in the observed frame a pixel was.
    pixel_faults : numpy.ndarray, shape (object, 3)
        From `find_pixel_faults`; they are passed on.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å.
    described, weights : list
        The models, as `model_to_bytes` gives each.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns as in `block_columns`.
    """
    packed = tuple(
        (name, tuple(sorted(config.items())), own) for (name, config), own in zip(described, weights, strict=True)
    )
    models = [_cached_model(*one) for one in packed]
    shipped = _cached_shipped() if is_pretrained_grid(wavelength) else None
    directions = _cached_directions(packed, shipped)
    # one thread a worker, and so the same sums in the same order everywhere
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            parts = [
                _score_batch(
                    models,
                    shipped,
                    directions,
                    *(part[start : start + _BATCH] for part in (flux, ivar, redshift, pixel_faults)),
                    wavelength,
                )
                for start in range(0, len(flux), _BATCH)
            ]
    finally:
        torch.set_num_threads(n_threads)
    empty = np.empty((0, len(block_columns(models[0].config["n_latent"], len(models)))), "float32")
    return np.concatenate([empty, *parts])


def reconstruct(model, flux, ivar):
    """Return the reconstruction of spectra, and the inverse variance of what it leaves.

    Parameters
    ----------
    model : torch.nn.Module
        Trained model.
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance.

    Returns
    -------
    flux_model, ivar_model : numpy.ndarray, shape (object, n_wavelength), float32
        The former also where ``ivar == 0``: the model's opinion of what was not measured.
    """
    with torch.inference_mode():
        out = model.eval()(_tensor(flux), _tensor(ivar))
    return out.flux_model.numpy(force=True), out.ivar_model.numpy(force=True)


def _score_batch(models, shipped, directions, flux, ivar, redshift, pixel_faults, wavelength):
    flux, ivar, redshift = np.ascontiguousarray(flux), np.ascontiguousarray(ivar), np.ravel(redshift)
    weight, coverage = class_weights(flux, ivar), _measure_coverage(flux, ivar)
    shape, classes = measure_shape(flux, ivar, wavelength), fit_classes(flux, weight, wavelength, redshift)
    scored = [_score_residual(model, flux, ivar, weight, redshift, wavelength) for model in models]
    parts, flux_models = zip(*scored, strict=True)
    flux_model = sum(flux_models) / len(flux_models)
    faults = fault_evidence(flux, weight, flux_model, directions, wavelength, redshift)
    of_shipped = _shipped_chi2(shipped, flux, ivar, weight)
    return np.concatenate([coverage, pixel_faults, shape, classes, of_shipped, faults, *parts], axis=1)


def _shipped_chi2(shipped, flux, ivar, class_weight):
    """Return ln of χ² a pixel that the shipped model leaves; NaN where there is none for this grid."""
    if shipped is None:
        return np.full((len(flux), 1), np.nan, "float32")
    flux_model = shipped(torch.from_numpy(flux), torch.from_numpy(ivar)).flux_model
    return _chi2_alone(flux, ivar, class_weight, flux_model.numpy(force=True))


def _score_residual(model, flux, ivar, class_weight, redshift, wavelength):
    """Score what one model leaves of each spectrum, and return its reconstruction too."""
    out = model(torch.from_numpy(flux), torch.from_numpy(ivar))
    residual, weight = np.empty_like(flux), np.empty_like(flux)
    columns = np.empty((len(flux), 2 + 2 * len(BAND_WIDTHS) + 2 * len(TROUGH_WIDTHS)), "float32")
    expected = out.flux_model.numpy(force=True), out.ivar_model.numpy(force=True)
    _subtract_model(flux, ivar, class_weight, *expected, residual, weight, columns)
    _find_windows(residual, weight, wavelength, _WINDOW_PLACES, columns[:, 2:])
    evidence = artefact_evidence(residual, weight, wavelength, redshift)
    return np.concatenate([columns, evidence, _latent(model, out, flux, ivar)], axis=1), expected[0]


def _latent(model, out, flux, ivar):
    """Return the latent vectors; a model that gives them with its reconstruction is not asked twice."""
    latent = out.latent_mean if hasattr(out, "latent_mean") else model.encode(_tensor(flux), _tensor(ivar))
    return latent.numpy(force=True)


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_coverage(flux, ivar):
    """Return the number of good pixels, at least 1, and their mean S/N."""
    columns = np.empty((len(flux), 2), np.float32)
    for i in range(len(flux)):
        snr, n_good = _sum_snr(flux[i], ivar[i])
        columns[i, 0], columns[i, 1] = max(n_good, 1), snr / max(n_good, 1)
    return columns


# sums of these may be taken in any order, and so of many pixels at a time
@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _sum_snr(flux, ivar):
    snr, n_good = 0.0, np.int32(0)
    for k in range(len(flux)):
        snr += flux[k] * np.sqrt(ivar[k]) if ivar[k] > 0 else np.float32(0)
        n_good = np.int32(n_good + (ivar[k] > 0))
    return snr, n_good


@njit(nogil=True, cache=True, error_model="numpy")
def _subtract_model(flux, ivar, class_weight, flux_model, ivar_model, residual, weight, columns):
    """Fill residual and weight, 0 where not measured, and ln of χ² a pixel with the model's weights and those given."""
    for i in range(len(flux)):
        for k in range(flux.shape[1]):
            residual[i, k] = flux[i, k] - flux_model[i, k] if ivar[i, k] > 0 else np.float32(0)
            weight[i, k] = ivar_model[i, k] if ivar[i, k] > 0 else np.float32(0)
        power, class_power, n_good = _sum_squares(residual[i], weight[i], class_weight[i], ivar[i])
        columns[i, 0] = np.log(max(power / max(n_good, 1), 1e-6))
        columns[i, 1] = mean_chi2(class_power, max(n_good, 1))


@njit(nogil=True, cache=True)
def _chi2_alone(flux, ivar, weight, flux_model):
    columns = np.empty((len(flux), 1), np.float32)
    for i in range(len(flux)):
        power, n_good = _sum_weighted(flux[i], ivar[i], weight[i], flux_model[i])
        columns[i, 0] = mean_chi2(power, max(n_good, 1))
    return columns


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _sum_weighted(flux, ivar, weight, flux_model):
    power, n_good = 0.0, np.int32(0)
    for k in range(len(flux)):
        residual = flux[k] - flux_model[k] if ivar[k] > 0 else np.float32(0)
        power += residual * residual * weight[k]
        n_good = np.int32(n_good + (ivar[k] > 0))
    return power, n_good


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _sum_squares(residual, weight, class_weight, ivar):
    power, class_power, n_good = 0.0, 0.0, np.int32(0)
    for k in range(len(residual)):
        square = residual[k] * residual[k]
        power += square * weight[k]
        class_power += square * class_weight[k]
        n_good = np.int32(n_good + (ivar[k] > 0))
    return power, class_power, n_good


@njit(nogil=True, cache=True, error_model="numpy")
def _find_windows(residual, weight, wavelength, places, columns):
    """Fill the most significant window of each width and its middle: of either sign, then of missing flux."""
    n_wavelength = residual.shape[1]
    weighted, total, count = np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1), np.zeros(n_wavelength + 1)
    power = np.zeros(n_wavelength, "float32")
    for i in range(len(residual)):
        low, high = measured_range(weight[i])
        running_sums(residual[i], weight[i], low, high, weighted, total, count)
        for j in range(len(places)):
            width, of_band, of_trough = places[j]
            first, last = windows_inside(low, high, width, n_wavelength)
            windows = power[: last - first]
            window_powers(weighted[first:], total[first:], count[first:], width, 0.5, windows)
            if of_band >= 0:
                _fill_strongest(windows, EITHER_SIGN, first, width, wavelength, columns[i, of_band:])
            if of_trough >= 0:
                _fill_strongest(windows, NEGATIVE, first, width, wavelength, columns[i, of_trough:])
                columns[i, of_trough] = -columns[i, of_trough]


@njit(nogil=True, cache=True)
def _fill_strongest(windows, kind, first, width, wavelength, row):
    """Fill the signed significance of the strongest window, and its middle; where there is none, the grid's first."""
    at = first_largest(windows, kind)
    power = windows[at] if len(windows) else np.float32(0)
    power = min(power, np.float32(0)) if kind == NEGATIVE else power
    at = at + first if power != 0 else 0
    row[0] = np.sign(power) * np.sqrt(np.abs(power))
    row[1] = 0.5 * (wavelength[at] + wavelength[at + width - 1])


def _delay_weights(weights):
    """Return what travels once to each worker, named by its sha256: Dask itself would print megabytes to hash them."""
    digest = sha256()
    for one in weights:
        digest.update(one)
    return dask.delayed(weights, name=f"weights-{digest.hexdigest()}", traverse=False)


def _of_model(name):
    return name.split(".")[0].isdigit()


@lru_cache(maxsize=8)
def _cached_model(name, config, weights):
    return model_from_bytes((name, dict(config)), weights)


@lru_cache(maxsize=1)
def _cached_shipped():
    return pretrained_vae().eval()


@lru_cache(maxsize=4)
def _cached_directions(packed, shipped):
    """Return what models can change; the shipped one beside them holds it together from seed to seed."""
    models = [_cached_model(*one) for one in packed]
    return model_directions([*models, shipped] if shipped is not None else models)


def _tensor(block):
    return torch.from_numpy(np.ascontiguousarray(block, dtype="float32"))
