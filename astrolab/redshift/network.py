"""The shipped network of classes and redshifts, and what it says of spectra on any grid."""

import json
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

import numpy as np
import torch

from astrolab.models.classifier import GALAXY, NOTHING, QSO, STAR
from astrolab.models.files import model_from_bytes
from astrolab.redshift.scan import BATCH
from astrolab.spectra import _rebin_block, pixel_edges

# the network's grid, observed frame, vacuum: 276 km/s from 3600 to 9806 Å
LOG_STEP = 4e-4
N_WAVELENGTH = 1088
GRID = 3600.0 * 10 ** (LOG_STEP * np.arange(N_WAVELENGTH))
GRID.flags.writeable = False
BIN = 8 * LOG_STEP * np.log(10)  # of ln(1 + redshift): 2209 km/s
N_REDSHIFT = 268  # to redshift 6.15
NAMES = ("QSO", "GALAXY", "STAR", "")
COLUMNS = (
    "p_qso",
    "p_galaxy",
    "p_star",
    "p_nothing",
    "redshift_qso",
    "redshift_galaxy",
    "p_bin_qso",
    "p_bin_galaxy",
    "p_bal",
)
_OWN = files("astrolab.redshift") / "classifier.safetensors"


def to_network_grid(flux, weight, wavelength):
    """Bring spectra to the network's grid.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `astrolab.redshift.scan.clean_spectra` gives them.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed frame, vacuum, Å.

    Returns
    -------
    flux, weight : numpy.ndarray, shape (n_object, 1088), float32
        Weight is 0 where good pixels cover less than half.
    """
    return _rebin_block(
        flux, weight, np.zeros(len(flux)), edges_in=pixel_edges(wavelength), edges_out=pixel_edges(GRID)
    )


@lru_cache(maxsize=1)
def open_classifier():
    """Open the network that AstroLab ships.

    Returns
    -------
    SpectrumClassifier
        In evaluation mode, on the CPU; its card is `classifier_card`.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    content, card = _OWN.read_bytes(), classifier_card()
    if sha256(content).hexdigest() != card["sha256"]:
        raise ValueError(f"'{_OWN}' is damaged: its sha256 is not the one of its card; install AstroLab again.")
    return model_from_bytes(("SpectrumClassifier", card["config"]), content)


def classifier_card():
    """Return the card of the network: what it was trained on, by which command, its figures and its limits.

    Returns
    -------
    dict
        Also its architecture and the sha256 of its weights.

    Examples
    --------
    >>> classifier_card()["command"]
    'python -m astrolab.redshift.train_classifier FOLDER_OF_LABELLED_SPECTRA'
    """
    return json.loads(_OWN.with_suffix(".json").read_text())


def judge_spectra(flux, weight, wavelength):
    """Let the network judge cleaned spectra.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_wavelength), float32
        As `astrolab.redshift.scan.clean_spectra` gives them; weight 0 counts for nothing.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed frame, vacuum, Å.

    Returns
    -------
    answers : numpy.ndarray, shape (n_object, 9), float64
        The columns `COLUMNS`: probabilities of quasar, galaxy, star and nothing; the most likely redshift as a quasar
        and as a galaxy, and the probability of it within 1.5 bins (3,300 km/s) given the class; and the probability of
        broad absorption, given a quasar.
    log_probability : numpy.ndarray, shape (n_object, 2 N_REDSHIFT + 2), float32
        ln of the probability of each class and redshift bin, as the network gives it.
    """
    model = open_classifier()
    padded = [np.zeros((-(-max(len(flux), 1) // BATCH) * BATCH, N_WAVELENGTH), "float32") for _ in range(2)]
    for own, one in zip(padded, to_network_grid(flux, weight, wavelength), strict=True):
        own[: len(flux)] = one
    with torch.inference_mode():
        parts = [
            model(*(torch.from_numpy(one[i : i + BATCH]) for one in padded)) for i in range(0, len(padded[0]), BATCH)
        ]
    log_probability, offset, bal_logit = (torch.cat(part).numpy()[: len(flux)] for part in zip(*parts, strict=True))
    return summarize(log_probability, offset, bal_logit), log_probability


def summarize(log_probability, offset, bal_logit):
    """Reduce the network's output to one redshift a class and its probability: see `judge_spectra`."""
    probability = np.exp(log_probability.astype("float64"))
    out = np.zeros((len(probability), len(COLUMNS)))
    rows = np.arange(len(probability))
    for k, label in enumerate((QSO, GALAXY)):
        cells = slice(label * N_REDSHIFT, (label + 1) * N_REDSHIFT)
        own = probability[:, cells]
        whole = own.sum(axis=1)
        near = own.copy()
        near[:, 1:] += own[:, :-1]
        near[:, :-1] += own[:, 1:]
        best = near.argmax(axis=1)
        # within the three bins, the mean of the places that they name
        redshift, share = np.zeros(len(own)), np.zeros(len(own))
        for step in (-1, 0, 1):
            at = np.clip(best + step, 0, N_REDSHIFT - 1)
            part = np.where((at - best) == step, own[rows, at], 0)
            redshift += part * (at + offset[:, cells][rows, at])
            share += part
        out[:, label] = whole
        out[:, 4 + k] = np.expm1(redshift / np.maximum(share, 1e-300) * BIN)
        out[:, 6 + k] = np.where(whole > 0, share / np.maximum(whole, 1e-300), 0)
    out[:, STAR], out[:, NOTHING] = probability[:, -2], probability[:, -1]
    out[:, 8] = 1 / (1 + np.exp(-np.clip(bal_logit.astype("float64"), -50, 50)))
    return out


def probability_near(log_probability, spectype, redshift):
    """Return the network's probability of a class and a redshift, 1.5 bins on either side included.

    Parameters
    ----------
    log_probability : numpy.ndarray, shape (n_object, 2 N_REDSHIFT + 2)
        As `judge_spectra` gives it.
    spectype : numpy.ndarray of str, shape (n_object, n_hypothesis)
        QSO, GALAXY, STAR, or empty for nothing.
    redshift : numpy.ndarray, shape (n_object, n_hypothesis)
        Not used for stars and nothing.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_hypothesis)
        Between 0 and 1; NaN redshifts have 0.
    """
    probability = np.exp(np.asarray(log_probability, "float64"))
    spectype = np.asarray(spectype).astype(str)
    known = np.isfinite(redshift)
    place = np.log1p(np.where(known, np.maximum(redshift, 0), 0)) / BIN
    first = np.where(spectype == "GALAXY", N_REDSHIFT, 0)
    total = np.zeros(place.shape)
    nearest = np.round(place).astype(int)
    for step in range(-2, 3):
        at = nearest + step
        share = np.clip(2 - np.abs(at - place), 0, 1) * ((at >= 0) & (at < N_REDSHIFT))
        total += share * np.take_along_axis(probability, first + np.clip(at, 0, N_REDSHIFT - 1), 1)
    total = np.where(known, total, 0)
    total = np.where(spectype == "STAR", probability[:, -2:-1], total)
    return np.where(spectype == "", probability[:, -1:], total)
