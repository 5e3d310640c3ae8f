"""What the variational autoencoder does pixel by pixel, row by row; only the matrix products are left to torch.

Torch takes a dozen passes through memory for a reconstruction, which cost twice as much as the network, and some fifty
for the gradient of its loss, which cost four times as much. On a CPU.
"""

import numpy as np
from numba import njit

_LEAST_POWER = 1e-12
_FACTORS = 8


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
        amplitude = np.float32(overlap / max(power, _LEAST_POWER))
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


@njit(nogil=True, cache=True, error_model="numpy")
def misfit(flux, ivar, decoded, scatter, nats):
    """Fill the negative logarithm of each spectrum's likelihood, without the constant of its noise.

    Parameters
    ----------
    flux, ivar, decoded, scatter : numpy.ndarray
        As for `scale`.
    nats : numpy.ndarray, shape (object,), float32
        Filled.
    """
    n_products = -(-flux.shape[1] // _FACTORS)
    growth, products = np.ones(n_products * _FACTORS, np.float32), np.empty(n_products)
    for i in range(len(flux)):
        overlap, power = _overlap(flux[i], ivar[i], decoded[i])
        amplitude = np.float32(overlap / max(power, _LEAST_POWER))
        chi2 = _chi2_and_growth(flux[i], ivar[i], decoded[i], scatter, amplitude, growth)
        nats[i] = 0.5 * (chi2 + _sum_of_logs(growth, products))


@njit(nogil=True, cache=True, error_model="numpy")
def misfit_gradient(flux, ivar, decoded, scatter, upstream, of_decoded, of_scatter):
    """Fill the gradient of the sum of `misfit` times what each spectrum counts.

    Parameters
    ----------
    flux, ivar, decoded, scatter : numpy.ndarray
        As for `scale`.
    upstream : numpy.ndarray, shape (object,), float32
        What each spectrum counts.
    of_decoded, of_scatter : numpy.ndarray, shape (object, n_wavelength), (n_wavelength,), float32
        Filled; the second are zeros before.
    """
    for i in range(len(flux)):
        overlap, power = _overlap(flux[i], ivar[i], decoded[i])
        power, is_free = max(power, _LEAST_POWER), power > _LEAST_POWER
        amplitude = np.float32(overlap / power)
        along = _pull(flux[i], ivar[i], decoded[i], scatter, amplitude, upstream[i], of_decoded[i], of_scatter)
        # the amplitude follows the shape, too
        twice = 2 * amplitude if is_free else np.float32(0)
        _add_pull(flux[i], ivar[i], decoded[i], twice, np.float32(along / power), of_decoded[i])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _chi2_and_growth(flux, ivar, decoded, scatter, amplitude, growth):
    """Return χ², and fill by how much the scatter makes each pixel's variance grow."""
    chi2 = np.float32(0)
    for k in range(len(flux)):
        value = (np.float32(1) + decoded[k]) * amplitude
        spread = scatter[k] * value
        grown = np.float32(1) + ivar[k] * (spread * spread)
        residual = flux[k] - value
        chi2 += residual * residual * (ivar[k] / grown) if ivar[k] > 0 else np.float32(0)
        growth[k] = grown
    return chi2


@njit(nogil=True, cache=True)
def _sum_of_logs(growth, products):
    """Return the sum of the logarithms of 32-bit floats: of products of eight, which 64 bits can hold."""
    n = len(products)
    products[:] = 1.0
    for j in range(_FACTORS):
        row = growth[j * n : (j + 1) * n]
        for k in range(n):
            products[k] *= row[k]
    total = 0.0
    for k in range(n):
        total += np.log(products[k])
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _pull(flux, ivar, decoded, scatter, amplitude, upstream, of_decoded, of_scatter):
    """Fill the gradient at a fixed amplitude, and return that along the amplitude."""
    along = np.float32(0)
    for k in range(len(flux)):
        shape = np.float32(1) + decoded[k]
        value = shape * amplitude
        spread = scatter[k] * value
        known = ivar[k] / (np.float32(1) + ivar[k] * (spread * spread))
        residual = flux[k] - value if ivar[k] > 0 else np.float32(0)
        of_spread = upstream * (known * spread * (np.float32(1) - residual * residual * known))
        of_value = of_spread * scatter[k] - upstream * (residual * known)
        along += of_value * shape
        of_decoded[k] = of_value * amplitude
        of_scatter[k] += of_spread * value
    return along


@njit(nogil=True, cache=True)
def _add_pull(flux, ivar, decoded, twice, along, of_decoded):
    for k in range(len(flux)):
        slope = ivar[k] * (flux[k] - twice * (np.float32(1) + decoded[k]))
        of_decoded[k] += along * slope if ivar[k] > 0 else np.float32(0)
