"""Features that spectra share at one observed wavelength: an instrument has those, other redshifts do not."""

import numpy as np
from scipy.stats import norm, poisson

from astrolab.lines import SPEED_OF_LIGHT

_BIN = 250.0  # km/s
_AROUND = 40  # bins on either side that say what is usual there
_FIRST, _LAST = np.log(3_000.0), np.log(12_000.0)
_N_BINS = int(np.ceil((_LAST - _FIRST) * SPEED_OF_LIGHT / _BIN))
# objects of like redshift may share a line at one observed wavelength, and do not count: bins of ln(1 + redshift)
_LAYER = 0.05
_N_LAYERS = 40


def count_places(observed, redshift, is_significant):
    """Count significant features by observed wavelength and redshift.

    Parameters
    ----------
    observed : numpy.ndarray, shape (object,)
        Observed wavelength of each object's feature, Å.
    redshift : numpy.ndarray, shape (object,)
        Its redshift.
    is_significant : numpy.ndarray, shape (object,), bool
        Whether it has one.

    Returns
    -------
    numpy.ndarray, shape (n_layer, n_bin)
        Features in layers of 0.05 in ln(1 + redshift) and bins of 250 km/s from 3,000 to 12,000 Å.
    """
    cell = _layers(redshift[is_significant]) * _N_BINS + _bins(observed[is_significant])
    return np.bincount(cell, minlength=_N_LAYERS * _N_BINS).reshape(_N_LAYERS, _N_BINS).astype("float64")


def shared_excess(counts, observed, redshift, is_significant, reach=6):
    """Say how surprising it is that so many objects of other redshifts have a feature at the same observed wavelength.

    Parameters
    ----------
    counts : numpy.ndarray, shape (n_layer, n_bin)
        From `count_places`.
    observed, redshift, is_significant : numpy.ndarray, shape (object,)
        As for `count_places`; of these objects or of others.
    reach : int, optional
        Bins on either side that count as the same place: as far as the features are ill placed.

    Returns
    -------
    numpy.ndarray, shape (object,)
        Sigma of a Poisson count within `reach` bins against the mean of the 10,000 km/s around, less where fewer than
        half of these features are in excess; 0 for an object without a significant feature.
    """
    total = np.pad(np.cumsum(counts, axis=1), ((0, 0), (1, 0)))
    centre = np.arange(_N_BINS)

    def within(n_bins):
        low, high = np.clip(centre - n_bins, 0, _N_BINS), np.clip(centre + n_bins + 1, 0, _N_BINS)
        return total[:, high] - total[:, low], high - low

    (near, n_near), (around, n_around) = within(reach), within(_AROUND)
    usual = (around - near) / np.maximum(n_around - n_near, 1) * n_near
    # one layer's own line must not speak for all: an instrument's fault is in every layer
    near = np.minimum(near, 3 * usual + 3)
    layers, bins = _layers(redshift), _bins(observed)
    others, expected = (_of_other_redshifts(values, layers, bins) for values in (near, usual))
    # however little was expected, one more of a kind is no evidence
    expected = np.maximum(expected, 0.1)
    sigma = norm.isf(poisson.sf(others - 1, expected))
    # where many features are, a small excess is significant, and yet most of them are their objects' own
    in_excess = 1 - expected / np.maximum(others, 1)
    return np.where(is_significant & (others > 0), np.clip(sigma, 0, 20) * np.clip(2 * in_excess, 0, 1), 0.0)


def _of_other_redshifts(values, layers, bins):
    """Sum over the layers but the object's own and the two beside it, which hold the object itself too."""
    padded = np.pad(values, ((1, 1), (0, 0)))
    own = padded[layers, bins] + padded[layers + 1, bins] + padded[layers + 2, bins]
    return values.sum(axis=0)[bins] - own


def _layers(redshift):
    return np.clip(np.log1p(redshift) / _LAYER, 0, _N_LAYERS - 1).astype(int)


def _bins(observed):
    return np.clip((np.log(observed) - _FIRST) * SPEED_OF_LIGHT / _BIN, 0, _N_BINS - 1).astype(int)
