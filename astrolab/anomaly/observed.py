"""What stays put in the observed frame: steps exactly where cameras meet, and residuals in the pattern of the airglow.

Both places are known to a fraction of a pixel before any spectrum is looked at, and so two sigma there say more than
four anywhere. Each is measured against the same spectrum elsewhere: one that is misfit everywhere proves nothing.
"""

from functools import lru_cache

import numpy as np
from numba import njit

from astrolab.lines import SPEED_OF_LIGHT, spectral_lines
from astrolab.simulation.injections import SDSS_DICHROIC
from astrolab.simulation.sky import AIRGLOW

OBSERVED_COLUMNS = ("edge_power", "airglow_power")
OBSERVED_SCORES = ("artefact_edge", "artefact_airglow")

# what one ordinary spectrum in ten has
_USUAL = (1.7, 2.8)
# evidence at a place that was known before counts twice: nothing of the object's own would fall on it but by chance
_KNOWN_PLACE = 2.0

_SIDE = 2_000.0  # km/s on either side of an edge, and as much again that says how steep the spectrum is
_SYSTEMATIC = 0.07  # no model is better than this
_FAINT = 0.1  # of the normalised flux: a fraction of no light has no meaning

_FIRST_AIRGLOW = 5500.0  # Å; bluewards there is next to none
_LINE_WIDTH = 1.0  # Å, sigma
_SKY = 30.0  # brightness of the sky between the lines, in units of AIRGLOW, within a pixel
_N_PHASES = 16  # places within a pixel at which a line may lie
_AROUND = 15  # pixels that say what is usual around a line
_SHIFTS = (-8, -6, -4, 4, 6, 8)  # pixels by which the pattern fits no airglow
_MARGIN = 8  # pixels of the pattern that only the shifted ones need
_MOST = 3.0  # sigma that a pixel counts as at most: many must agree


def observed_scores(table):
    """Return how much more there is than an ordinary spectrum has.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``OBSERVED_COLUMNS``.

    Returns
    -------
    numpy.ndarray, shape (object, 2)
        ``OBSERVED_SCORES``, not below 0; no peers are needed for what is measured against the spectrum itself.
    """
    return _KNOWN_PLACE * np.maximum(table[list(OBSERVED_COLUMNS)].to_numpy("float64") - _USUAL, 0)


def observed_evidence(flux, weight, flux_model, wavelength, redshift):
    """Look in each spectrum for a step at the dichroic and for the pattern of the airglow.

    Parameters
    ----------
    flux : numpy.ndarray, shape (object, n_wavelength), float32
        Normalised flux, rest frame; 0 where not measured.
    weight : numpy.ndarray, shape (object, n_wavelength), float32
        From `class_weights`; 0 where not measured.
    flux_model : numpy.ndarray, shape (object, n_wavelength), float32
        What the model makes of each spectrum.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Rest vacuum wavelength, Å, uniform in its logarithm.
    redshift : numpy.ndarray, shape (object,)
        Redshift that the spectra were brought to the rest frame with.

    Returns
    -------
    numpy.ndarray, shape (object, n_columns), float32
        Columns ``OBSERVED_COLUMNS``: the height of the step at the dichroic of SDSS, in units of the steps that the
        spectrum has elsewhere (sigma, with 7 % of the flux as systematic error), 0 where a major line lies there; and
        the significance with which bright and badly placed airglow lines fit the residuals, over that of the same
        pattern shifted by some pixels (sigma). 0 where not measured.
    """
    pixel = np.log(wavelength[1] / wavelength[0])
    pattern, first = _airglow_pattern(float(pixel), float(wavelength[0]))
    lines = np.log([line.wavelength for line in spectral_lines(only_major=True)])
    columns = np.zeros((len(flux), len(OBSERVED_COLUMNS)), "float32")
    _measure_rows(
        np.ascontiguousarray(flux, "float32"),
        np.ascontiguousarray(weight, "float32"),
        np.ascontiguousarray(flux_model, "float32"),
        np.asarray(redshift, "float64"),
        float(np.log(wavelength[0])),
        pixel,
        max(round(_SIDE / (pixel * SPEED_OF_LIGHT)), 2),
        lines,
        pattern,
        first,
        columns,
    )
    return columns


@lru_cache(maxsize=4)
def _airglow_pattern(pixel, _):
    """Return what a sky too bright, and one shifted, leave a pixel, in sigma of its noise, (phase, 2, n_pixel).

    The pixels are as wide as those of the rest frame and lie in the observed frame; a phase later they begin 1/16 of a
    pixel redder. With them the middle of the first one, ln Å, in phase 0.
    """
    first, last = np.log(_FIRST_AIRGLOW), np.log(AIRGLOW[-1][0] + 20)
    fine = np.arange(_FIRST_AIRGLOW - 50, AIRGLOW[-1][0] + 100, 0.5)
    bright, shifted = np.zeros((2, len(fine)))
    for centre, power in AIRGLOW:
        if centre > _FIRST_AIRGLOW:
            x = (fine - centre) / _LINE_WIDTH
            profile = power * np.exp(-0.5 * x**2)
            bright, shifted = bright + profile, shifted + x * profile
    sums = [np.concatenate([[0], np.cumsum(one)[:-1]]) * 0.5 for one in (bright, shifted)]
    n_pixel = int((last - first) / pixel)
    pattern = np.empty((_N_PHASES, 2, n_pixel))
    for phase in range(_N_PHASES):
        edges = np.exp(first + pixel * (np.arange(n_pixel + 1) - 0.5 + phase / _N_PHASES))
        lines, wiggles = (np.diff(np.interp(edges, fine, one)) for one in sums)
        noise = np.sqrt(np.maximum(lines, 0) + _SKY)
        usual = np.convolve(lines / noise, np.ones(_AROUND) / _AROUND, "same")
        pattern[phase] = lines / noise - usual, wiggles / noise
    return pattern.astype("float32"), first


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_rows(flux, weight, flux_model, redshift, log_first, pixel, side, lines, pattern, first_airglow, columns):
    n, n_pattern = flux.shape[1], pattern.shape[2]
    power, part, blocks = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros((2, n // side), np.float32)
    for i in range(len(flux)):
        if not redshift[i] > -1:
            continue
        log_start = log_first + np.log(1 + redshift[i])
        edge = round((np.log(SDSS_DICHROIC) - log_start) / pixel + 0.5)  # the pixel that begins there
        distance = np.abs(np.log(SDSS_DICHROIC / (1 + redshift[i])) - lines).min()
        if 2 * side < edge < n - 2 * side and distance > 2 * side * pixel:
            _relative(flux[i], weight[i], flux_model[i], power, part)
            columns[i, 0] = _edge_power(power, part, edge, side, blocks)
        place = (log_start - first_airglow) / pixel + 0.5 / _N_PHASES
        offset = int(np.floor(place))  # of the spectrum's first pixel in the pattern
        start, end = max(0, _MARGIN - offset), min(n, n_pattern - _MARGIN - offset)
        if end - start > _AROUND:
            _capped_sigma(flux[i], weight[i], flux_model[i], power, part)
            own = pattern[int((place - offset) * _N_PHASES)]
            columns[i, 1] = _airglow_power(power[start:end], part[start:end], own, start + offset)


@njit(nogil=True, cache=True, error_model="numpy")
def _relative(flux, weight, flux_model, power, part):
    """Fill the information on each pixel's flux over the model's, and the residual times it."""
    for k in range(len(flux)):
        model = flux_model[k] if flux_model[k] > np.float32(_FAINT) else np.float32(_FAINT)
        scaled = weight[k] * model
        own = scaled / (np.float32(1) + np.float32(_SYSTEMATIC * _SYSTEMATIC) * scaled * model)
        power[k], part[k] = own * model, own * (flux[k] - flux_model[k])


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def _edge_power(power, part, edge, side, blocks):
    """Return the highest step within a pixel of an edge, in units of those elsewhere."""
    here, total, count = np.float32(0), np.float32(0), np.float32(0)
    for shift in (-1, 1, 0):  # a pixel may straddle the edge
        first = (edge + shift) % side
        n = (len(power) - first) // side
        own = slice(0, n) if shift == 0 else slice((edge + shift) // side - 2, (edge + shift) // side + 2)
        _average(power, part, first, side, own.start, own.stop, blocks)
        here = max(here, _step(blocks, (edge + shift) // side - 2))
    for j in range(n - 3):
        step = _step(blocks, j)
        total += step
        count += np.float32(step > 0)
    # 1.25 times its mean size is the sigma of a normal deviate; noise alone gives 1
    return here / max(np.float32(1.2533) * total / max(count, np.float32(1)), np.float32(1))


@njit(nogil=True, cache=True, error_model="numpy")
def _average(power, part, first, side, start, stop, blocks):
    """Fill, for some blocks of pixels, the mean of the relative residual and its variance; 0 where not measured."""
    for j in range(start, stop):
        total, weighted = np.float32(0), np.float32(0)
        for k in range(first + j * side, first + (j + 1) * side):
            total += power[k]
            weighted += part[k]
        blocks[0, j] = weighted / total if total > 0 else np.float32(0)
        blocks[1, j] = np.float32(1) / total if total > 0 else np.float32(np.inf)


@njit(nogil=True, cache=True, error_model="numpy")
def _step(blocks, j):
    """Return the significance of a step amid four blocks, on top of their slope; 0 where one is not measured."""
    near, far = blocks[0, j + 2] - blocks[0, j + 1], blocks[0, j + 3] - blocks[0, j]
    spread = np.float32(2.25) * (blocks[1, j + 2] + blocks[1, j + 1])
    spread += np.float32(0.25) * (blocks[1, j + 3] + blocks[1, j])
    return np.abs(np.float32(1.5) * near - np.float32(0.5) * far) / np.sqrt(spread)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _capped_sigma(flux, weight, flux_model, sigma, good):
    """Fill residuals in sigma, in units of what is ordinary in this spectrum and 3 at most, and 1 where measured."""
    total, n, much, most = np.float32(0), np.float32(0), np.float32(25), np.float32(_MOST)
    for k in range(len(flux)):
        value = (flux[k] - flux_model[k]) * np.sqrt(weight[k])
        is_good = np.float32(1) if weight[k] > 0 else np.float32(0)
        square = value * value
        total += square if square < much else much
        n += is_good
        sigma[k], good[k] = value, is_good
    scale = np.float32(1) / max(np.sqrt(total / max(n, np.float32(1))), np.float32(0.3))
    for k in range(len(flux)):
        value = sigma[k] * scale
        value = value if value < most else most
        sigma[k] = value if value > -most else -most


@njit(nogil=True, cache=True, error_model="numpy")
def _airglow_power(sigma, good, pattern, offset):
    """Return the significance of the pattern over that of the same shifted; `offset` is where the first pixel lies."""
    here, elsewhere = _fit_pattern(sigma, good, pattern, offset), np.float32(0)
    for shift in _SHIFTS:
        elsewhere += _fit_pattern(sigma, good, pattern, offset + shift)
    return np.sqrt(here / max(elsewhere / len(_SHIFTS), np.float32(2)))  # 2: what noise gives two amplitudes


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})
def _fit_pattern(sigma, good, pattern, offset):
    """Return by how much χ² falls when both amplitudes of the pattern are fitted."""
    b2, s2, bs, br, sr = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for k in range(len(sigma)):
        b, s = pattern[0, offset + k] * good[k], pattern[1, offset + k] * good[k]
        b2 += b * b
        s2 += s * s
        bs += b * s
        br += b * sigma[k]
        sr += s * sigma[k]
    determinant = b2 * s2 - bs * bs
    return (s2 * br * br - 2 * bs * br * sr + b2 * sr * sr) / determinant if determinant > 1e-6 else np.float32(0)
