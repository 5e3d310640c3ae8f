"""Families of injections: what is done to an ordinary quasar, at which doses, and to which redshifts it can be done.

A family from outside the package is anything with the attributes of `Family`, named ``--family module:name`` (or a
function without arguments that returns one). Its ``inject(hosts, dose, rng)`` gets `Hosts` and returns ``flux``,
``ivar`` of shape ``(n_object, n_wavelength)`` and ``redshift`` of shape ``(n_object,)``: what a survey would have
recorded. The noise in ``hosts.flux`` is the object's own and should stay as ``ivar`` says: change the smooth
``hosts.signal`` (absorb it, scale it, add to it) rather than the noisy flux.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.simulation import artefacts, injections, rare

ASTRO, ARTEFACT = "astrophysical", "artefact"


@dataclass(frozen=True)
class Hosts:
    """Ordinary quasars to inject into; arrays of shape (n_object, n_wavelength) on one observed grid.

    Attributes
    ----------
    flux, ivar : numpy.ndarray
        As observed, 1e-17 erg/s/cm2/Å and its inverse variance; 0 where masked.
    signal, continuum, lines : numpy.ndarray
        Flux smoothed to 200 km/s; the continuum, and the emission lines on it (from flux smoothed to 600 km/s).
    other : numpy.ndarray
        Signal of another ordinary quasar of the same fold, for each.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum Å.
    redshift : numpy.ndarray, shape (n_object,)
        The pipeline's.
    """

    flux: np.ndarray
    ivar: np.ndarray
    signal: np.ndarray
    continuum: np.ndarray
    lines: np.ndarray
    other: np.ndarray
    wavelength: np.ndarray
    redshift: np.ndarray

    def rows(self, rows):
        """Return some of the hosts."""
        parts = {name: value[rows] for name, value in vars(self).items() if name != "wavelength"}
        return replace(self, **parts)


@dataclass(frozen=True)
class Family:
    """One family of injections.

    Attributes
    ----------
    name : str
        Short, in snake case.
    kind : str
        ``"astrophysical"`` or ``"artefact"``.
    unit : str
        What the dose is.
    doses : tuple of float
        At least six, rising, each stranger than the one before.
    inject : callable
        ``inject(hosts, dose, rng) -> (flux, ivar, redshift)``.
    redshift_min, redshift_max : float
        Hosts it can be done to: where the feature is in the observed range.
    """

    name: str
    kind: str
    unit: str
    doses: tuple
    inject: Callable
    redshift_min: float = 0.0
    redshift_max: float = 9.0


def make_hosts(flux, ivar, wavelength, redshift, rng):
    """Prepare ordinary quasars for injection.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_object, n_wavelength)
        Observed; ``ivar == 0`` does not count.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum Å.
    redshift : numpy.ndarray, shape (n_object,)
        Redshift of each.
    rng : numpy.random.Generator
        Source of the partner that a blend takes.

    Returns
    -------
    Hosts
    """
    flux = np.where(ivar > 0, flux, 0)
    signal = injections.smooth_spectra(flux, ivar, wavelength, velocity=200.0)
    continuum, lines = injections.split_lines(injections.smooth_spectra(flux, ivar, wavelength), ivar, wavelength)
    # the partner of a blend lies at another redshift: drawn among the half that is farthest away
    far = np.argsort(np.abs(redshift[:, None] - redshift), axis=1)[:, len(redshift) // 2 :]
    other = signal[far[np.arange(len(far)), rng.integers(0, far.shape[1], len(far))]]
    return Hosts(flux, ivar, signal, continuum, lines, other, wavelength, redshift)


def bal_depth(hosts, dose, rng):
    """Absorb in C IV, Si IV, N V and Lyα from 3,000-15,000 km/s outward, over 3,000-8,000 km/s; dose = depth."""
    velocity, width = rng.uniform(3000, 15000, len(hosts.flux)), rng.uniform(3000, 8000, len(hosts.flux))
    return _signal_only(hosts, rare.inject_bal, rng, velocity=velocity, width=width, depth=dose)


def bal_width(hosts, dose, rng):
    """Absorb half of the light in a trough from 4,000 km/s outward; dose = its width, from mini-BAL to BAL."""
    return _signal_only(hosts, rare.inject_bal, rng, velocity=4000.0, width=dose, depth=0.5)


def dla(hosts, dose, rng):
    """Put a damped Lyα absorber in front, where the spectrum reaches; dose = log N(HI)."""
    lowest = np.maximum((1 + hosts.redshift) * 1040, 3850) / 1215.67
    absorber = rng.uniform(lowest, (1 + hosts.redshift) * 0.98) - 1
    return _signal_only(hosts, rare.inject_dla, rng, log_nhi=dose, redshift_dla=absorber)


def reddening(hosts, dose, rng):
    """Redden by dust of the Small Magellanic Cloud's kind; dose = E(B-V)."""
    return _signal_only(hosts, rare.inject_reddening, rng, ebv=dose)


def strong_oiii(hosts, dose, rng):
    """Multiply [O III] 4959, 5007; dose = factor."""
    return _scale_lines(hosts, dose, rng, ((4940, 5030),), narrow=True)


def strong_civ(hosts, dose, rng):
    """Multiply C IV; dose = factor."""
    return _scale_lines(hosts, dose, rng, ((1500, 1590),))


def strong_feii(hosts, dose, rng):
    """Multiply what stands above the continuum where iron does, in the UV and the optical; dose = factor."""
    return _scale_lines(hosts, dose, rng, ((2200, 2680), (4440, 4680), (5150, 5400)))


def weak_lines(hosts, dose, rng):
    """Take the emission lines away; dose = share removed."""
    flux = rare.inject_weak_lines(hosts.flux, hosts.lines, rng, factor=1 - dose)
    return flux, hosts.ivar, hosts.redshift


def double_peaks(hosts, dose, rng):
    """Add the double-peaked lines of a disc; dose = equivalent width of Hβ (Mg II: half of it)."""
    flux = rare.inject_double_peaks(
        hosts.flux, hosts.continuum, hosts.wavelength, hosts.redshift, rng, equivalent_width=dose
    )
    return flux, hosts.ivar, hosts.redshift


def blend(hosts, dose, rng):
    """Add a quasar of another redshift; dose = its median flux relative to the host's."""
    own, other = (_median(signal, hosts.ivar) for signal in (hosts.signal, hosts.other))
    added = dose * own / np.where(other > 0, other, 1) * hosts.other
    return (hosts.flux + added * (hosts.ivar > 0)).astype("float32"), hosts.ivar, hosts.redshift


def power_law(hosts, dose, rng):
    """Let a featureless power law take over; dose = its share of the light."""
    flux = injections.inject_power_law(hosts.flux, hosts.wavelength, rng, signal=hosts.signal, share=dose)
    return flux, hosts.ivar, hosts.redshift


def wrong_redshift(hosts, dose, rng):
    """Record a redshift that is off, to either side; dose = by how much, in km/s."""
    factor = 1 + dose / SPEED_OF_LIGHT
    low = (1 + hosts.redshift) / factor - 1
    sign = rng.random(len(low)) < 0.5
    return hosts.flux, hosts.ivar, np.where(sign & (low > 0.02), low, (1 + hosts.redshift) * factor - 1)


def cosmic_ray(hosts, dose, rng):
    """Hit a region with five cosmic rays; dose = height in sigma."""
    flux = artefacts.inject_cosmic_rays(hosts.flux, hosts.ivar, rng, n_hits=5, amplitude=dose)
    return flux, hosts.ivar, hosts.redshift


def sky_residual(hosts, dose, rng):
    """Leave residuals on the airglow lines; dose = height on the brightest, in sigma of its pixel."""
    unit = artefacts.inject_sky_residual(
        np.zeros_like(hosts.flux), hosts.ivar, hosts.wavelength, rng, amplitude=np.ones(len(hosts.flux))
    )
    peak = np.abs(unit * np.sqrt(hosts.ivar)).max(axis=1, keepdims=True)
    return hosts.flux + dose * unit / np.where(peak > 0, peak, 1), hosts.ivar, hosts.redshift


def observed_dip(hosts, dose, rng):
    """Leave a dip at 5,200 Å observed in all; dose = depth."""
    return _artefact(hosts, injections.inject_observed_dip, rng, depth=dose)


def arm_offset(hosts, dose, rng):
    """Multiply one arm; dose = by how much its flux is off."""
    flux = artefacts.inject_arm_step(hosts.flux, hosts.wavelength, rng, step=dose, overlap=0)
    return flux, hosts.ivar, hosts.redshift


def dichroic_step(hosts, dose, rng):
    """Leave a step at the dichroic; dose = its height relative to the flux."""
    return _artefact(hosts, injections.inject_dichroic_step, rng, step=dose)


def dead_amplifier(hosts, dose, rng):
    """Lose light over 800 Å without a flag; dose = share lost, 1 for a dead amplifier."""
    return _artefact(hosts, injections.inject_light_loss, rng, loss=dose)


FAMILIES = (
    Family("bal_depth", ASTRO, "depth", (0.1, 0.2, 0.35, 0.5, 0.7, 0.9), bal_depth, 1.75),
    Family("bal_width", ASTRO, "km/s", (500, 1000, 2000, 4000, 8000, 16000), bal_width, 1.75),
    Family("dla", ASTRO, "log N(HI)", (20.3, 20.6, 20.9, 21.2, 21.6, 22.0), dla, 2.35),
    Family("reddening", ASTRO, "E(B-V)", (0.05, 0.1, 0.2, 0.35, 0.6, 1.0), reddening),
    Family("strong_oiii", ASTRO, "×", (2, 3, 4, 6, 8, 10), strong_oiii, 0.05, 0.85),
    Family("strong_civ", ASTRO, "×", (2, 3, 4, 6, 8, 10), strong_civ, 1.6),
    Family("strong_feii", ASTRO, "×", (2, 3, 4, 6, 8, 10), strong_feii),
    Family("weak_lines", ASTRO, "share removed", (0.3, 0.5, 0.7, 0.8, 0.9, 1.0), weak_lines),
    Family("double_peaks", ASTRO, "Å", (5, 10, 20, 40, 80, 140), double_peaks, 0.1, 2.3),
    Family("blend", ASTRO, "flux ratio", (0.05, 0.1, 0.2, 0.4, 0.7, 1.2), blend),
    Family("power_law", ASTRO, "share", (0.2, 0.4, 0.6, 0.8, 0.9, 0.98), power_law),
    Family("wrong_redshift", ASTRO, "km/s", (1000, 3000, 8000, 20000, 50000, 120000), wrong_redshift, 0.1),
    Family("cosmic_ray", ARTEFACT, "σ", (5, 10, 20, 40, 80, 160), cosmic_ray),
    Family("sky_residual", ARTEFACT, "σ", (3, 6, 12, 25, 50, 100), sky_residual),
    Family("observed_dip", ARTEFACT, "depth", (0.05, 0.1, 0.2, 0.35, 0.6, 0.9), observed_dip),
    Family("arm_offset", ARTEFACT, "fraction", (0.05, 0.1, 0.2, 0.3, 0.45, 0.6), arm_offset),
    Family("dichroic_step", ARTEFACT, "fraction", (0.05, 0.1, 0.2, 0.35, 0.6, 0.9), dichroic_step),
    Family("dead_amplifier", ARTEFACT, "share lost", (0.05, 0.1, 0.2, 0.4, 0.7, 1.0), dead_amplifier),
)


def _signal_only(hosts, injector, rng, **given):
    flux = injector(hosts.flux, hosts.wavelength, hosts.redshift, rng, signal=np.maximum(hosts.signal, 0), **given)
    return flux, hosts.ivar, hosts.redshift


def _artefact(hosts, injector, rng, **given):
    return injector(hosts.flux, hosts.wavelength, rng, signal=hosts.signal, **given), hosts.ivar, hosts.redshift


def _scale_lines(hosts, factor, rng, windows, narrow=False):
    rest = hosts.wavelength / (1 + hosts.redshift[:, None])
    inside = np.any([(rest > low) & (rest < high) for low, high in windows], axis=0)
    lines = np.maximum(hosts.signal - hosts.continuum, 0) if narrow else hosts.lines
    flux = rare.inject_weak_lines(hosts.flux, lines * inside, rng, factor=factor)
    return flux, hosts.ivar, hosts.redshift


def _median(signal, ivar):
    pairs = zip(signal, ivar, strict=True)
    return np.array([np.median(np.abs(one[good > 0])) if np.any(good > 0) else 0.0 for one, good in pairs])[:, None]
