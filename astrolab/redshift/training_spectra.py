"""Spectra to train the network of classes and redshifts on: simulated ones, and the training half of real ones."""

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from astrolab.models.classifier import GALAXY, NOTHING, QSO, STAR
from astrolab.readers import sdss
from astrolab.redshift.network import BIN, to_network_grid
from astrolab.redshift.scan import clean_spectra
from astrolab.simulation.artefacts import (
    inject_arm_step,
    inject_cosmic_rays,
    inject_dead_amplifier,
    inject_sky_residual,
)
from astrolab.simulation.forest import forest_transmission, metal_transmission
from astrolab.simulation.galaxies import galaxy_flux
from astrolab.simulation.grid import WAVELENGTH
from astrolab.simulation.instrument import observe
from astrolab.simulation.quasars import quasar_components, quasar_parameters, smc_dust
from astrolab.simulation.rare import inject_bal, inject_dla, inject_reddening, inject_weak_lines
from astrolab.simulation.stars import star_flux
from astrolab.simulation.survey import _scale_to_magnitude

_BLOCK = 256
_SHARES = (0.50, 0.26, 0.14, 0.10)  # quasars, galaxies, stars, nothing
_LABELS = {"QSO": QSO, "GALAXY": GALAXY, "STAR": STAR, "SKY": NOTHING}
_BAL_FIRST = 1.45  # C IV troughs are in range beyond this redshift


class Labelled(NamedTuple):
    """Spectra on the network's grid, and what they are.

    Attributes
    ----------
    flux, weight : numpy.ndarray, shape (n_object, 1088), float32
        Weight 0 counts for nothing.
    label : numpy.ndarray, shape (n_object,), int64
        Of `astrolab.models.classifier`.
    place : numpy.ndarray, shape (n_object,), float32
        ln(1 + redshift) in bins; 0 for stars and nothing.
    is_bal : numpy.ndarray, shape (n_object,), float32
        1, 0, or NaN where nobody knows.
    """

    flux: np.ndarray
    weight: np.ndarray
    label: np.ndarray
    place: np.ndarray
    is_bal: np.ndarray


def part_of(object_group, *, of_twin=False):
    """Tell what an object is used for, by a hash of its group: half are held out of all training and calibration.

    Parameters
    ----------
    object_group : array_like of int
        Repeats of one object share it.
    of_twin : bool, optional
        For a second network, to be trained on the half that is held out of the first, and the other way round.

    Returns
    -------
    numpy.ndarray of str
        ``"training"``, ``"calibration"`` or ``"held out"``: the same answer for the same number, always.

    Examples
    --------
    >>> part_of([1, 2, 3, 4, 1]).tolist()
    ['held out', 'training', 'training', 'held out', 'held out']
    """
    number = np.array([sha256(str(int(group)).encode()).digest()[0] ^ of_twin for group in np.asarray(object_group)])
    return np.select([number % 2 == 1, number % 8 == 2], ["held out", "calibration"], "training")


def real_spectra(folder, part, *, of_twin=False):
    """Read a part of a folder of labelled SDSS spectra.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``sdss/truth.csv`` with columns file, truth_class, truth_z, truth_source, bal, object_group. Weak labels
        are left out, except of sky fibres.
    part : {'training', 'calibration', 'held out'}
        About three eighths, an eighth and a half of the objects, by a hash of their group.
    of_twin : bool, optional
        As for `part_of`.

    Returns
    -------
    Labelled
        Those spectra.
    """
    truth = pd.read_csv(Path(folder) / "sdss" / "truth.csv")
    is_weak = truth["truth_source"].str.contains("weak") & (truth["truth_class"] != "SKY")
    truth = truth[~is_weak & (part_of(truth["object_group"], of_twin=of_twin) == part)]
    pixels = np.stack([sdss.read_pixels(str(Path(folder) / "sdss" / file))[0][:, 0] for file in truth["file"]])
    flux, weight, _ = clean_spectra(pixels[:, 0], pixels[:, 1], sdss.WAVELENGTH)
    label = truth["truth_class"].map(_LABELS).to_numpy("int64")
    place = np.where(label <= GALAXY, np.log1p(np.maximum(truth["truth_z"].fillna(0), 0)) / BIN, 0)
    is_bal = np.where(label == QSO, truth["bal"], np.nan)
    return Labelled(*to_network_grid(flux, weight, sdss.WAVELENGTH), label, place.astype("f4"), is_bal.astype("f4"))


def simulated_training_spectra(n_objects, seed):
    """Simulate spectra to train on: every redshift and class alike often, with broad absorption and artefacts.

    Parameters
    ----------
    n_objects : int
        Rounded up to whole blocks of 256.
    seed : int
        Seed of everything.

    Returns
    -------
    Labelled
        Half are quasars, even in ln(1 + redshift) from 0.03 to 6; a quarter of those beyond redshift 1.45 have broad
        absorption.
    """
    blocks = [_block(np.random.default_rng([seed, block])) for block in range(-(-n_objects // _BLOCK))]
    return Labelled(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


def _block(rng):
    label = np.sort(rng.choice(4, _BLOCK, p=_SHARES))
    redshift, is_bal = np.zeros(_BLOCK), np.full(_BLOCK, np.nan, "float32")
    flux = np.zeros((_BLOCK, len(WAVELENGTH)), "float32")
    magnitude = np.where(label == QSO, rng.triangular(17, 22.6, 23, _BLOCK), rng.triangular(16.5, 21.5, 23, _BLOCK))
    rows = np.flatnonzero(label == QSO)
    redshift[rows] = np.expm1(rng.uniform(np.log(1.03), np.log(7.0), rows.size))
    flux[rows], is_bal[rows] = _quasars(redshift[rows], magnitude[rows], rng)
    rows = np.flatnonzero(label == GALAXY)
    redshift[rows] = np.expm1(rng.uniform(0, np.log(2.7), rows.size))
    log_rest = (np.log(WAVELENGTH) - np.log1p(redshift[rows])[:, None]).astype("float32")
    flux[rows] = galaxy_flux(redshift[rows], rng) * smc_dust(log_rest, rng.exponential(0.15, rows.size))
    rows = np.flatnonzero(label == STAR)
    flux[rows] = star_flux(rng.normal(0, 4e-4, rows.size), rng)
    flux *= _scale_to_magnitude(flux, magnitude)
    flux *= _calibration(_BLOCK, rng)
    rows = np.flatnonzero(label == NOTHING)
    flux[rows] += (0.1 * rng.normal(size=(rows.size, 1)) * _calibration(rows.size, rng)).astype("float32")
    flux, ivar = observe(flux, rng.integers(1, 5, _BLOCK), rng.uniform(0.7, 1.2, _BLOCK), rng)
    flux, ivar = _damaged(flux, ivar, rng)
    flux, weight, _ = clean_spectra(flux, ivar, WAVELENGTH)
    place = np.where(label <= GALAXY, np.log1p(redshift) / BIN, 0).astype("float32")
    return Labelled(*to_network_grid(flux, weight, WAVELENGTH), label.astype("int64"), place, is_bal)


def _quasars(redshift, magnitude, rng):
    parameters = quasar_parameters(redshift, magnitude, rng)
    parts = quasar_components(parameters)
    transmission = forest_transmission(redshift, rng)
    transmission *= metal_transmission(redshift, rng)
    transmission *= smc_dust(parts.log_wavelength, parameters.ebv)
    flux = (parts.continuum + parts.broad + parts.narrow) * transmission
    weak = np.flatnonzero(rng.random(len(flux)) < 0.06)
    flux[weak] = inject_weak_lines(flux[weak], (parts.broad * transmission)[weak], rng)
    flux += parts.host * rng.choice([0.3, 1.0, 3.0], len(flux)).astype("float32")[:, None]
    kind = rng.choice(["", "HI", "LO", "FELO"], len(flux), p=[0.75, 0.17, 0.06, 0.02])
    kind[redshift < _BAL_FIRST] = ""
    for name in ("HI", "LO", "FELO"):
        rows = np.flatnonzero(kind == name)
        if rows.size:
            flux[rows] = inject_bal(flux[rows], WAVELENGTH, redshift[rows], rng, kind=name)
    rows = np.flatnonzero((redshift > 2.3) & (redshift < 4.5) & (rng.random(len(flux)) < 0.06))
    flux[rows] = inject_dla(flux[rows], WAVELENGTH, redshift[rows], rng)
    rows = np.flatnonzero((redshift < 2.5) & (rng.random(len(flux)) < 0.06))
    flux[rows] = inject_reddening(flux[rows], WAVELENGTH, redshift[rows], rng)
    return flux, np.where(redshift > _BAL_FIRST, kind != "", np.nan)


def _calibration(n_object, rng):
    """Smooth errors of the flux calibration, a few per cent: shape (n_object, n_wavelength)."""
    place = np.linspace(-1, 1, len(WAVELENGTH))
    waves = np.stack([place, place**2, np.sin(3 * place), np.cos(6 * place), np.sin(11 * place)])
    scatter = rng.normal(0, [0.12, 0.08, 0.04, 0.03, 0.02], (n_object, 5))
    return np.clip(1 + scatter @ waves, 0.2, 3).astype("float32")


def _damaged(flux, ivar, rng):
    chance = rng.random(len(flux))
    for low, high, inject in (
        (0.00, 0.03, lambda f, w: (inject_cosmic_rays(f, w, rng), w)),
        (0.03, 0.10, lambda f, w: (inject_sky_residual(f, w, WAVELENGTH, rng), w)),
        (0.10, 0.13, lambda f, w: (inject_arm_step(f, WAVELENGTH, rng), w)),
        (0.13, 0.15, lambda f, w: inject_dead_amplifier(f, w, WAVELENGTH, rng)),
    ):
        rows = np.flatnonzero((chance >= low) & (chance < high))
        flux[rows], ivar[rows] = inject(flux[rows], ivar[rows])
    return flux, ivar
