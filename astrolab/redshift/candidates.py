"""From the coarse scan to refined minima: which places of which template sets may win, and what each is worth."""

import numpy as np
import torch

from astrolab.devices import choose_device
from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.refine import CHI2, IS_MINIMUM, MEAN_MODEL, REDSHIFT, REDSHIFT_ERR, refine_minima
from astrolab.redshift.scan import BATCH, best_minima, bin_spectra, scan_batch
from astrolab.redshift.second_opinion import seeded_minima

# columns of a hypothesis, and its flags
HYPOTHESIS = ("set", "redshift", "redshift_err", "chi2", "flags", "score")
AT_EDGE, IS_NEGATIVE, NO_MINIMUM, FROM_NETWORK, WITHOUT_TROUGHS = 1, 2, 4, 8, 16
# hypotheses of one class nearer than this are one
SAME_VELOCITY = 1000.0  # km/s
_N_MINIMA = 3  # of each set in the coarse scan
_N_REFINED = 5  # best of all sets that are refined, beside the best of each class
_NEAR = 300.0  # of χ²: the coarse scan, half a step off narrow lines, may err by as much
# the same after the first parabola, or a part of what features explain; the network moves no hypothesis by more than
# 74, but those of broad absorption, which are refitted
_CLOSE, _CLOSE_PART = 150.0, 0.05


def velocity_between(redshift, other):
    """Return the velocity between two redshifts, km/s, without sign."""
    return SPEED_OF_LIGHT * np.abs(redshift - other) / (1 + np.minimum(redshift, other))


def coarse_candidates(flux, weight, wavelength, templates, plans, device, seeds):
    """Redshift of each minimum to refine (NaN for the others), and whether it may win: (n_set, n_place, n_object).

    The last place is the one near the network's redshift.
    """
    padded = [np.zeros((BATCH, flux.shape[1]), "float32") for _ in range(2)]
    padded[0][: len(flux)], padded[1][: len(flux)] = flux, weight
    binned = [one.to(choose_device(device)) for one in bin_spectra(*padded, wavelength)]
    redshift = np.full((len(templates), _N_MINIMA + 1, len(flux)), np.nan)
    gain = np.full(redshift.shape, -np.inf)
    with torch.inference_mode():
        for i, plan in enumerate(plans):
            n_minima = 1 if len(plan.redshift) < 100 else _N_MINIMA
            scanned = scan_batch(*binned, plan)
            places, gains = best_minima(scanned, plan, n_minima)
            redshift[i, :n_minima], gain[i, :n_minima] = places[: len(flux)].T, gains[: len(flux)].T
            seed = seeds.get(templates[i].spectype)
            if seed is not None and np.isfinite(seed).any():
                scanned = scanned[: len(flux)].cpu().numpy()
                redshift[i, -1], gain[i, -1] = seeded_minima(scanned, plan.redshift, seed)
    is_smooth = np.array([not one.spectype for one in templates])
    near = gain > gain[~is_smooth].max(axis=(0, 1), initial=-np.inf) - _NEAR
    chosen = _is_chosen(gain[:, :-1], templates)
    chosen = np.concatenate([chosen, _is_new_seed(redshift, gain, chosen, templates)[:, None]], axis=1)
    near[:, -1] = True
    return np.where(chosen, redshift, np.nan), near


def _is_new_seed(redshift, gain, chosen, templates):
    """Choose the best set at the network's redshift, unless its class is refined there anyway: (n_set, n_object)."""
    new = np.zeros(gain[:, -1].shape, bool)
    classes = np.array([one.spectype for one in templates])
    for spectype in ("QSO", "GALAXY"):
        rows = np.flatnonzero(classes == spectype)
        if not rows.size:
            continue
        best = rows[np.argmax(gain[rows, -1], axis=0)]
        every = np.arange(new.shape[1])
        seed = redshift[best, -1, every]
        there = np.where(chosen[rows], redshift[rows, :-1], np.inf)
        is_known = (velocity_between(there, seed) < SAME_VELOCITY).any(axis=(0, 1))
        new[best, every] = np.isfinite(seed) & ~is_known
    return new


def _is_chosen(gain, templates):
    """Choose the best of all, and the best of each class."""
    flat = gain.reshape(-1, gain.shape[2])
    last = np.sort(flat, axis=0)[-min(_N_REFINED, len(flat))]
    chosen = gain >= last
    classes = np.array([one.spectype for one in templates])
    for spectype in np.unique(classes):
        own = gain[classes == spectype]
        chosen[classes == spectype] |= own >= own.max(axis=(0, 1))
    return chosen & np.isfinite(gain)


def refined_minima(flux, weight, wavelength, templates, plans, candidates, near):
    """Every refined minimum: shape (n_object, n_set * n_place, 6), as in `HYPOTHESIS`, without the score.

    Minima that may win are approached by one parabola, and those that still may after that are refined to the end; of
    the others only χ² is taken, and those that it brings back get their parabola.
    """
    log_wavelength = np.log10(wavelength)
    limits = [(plan.redshift[-1], plan.redshift[0]) for plan in plans]
    start = np.where((weight > 0).any(axis=1), candidates, np.nan)  # (n_set, n_place, n_object)
    fits = np.full((*start.shape, 5), np.nan)
    for i, k in np.ndindex(*start.shape[:2]):
        rows = np.flatnonzero(np.isfinite(start[i, k]))
        own = flux[rows], weight[rows], log_wavelength, templates[i], start[i, k, rows], limits[i]
        fits[i, k, rows] = refine_minima(*own, n_turns=near[i, k, rows].astype("int64"))
    is_close = _is_close(fits[..., CHI2], near, templates)
    for i, k in np.ndindex(*start.shape[:2]):
        if limits[i][0] == limits[i][1]:
            continue
        for is_begun in (True, False):
            rows = np.flatnonzero(is_close[i, k] & (near[i, k] == is_begun))
            own = flux[rows], weight[rows], log_wavelength, templates[i], start[i, k, rows], limits[i]
            more = {"approached": fits[i, k, rows]} if is_begun else {"n_turns": 1}
            fits[i, k, rows] = refine_minima(*own, **more)
    out = np.full((len(flux), start[..., 0].size, len(HYPOTHESIS)), np.nan)
    for i, k in np.ndindex(*start.shape[:2]):
        out[:, i * start.shape[1] + k] = _columns(i, fits[i, k], limits[i], FROM_NETWORK * (k == _N_MINIMA))
    return out


def _is_close(chi2, near, templates):
    """Choose what may still win after the first parabola: (n_set, n_place, n_object), as `chi2`; NaN never."""
    is_smooth = np.array([not one.spectype for one in templates])
    lowest = np.fmin.reduce(np.where(near, chi2, np.nan)[~is_smooth], axis=(0, 1), initial=np.nan)
    features = np.nan_to_num(np.fmin.reduce(chi2[is_smooth], axis=(0, 1), initial=np.nan) - lowest)
    return chi2 < lowest + np.maximum(_CLOSE, _CLOSE_PART * features)


def _columns(number, fit, limits, flags):
    """Hypotheses of one set, (n_object, 6), of what `refine_minima` gave."""
    redshift = fit[:, REDSHIFT]
    margin = 1e-5 * (1 + redshift)
    at_edge = (redshift < limits[0] + margin) | (redshift > limits[1] - margin)
    flags = flags + AT_EDGE * (at_edge & (limits[0] < limits[1]))
    flags = flags + IS_NEGATIVE * (fit[:, MEAN_MODEL] <= 0) + NO_MINIMUM * (fit[:, IS_MINIMUM] == 0)
    nothing = np.full(len(fit), np.nan)
    own = [np.full(len(fit), number), redshift, fit[:, REDSHIFT_ERR], fit[:, CHI2], flags, nothing]
    return np.where(np.isfinite(redshift)[:, None], np.stack(own, axis=1), np.nan)
