"""Attribution: how much each pixel has to do with a model's misfit and with an unusual latent vector."""

import numpy as np
import torch
import xarray as xr
from captum.attr import IntegratedGradients
from scipy.spatial import cKDTree

from astrolab.anomaly.rescoring import Rescorer
from astrolab.anomaly.scores import reconstruct
from astrolab.schema import OBJECT, WAVELENGTH_REST, check_spectra

_N_NEAREST = 10
_BATCH = 64


def attribute_anomaly(models, spectra, scale, *, n_steps=16):
    """Attribute each object's misfit and its distance from ordinary latent vectors to its pixels.

    Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the reconstruction, which is what the model
    calls ordinary, to the flux: of the χ² of the residual, and of the mean squared distance to the ten nearest latent
    vectors of the survey. The two are mixed as they are in the anomaly score, by the squares of what is positive in
    its parts; emission lines and the continuum are measured without the model and have no gradient in it.

    Parameters
    ----------
    models : torch.nn.Module or sequence of them
        Those that ranked the objects; the attributions of several are averaged.
    spectra : xarray.Dataset
        Normalised spectra, dims ``(object, wavelength_rest)``, with ``redshift``.
    scale : Scale
        From `score_anomalies`.
    n_steps : int, optional
        Steps of the integral (Gauss-Legendre).

    Returns
    -------
    xarray.DataArray, shape (object, wavelength_rest), float32
        Signed: positive pixels make the object stranger. Absolute values of each object sum to 1. Pixels with
        ``ivar == 0`` have exactly 0.

    Raises
    ------
    SchemaError
        If the spectra are not what `check_spectra` expects.

    Examples
    --------
    >>> import astrolab as al
    >>> rest = al.normalize_flux(al.to_restframe(al.simulate_survey(40, seed=0), al.rest_grid(1000, 4000, 100)))
    >>> vae = al.VAE(n_wavelength=100)
    >>> ranking, _, scale = al.score_anomalies(vae, rest)
    >>> top = al.attach_spectra(vae, rest, ranking.head(2))
    >>> al.attribute_anomaly(vae, top, scale).shape
    (2, 100)
    """
    check_spectra(spectra)
    top = spectra[["flux", "ivar"]].compute()
    rescorer = Rescorer(models, scale, top[WAVELENGTH_REST].values)
    flux, ivar = top["flux"].values, top["ivar"].values
    scores = rescorer.place(rescorer.raw(flux, ivar, top["redshift"].values))
    pixels = attribute_pixels(rescorer, flux, ivar, scores, n_steps)
    return xr.DataArray(pixels, dims=(OBJECT, WAVELENGTH_REST), name="attribution")


def attribute_pixels(rescorer, flux, ivar, scores, n_steps=16):
    """Attribute as `attribute_anomaly` does, from arrays.

    Parameters
    ----------
    rescorer : Rescorer
        Models and scale.
    flux, ivar : numpy.ndarray, shape (object, n_wavelength)
        Normalised flux and inverse variance.
    scores : pandas.DataFrame
        What the survey's scale says of them, from `place_on_scale`.
    n_steps : int, optional
        Steps of the integral.

    Returns
    -------
    numpy.ndarray, shape (object, n_wavelength), float32
    """
    total, latent_share = np.zeros(flux.shape, "float32"), _latent_share(scores)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    try:
        for start in range(0, len(flux), _BATCH):
            rows = slice(start, start + _BATCH)
            share = latent_share[rows]
            for model, member in zip(rescorer.members, rescorer.scale.members, strict=True):
                misfit, distance = _integrate(model, member, flux[rows], ivar[rows], n_steps)
                total[rows] += (1 - share) * _normed(misfit) + share * _normed(distance)
    finally:
        torch.set_num_threads(n_threads)
    return _normed(total)


def _latent_share(scores):
    """Return the latent vector's share in what the model says of each object, shape (object, 1)."""
    power = np.maximum(scores[["score_chi2", "score_trough", "score_latent"]].to_numpy(), 0) ** 2
    total = power.sum(axis=1)
    return np.divide(power[:, 2], total, out=np.zeros(len(power)), where=total > 0)[:, None]


def _integrate(model, member, flux, ivar, n_steps):
    """Return the attributions of the misfit and of the latent distance, shape (object, n_wavelength) each."""
    is_good = ivar > 0
    flux = np.where(is_good, flux, 0).astype("float32")
    # equal at unmeasured pixels, whose attribution is then 0 whatever the gradient
    baseline = np.where(is_good, reconstruct(model, flux, ivar)[0], 0).astype("float32")
    flux, baseline, ivar = (torch.from_numpy(np.ascontiguousarray(part)) for part in (flux, baseline, ivar))
    spread = torch.from_numpy(member.latent_spread.astype("float32"))
    nearest = _nearest(model, member, flux, ivar)

    def misfit(flux, ivar):
        out = model(flux, ivar)
        return ((flux - out.flux_model) ** 2 * out.ivar_model).sum(dim=1)

    def distance(flux, ivar, nearest):
        latent = model.encode(flux, ivar) / spread  # (object, n_latent)
        return ((latent[:, None] - nearest) ** 2).sum(dim=2).mean(dim=1)

    options = {"baselines": baseline, "n_steps": n_steps, "internal_batch_size": 1024}
    parts = [
        IntegratedGradients(misfit).attribute(flux, additional_forward_args=(ivar,), **options),
        IntegratedGradients(distance).attribute(flux, additional_forward_args=(ivar, nearest), **options),
    ]
    return [part.detach().numpy() for part in parts]


def _nearest(model, member, flux, ivar):
    """Return the nearest latent vectors of the survey, shape (object, n_nearest, n_latent)."""
    with torch.inference_mode():
        latent = model.eval().encode(flux, ivar).numpy(force=True) / member.latent_spread
    _, near = cKDTree(member.latent).query(latent, k=min(_N_NEAREST, len(member.latent)))
    near = near.reshape(len(latent), -1)
    return torch.from_numpy(member.latent[near].astype("float32"))


def _normed(attribution):
    """Scale so that absolute values sum to 1; an attribution of nothing stays 0."""
    total = np.abs(attribution).sum(axis=1, keepdims=True)
    return np.divide(attribution, total, out=np.zeros_like(attribution), where=total > 0)
