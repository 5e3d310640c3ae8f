"""What the variational autoencoder does pixel by pixel, in one pass each; only the matrix products are left to torch.

Torch takes a dozen passes through memory for it, which cost twice as much as the network. Without gradients, on a CPU.
"""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, error_model="numpy")
def shrink(flux, ivar, inputs):
    """Fill what the encoder sees: flux shrunk by its noise, and the weights themselves.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength), float32
        Normalised flux and its inverse variance; ``ivar == 0`` counts for nothing.
    inputs : numpy.ndarray, shape (object, 2 * n_wavelength), float32
        Filled.
    """
    n_wavelength = flux.shape[1]
    for i in range(len(flux)):
        inside, weights = inputs[i, :n_wavelength], inputs[i, n_wavelength:]
        for k in range(n_wavelength):
            weight = ivar[i, k] / (np.float32(1) + ivar[i, k])
            value = flux[i, k] if flux[i, k] > np.float32(-5) else np.float32(-5)
            value = value if value < np.float32(50) else np.float32(50)
            inside[k] = value * weight if ivar[i, k] > 0 else np.float32(0)
            weights[k] = weight


@njit(nogil=True, cache=True, error_model="numpy")
def scale(flux, ivar, decoded, scatter, flux_model, ivar_model):
    """Fill the reconstruction: the decoder's shapes at their least-squares amplitudes, and its inverse variance.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (object, n_wavelength), float32
        As for `shrink`.
    decoded : numpy.ndarray, shape (object, n_wavelength), float32
        What the decoder adds to a flat spectrum.
    scatter : numpy.ndarray, shape (n_wavelength,), float32
        Of ordinary spectra around any model, a share of the flux.
    flux_model, ivar_model : numpy.ndarray, shape (object, n_wavelength), float32
        Filled.
    """
    for i in range(len(flux)):
        overlap, power = _overlap(flux[i], ivar[i], decoded[i])
        amplitude = np.float32(overlap / max(power, 1e-12))
        for k in range(flux.shape[1]):
            value = (np.float32(1) + decoded[i, k]) * amplitude
            spread = scatter[k] * value
            flux_model[i, k] = value
            ivar_model[i, k] = ivar[i, k] / (np.float32(1) + ivar[i, k] * (spread * spread))


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _overlap(flux, ivar, decoded):
    overlap, power = 0.0, 0.0
    for k in range(len(flux)):
        shape = np.float32(1) + decoded[k]
        weighted = ivar[k] * shape
        overlap += weighted * flux[k] if ivar[k] > 0 else np.float32(0)
        power += weighted * shape
    return overlap, power
