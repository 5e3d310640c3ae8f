"""What a model learns from: a fair sample of the survey, the same in every run, read in one pass."""

import numpy as np
from numba import njit

from astrolab.schema import OBJECT, check_spectra
from astrolab.stores.passes import load_objects

# fewer good pixels than this teach a model nothing
N_GOOD_MIN = 50

_TRAIN, _VALID = 0.8, 0.9


def split_spectra(targetid, seed=0):
    """Assign each object to the training, validation or test part by a hash of its targetid.

    An object is in the same part in every run, whatever the order or number of objects.

    Parameters
    ----------
    targetid : numpy.ndarray, shape (n_object,), int64
        Identifiers.
    seed : int, optional
        Another seed gives another split.

    Returns
    -------
    numpy.ndarray, shape (n_object,), str
        ``"train"`` (80 %), ``"valid"`` (10 %) or ``"test"`` (10 %).

    Examples
    --------
    >>> split_spectra(np.array([39633559463397282, 39633559467591522, 39633559463398815]))
    array(['train', 'train', 'train'], dtype='<U5')
    """
    share = mixed(targetid, seed) / 2**64
    return np.where(share < _TRAIN, "train", np.where(share < _VALID, "valid", "test"))


def load_training(spectra, *, n_train=20_000, seeds=(0,)):
    """Read the spectra that trainings learn from, in one pass over the survey.

    `fit` finds in them what it would have found in the whole survey, of which each training would read every chunk.

    Parameters
    ----------
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``; lazy spectra are read chunk by chunk on the Dask cluster
        in use.
    n_train : int, optional
        As for `fit`.
    seeds : iterable of int, optional
        That of each training.

    Returns
    -------
    xarray.Dataset
        Flux and ivar in memory, of the training and validation parts of all these seeds: 2.25 `n_train` spectra for
        each of them at most. Rows that cannot be read without killing the process that does are NaN: `fit` leaves them
        out.

    Raises
    ------
    SchemaError
        If these are no spectra.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(400, seed=0), al.rest_grid(1216, 2900, 100)))
    >>> training = al.load_training(rest, n_train=50, seeds=[0, 1])
    >>> al.fit(al.VAE(n_wavelength=100), training, n_train=50, seed=1, n_epochs=2, progress=False).shape
    (2, 3)
    """
    check_spectra(spectra)
    targetid = spectra["targetid"].values
    is_chosen = np.zeros(len(targetid), bool)
    for seed in seeds:
        for name in ("train", "valid"):
            is_chosen[_rows_of_part(targetid, name, n_train, seed)] = True
    return load_objects(spectra[["flux", "ivar"]], is_chosen, desc="training spectra")


def usable_part(spectra, name, n_train, seed):
    """Return the usable spectra of one part of the split, those of lowest hash first chosen, in order of targetid.

    Parameters
    ----------
    spectra : xarray.Dataset
        In memory.
    name : str
        ``"train"`` or ``"valid"``.
    n_train, seed : int
        As for `fit`.

    Returns
    -------
    flux, ivar : numpy.ndarray, shape (n_usable, n_wavelength), float32
        Without those that have next to no good pixel, or a broken one.
    """
    rows = _rows_of_part(spectra["targetid"].values, name, n_train, seed)
    part = spectra[["flux", "ivar"]].isel({OBJECT: np.sort(rows)})
    flux, ivar = part["flux"].values, part["ivar"].values
    n_good, n_broken = _count_pixels(flux, ivar)
    # one that is not finite would make every weight NaN
    is_usable = (n_good >= min(N_GOOD_MIN, ivar.shape[1])) & (n_broken == 0)
    # the order of training is that of the ids, not of the files
    order = np.argsort(part["targetid"].values, kind="stable")
    order = order[is_usable[order]]
    if len(order) < len(flux) or np.any(np.diff(order) < 0) or not (flux.flags.writeable and ivar.flags.writeable):
        flux, ivar = flux[order], ivar[order]
    return flux, ivar


def mixed(targetid, seed):
    """Mix 64-bit integers (splitmix64, Steele et al. 2014): a hash that is the same on every machine.

    Parameters
    ----------
    targetid : numpy.ndarray of int
        Numbers.
    seed : int
        Another seed gives other hashes.

    Returns
    -------
    numpy.ndarray of uint64
    """
    with np.errstate(over="ignore"):
        x = targetid.astype("int64").view("uint64") + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _rows_of_part(targetid, name, n_train, seed):
    """Return the rows of one part of the split, those of lowest hash: a fair sample of it."""
    n_objects = n_train if name == "train" else max(1, n_train // 8)
    rows = np.flatnonzero(split_spectra(targetid, seed) == name)
    return rows[np.argsort(mixed(targetid[rows], seed + 1), kind="stable")[:n_objects]]


@njit(nogil=True, cache=True)
def _count_pixels(flux, ivar):
    """Return the number of good pixels of each spectrum, and that of those that are neither good nor masked."""
    n_good, n_broken = np.zeros(len(flux), np.int64), np.zeros(len(flux), np.int64)
    for i in range(len(flux)):
        for k in range(flux.shape[1]):
            n_good[i] += ivar[i, k] > 0
            n_broken[i] += (ivar[i, k] != 0) & ~(np.isfinite(flux[i, k]) & np.isfinite(ivar[i, k]))
    return n_good, n_broken
