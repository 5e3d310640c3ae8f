"""Faults of a camera: light that is off by one factor between two observed wavelengths.

A model of spectra bends towards a fault: it takes missing light of a whole amplifier for a bluer continuum and a weaker
line, and what it leaves then looks like astrophysics. So a fault is fitted together with everything that the model
could have changed: its amplitude is that of a box times the model, beside the directions in which the model's spectra
differ and a slow change of the calibration. A fault is one only if it explains most of what is strange: `left` is what
the strongest feature still has once the fault is taken out.
"""

import numpy as np
import torch
from scipy.linalg import eigh

from astrolab.anomaly.artefacts import ARM_EDGES, rest_masks
from astrolab.anomaly.fault_search import FAINT, N_NARROW, fill_up, reach, search_rows
from astrolab.lines import SPEED_OF_LIGHT

FAULT_COLUMNS = (
    "fault_power",
    "fault_left",
    "fault_gain",
    "fault_first",
    "fault_last",
    "dip_power",
    "dip_left",
    "dip_at",
)

# widths in km/s, and the share of a window in which gas may absorb: a dip must lie where nothing does; the light of an
# amplifier or a camera is missing over more than any trough
_WIDTHS = (2_500, 4_500, 9_000, 18_000, 28_000, 38_000, 52_000)
_ABSORBED_SHARE = np.array([0.1, 0.1, 0.1, 0.2, 0.6, 0.75, 0.75])
# the bump of dust absorbs over as much (Fitzpatrick & Massa 1986, ApJ 307, 286), rest Å
_DUST = (1_950.0, 2_420.0)
_CELL = 800.0  # km/s, that pixels are put together in
_N_VECTORS, _N_TILTS, _N_DRAWS = 10, 3, 512


def model_directions(models):
    """Return the mean spectrum of models and the directions in which their spectra differ most.

    Parameters
    ----------
    models : list of torch.nn.Module
        With ``decode(latent)`` and the number of latent dimensions in ``config``; a model without is passed over.

    Returns
    -------
    numpy.ndarray, shape (n_vector, n_wavelength), float64
        Of spectra of latent vectors drawn from the prior, each in units of its median: their mean and principal
        components. No vector where no model decodes.
    """
    shapes = []
    for model in (model for model in models if hasattr(model, "decode")):
        draws = np.random.default_rng(0).standard_normal((_N_DRAWS, model.config["n_latent"]))
        with torch.inference_mode():
            shape = model.decode(torch.from_numpy(draws.astype("float32"))).numpy().astype("float64")
        shapes.append(shape / np.maximum(np.median(shape, axis=1, keepdims=True), FAINT))
    if not shapes:
        return np.empty((0, models[0].config["n_wavelength"]))
    shapes = np.concatenate(shapes)
    mean = shapes.mean(axis=0)
    shapes -= mean
    # ten of thousands matter; a singular value decomposition finds them all, and takes three times as long
    n_wavelength = shapes.shape[1]
    strongest = max(n_wavelength - _N_VECTORS, 0), n_wavelength - 1
    return np.concatenate([mean[None], eigh(shapes.T @ shapes, subset_by_index=strongest)[1].T[::-1]])


def fault_evidence(flux, weight, flux_model, directions, wavelength, redshift):
    """Look for light that is off by one factor over a stretch of each spectrum.

    Parameters
    ----------
    flux : numpy.ndarray, shape (object, n_wavelength), float32
        Normalised flux, rest frame; 0 where not measured.
    weight : numpy.ndarray, shape (object, n_wavelength), float32
        From `class_weights`; 0 where not measured.
    flux_model : numpy.ndarray, shape (object, n_wavelength), float32
        What the model makes of each spectrum.
    directions : numpy.ndarray, shape (n_vector, n_wavelength)
        From `model_directions`.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å, uniform in its logarithm.
    redshift : numpy.ndarray, shape (object,)
        Redshift that the spectra were brought to the rest frame with.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns ``FAULT_COLUMNS``: of the fault as wide as an amplifier or a camera, the significance of its factor
        (sigma, with 7 % of the flux as systematic error), that of the strongest feature left without it, ln of the
        ratio of χ² without and with it, and its limits (observed Å); of the dip where nothing absorbs, the same
        significances and its middle (observed Å). What is below 3 sigma explains nothing, and leaves itself.
    """
    pixel = SPEED_OF_LIGHT * np.log(wavelength[1] / wavelength[0])  # km/s
    n_pixel = max(round(_CELL / pixel), 1)
    n_cell = len(wavelength) // n_pixel  # pixels that fill no whole cell at the red end are left out
    wavelength = wavelength[: n_cell * n_pixel].reshape(n_cell, n_pixel).mean(axis=1)
    directions = directions[:, : n_cell * n_pixel].reshape(len(directions), n_cell, n_pixel).mean(axis=2)
    tilts = np.linspace(-1, 1, n_cell) ** np.arange(_N_TILTS)[:, None]
    widths = np.maximum(np.round(np.array(_WIDTHS) / (n_pixel * pixel)).astype(int), 2)
    columns = np.zeros((len(flux), len(FAULT_COLUMNS)), "float32")
    search_rows(
        np.ascontiguousarray(flux, "float32"),
        np.ascontiguousarray(weight, "float32"),
        np.ascontiguousarray(flux_model, "float32"),
        fill_up(np.concatenate([directions, tilts])),
        len(directions),
        len(directions) + len(tilts),
        -_where_gas_absorbs(wavelength, widths).astype("int32"),
        widths,
        _camera_ranges(wavelength, redshift),
        np.asarray(wavelength, "float64"),
        np.asarray(redshift, "float64"),
        columns,
    )
    return columns


def _where_gas_absorbs(wavelength, widths):
    """Return whether gas, or dust in a wide one, absorbs in too much of a window, shape (n_width, n_start)."""
    of_gas = rest_masks(wavelength)[1]
    of_both = of_gas | ((wavelength > _DUST[0]) & (wavelength < _DUST[1]))
    n_beyond = reach(widths)
    n_start = len(wavelength) + 1 + 2 * n_beyond
    counts = np.pad(np.cumsum([of_gas, of_both], axis=1), ((0, 0), (1 + n_beyond, 0)))
    counts = np.pad(counts, ((0, 0), (0, n_beyond + widths[-1])), mode="edge")
    is_absorbed = np.empty((len(widths), n_start), bool)
    for q, width in enumerate(widths):
        n_absorbed = counts[0 if q < N_NARROW else 1]
        is_absorbed[q] = n_absorbed[width:][:n_start] - n_absorbed[:n_start] > _ABSORBED_SHARE[q] * width
    return is_absorbed


def _camera_ranges(wavelength, redshift):
    """Return first and one-past-last pixel of what one camera saw, shape (object, n_range, 2)."""
    known = np.where(np.isfinite(redshift) & (redshift > -1), redshift, 0)
    first, second, third = (np.searchsorted(wavelength, edge / (1 + known)) for edge in ARM_EDGES)
    start, end = np.zeros_like(first), np.full_like(first, len(wavelength))
    ranges = [(start, first), (start, second), (third, end), (first, third)]
    return np.stack([np.stack(one, axis=1) for one in ranges], axis=1)
