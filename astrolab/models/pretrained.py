"""The model that ships with AstroLab, as the start of a training."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from astrolab.models.files import load_model, read_card
from astrolab.models.vae import VAE

# of Adam: a model that knows what a quasar is needs smaller steps than one that knows nothing
WARM_LEARNING_RATE = 3e-4
COLD_LEARNING_RATE = 1e-3

_SHIPPED = Path(__file__).parent / "weights" / "vae_quasars"


def pretrained_vae():
    """Return the VAE that ships with AstroLab.

    Returns
    -------
    VAE
        Trained on simulated quasars alone (its card, ``model.json`` beside its weights, says how and what its limits
        are; `astrolab.pretraining` makes it again): a start for `fit`, not a model to rank with.

    Examples
    --------
    >>> pretrained_vae().config["n_wavelength"]
    1500
    """
    return load_model(_SHIPPED)


def is_pretrained_grid(wavelength_rest):
    """Return whether spectra lie on the grid of the VAE that ships with AstroLab.

    Parameters
    ----------
    wavelength_rest : array-like, shape (n_wavelength,)
        Rest vacuum wavelength, Å.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_pretrained_grid(np.geomspace(1000, 7500, 1500)), is_pretrained_grid([1216, 1217])
    (True, False)
    """
    grid = _pretrained_grid()
    return len(grid) == len(wavelength_rest) and bool(np.allclose(grid, wavelength_rest, rtol=1e-6))


def start_vaes(wavelength_rest, *, n_models=1, n_latent=8, warm_start="auto", seed=0):
    """Return VAEs to be trained, and the step size that suits them.

    Parameters
    ----------
    wavelength_rest : numpy.ndarray, shape (n_wavelength,)
        Rest grid of the spectra to train on, Å.
    n_models : int, optional
        Members of the ensemble; each is to be trained with a seed of its own.
    n_latent : int, optional
        Latent dimensions.
    warm_start : str, optional
        ``"always"`` starts from the shipped model, ``"never"`` from random weights, ``"auto"`` from the shipped model
        where the grid and the latent dimensions are its own.
    seed : int, optional
        Seed of random weights.

    Returns
    -------
    models : list of VAE
        Untrained, or as shipped.
    learning_rate : float
        For `fit`.
    is_warm : bool
        Whether the shipped model was taken.

    Raises
    ------
    ValueError
        If `n_models` is below 1, `warm_start` is none of these words, or the shipped model was asked for and does not
        fit.

    Examples
    --------
    >>> models, learning_rate, is_warm = start_vaes(np.linspace(1216, 2900, 100), n_models=2)
    >>> len(models), is_warm
    (2, False)
    """
    if n_models < 1:
        raise ValueError(f"n_models is {n_models}, expected at least 1.")
    if warm_start not in ("auto", "always", "never"):
        raise ValueError(f"warm_start is '{warm_start}', expected one of: auto, always, never.")
    if warm_start != "never" and _fits(wavelength_rest, n_latent):
        return [pretrained_vae() for _ in range(n_models)], WARM_LEARNING_RATE, True
    if warm_start == "always":
        grid = _pretrained_grid()
        raise ValueError(
            f"the shipped model has {len(grid)} pixels from {grid[0]:g} to {grid[-1]:g} Å and 8 latent dimensions, the "
            f"training {len(wavelength_rest)} from {wavelength_rest[0]:g} to {wavelength_rest[-1]:g} Å and {n_latent}; "
            "take its grid, or give warm_start='never'."
        )
    fresh = [VAE(len(wavelength_rest), n_latent=n_latent, seed=seed + i) for i in range(n_models)]
    return fresh, COLD_LEARNING_RATE, False


@lru_cache(maxsize=1)
def _pretrained_grid():
    return np.asarray(read_card(_SHIPPED)["wavelength_rest"])


def _fits(wavelength_rest, n_latent):
    return is_pretrained_grid(wavelength_rest) and n_latent == pretrained_vae().config["n_latent"]
