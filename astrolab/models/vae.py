"""A variational autoencoder of rest-frame spectra with an ivar-weighted likelihood."""

from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from astrolab.models.pixels import misfit, misfit_gradient, scale, shrink


class Reconstruction(NamedTuple):
    """What `VAE.forward` gives.

    Attributes
    ----------
    flux_model : torch.Tensor, shape (object, n_wavelength)
        Reconstruction, in the units of the flux given.
    ivar_model : torch.Tensor, shape (object, n_wavelength)
        Inverse variance of ``flux - flux_model``: measurement noise and the learned scatter of ordinary spectra.
    latent_mean, latent_logvar : torch.Tensor, shape (object, n_latent)
        The Gaussian posterior of the latent vector.
    """

    flux_model: torch.Tensor
    ivar_model: torch.Tensor
    latent_mean: torch.Tensor
    latent_logvar: torch.Tensor


class VAE(nn.Module):
    """Variational autoencoder for spectra on one rest-frame grid, of which each object covers a part.

    The encoder sees the flux shrunk by its own noise (a Wiener filter of unit prior variance) beside the weights
    themselves, so that noisy and absent pixels say little and nothing. The brightness of an object is no latent
    dimension: the decoder's shape is scaled by its ivar-weighted least-squares amplitude. Ordinary spectra scatter
    around any smooth model; that scatter, a fraction of the model at each wavelength, is learned and added to the
    noise, which keeps bright objects from looking strange merely because they are bright.

    Parameters
    ----------
    n_wavelength : int
        Pixels of the rest grid.
    n_latent : int, optional
        Latent dimensions.
    n_hidden : int, optional
        Width of the hidden layers.
    beta : float, optional
        Weight of the Kullback-Leibler term (Higgins et al. 2017); 1 is the evidence lower bound.
    seed : int, optional
        Seed of the initial weights.

    Notes
    -----
    Kingma & Welling (2014, arXiv:1312.6114); ivar-weighted spectra as in Portillo et al. (2020, AJ 160, 45).

    Examples
    --------
    >>> model = VAE(n_wavelength=100).eval()
    >>> model(torch.ones(3, 100), torch.ones(3, 100)).flux_model.shape
    torch.Size([3, 100])
    """

    def __init__(self, n_wavelength, n_latent=8, n_hidden=128, beta=1.0, seed=0):
        super().__init__()
        self.config = {
            "n_wavelength": n_wavelength,
            "n_latent": n_latent,
            "n_hidden": n_hidden,
            "beta": beta,
            "seed": seed,
        }
        self.n_latent, self.beta = n_latent, beta
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Linear(2 * n_wavelength, n_hidden),
                nn.SiLU(),
                nn.Linear(n_hidden, n_hidden // 2),
                nn.SiLU(),
                nn.Linear(n_hidden // 2, 2 * n_latent),
            )
            self.decoder = nn.Sequential(
                nn.Linear(n_latent, n_hidden // 2),
                nn.SiLU(),
                nn.Linear(n_hidden // 2, n_hidden),
                nn.SiLU(),
                nn.Linear(n_hidden, n_wavelength),
            )
        self.scatter = nn.Parameter(torch.zeros(n_wavelength))

    def encode(self, flux, ivar):
        """Return the mean latent vector of each spectrum.

        Parameters
        ----------
        flux, ivar : torch.Tensor, shape (object, n_wavelength)
            Normalised flux and its inverse variance; ``ivar == 0`` counts for nothing.

        Returns
        -------
        torch.Tensor, shape (object, n_latent)
        """
        return self._posterior(flux, ivar)[0]

    def decode(self, latent):
        """Return the spectral shape of latent vectors.

        Parameters
        ----------
        latent : torch.Tensor, shape (object, n_latent)

        Returns
        -------
        torch.Tensor, shape (object, n_wavelength)
            Flux in units of about its own median.
        """
        return 1 + self.decoder(latent)

    def forward(self, flux, ivar):
        """Reconstruct spectra.

        Parameters
        ----------
        flux, ivar : torch.Tensor, shape (object, n_wavelength)
            Normalised flux and its inverse variance; ``ivar == 0`` counts for nothing.

        Returns
        -------
        Reconstruction
            In training mode from a random draw of the posterior, else from its mean.
        """
        if self._has_kernels(flux, ivar) and not (self.training or torch.is_grad_enabled()):
            return self._reconstruct(flux.contiguous(), ivar.contiguous())
        flux = torch.where(ivar > 0, flux, 0)
        mean, logvar = self._posterior(flux, ivar)  # (object, n_latent)
        shape = self.decode(self._draw(mean, logvar))  # (object, n_wavelength)
        overlap = (ivar * shape * flux).sum(dim=1, keepdim=True)
        power = (ivar * shape * shape).sum(dim=1, keepdim=True)
        flux_model = shape * overlap / power.clamp_min(1e-12)
        scatter2 = (self._spread() * flux_model) ** 2
        return Reconstruction(flux_model, ivar / (1 + ivar * scatter2), mean, logvar)

    def loss(self, flux, ivar):
        """Return the negative evidence lower bound of each spectrum.

        Parameters
        ----------
        flux, ivar : torch.Tensor, shape (object, n_wavelength)
            Normalised flux and its inverse variance; ``ivar == 0`` counts for nothing.

        Returns
        -------
        torch.Tensor, shape (object,)
            Nats, up to a constant of the noise alone.
        """
        if self._has_kernels(flux, ivar):
            flux, ivar = flux.contiguous(), ivar.contiguous()
            mean, logvar = self._encode(_shrunk(flux, ivar))
            decoded = self.decoder(self._draw(mean, logvar))
            nats = _Misfit.apply(flux, ivar, decoded, self._spread())
        else:
            flux_model, ivar_model, mean, logvar = self(flux, ivar)
            good = ivar > 0
            residual2 = torch.where(good, flux - flux_model, 0) ** 2
            log_spread = torch.where(good, torch.log(ivar.clamp_min(1e-30) / ivar_model.clamp_min(1e-30)), 0)
            nats = 0.5 * (residual2 * ivar_model + log_spread).sum(dim=1)
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(dim=1)
        return nats + self.beta * divergence

    def _has_kernels(self, flux, ivar):
        """Say whether `pixels` can do the work: 32-bit floats on a CPU, whose own gradients nobody asks for."""
        is_float32 = flux.dtype == ivar.dtype == self.scatter.dtype == torch.float32
        is_plain = flux.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        is_own = type(self) is VAE  # another class may decode in its own way
        return is_own and is_float32 and is_plain and not (flux.requires_grad or ivar.requires_grad)

    def _draw(self, mean, logvar):
        return mean + torch.randn_like(mean) * torch.exp(0.5 * logvar) if self.training else mean

    def _reconstruct(self, flux, ivar):
        """Do what `forward` does where nobody asks for gradients."""
        mean, logvar = self._encode(_shrunk(flux, ivar))
        decoded, flux_model, ivar_model = self.decoder(mean), torch.empty_like(flux), torch.empty_like(flux)
        filled = flux_model.numpy(), ivar_model.numpy()
        scale(flux.numpy(), ivar.numpy(), decoded.numpy(), self._spread().numpy(), *filled)
        return Reconstruction(flux_model, ivar_model, mean, logvar)

    def _spread(self):
        # starts at a tenth; the factor lets it move as fast as the shapes do
        return 0.1 * torch.exp(10 * self.scatter)

    def _posterior(self, flux, ivar):
        weight = ivar / (1 + ivar)
        # a cosmic ray a thousand times the continuum must not steer the latent vector
        inside = torch.where(ivar > 0, flux, 0).clamp(-5, 50) * weight
        return self._encode(torch.cat([inside, weight], dim=1))

    def _encode(self, inputs):
        mean, logvar = self.encoder(inputs).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 8)


class _Misfit(torch.autograd.Function):
    """The likelihood of spectra as `loss` writes it, and its gradient, each in one pass over the pixels."""

    @staticmethod
    def forward(ctx, flux, ivar, decoded, scatter):
        ctx.save_for_backward(flux, ivar, decoded, scatter)
        nats = torch.empty(len(flux))
        misfit(*_as_numpy(flux, ivar, decoded, scatter, nats))
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        flux, ivar, decoded, scatter = ctx.saved_tensors
        of_decoded, of_scatter = torch.empty_like(decoded), torch.zeros_like(scatter)
        misfit_gradient(*_as_numpy(flux, ivar, decoded, scatter, upstream.contiguous(), of_decoded, of_scatter))
        return None, None, of_decoded, of_scatter


def _shrunk(flux, ivar):
    inputs = torch.empty(len(flux), 2 * flux.shape[1])
    shrink(*_as_numpy(flux, ivar, inputs))
    return inputs


def _as_numpy(*tensors):
    return [one.detach().numpy() for one in tensors]
