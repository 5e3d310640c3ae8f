"""Rare quasars: functions that turn ordinary spectra into odd ones, simulated or real.

Each takes whole arrays, flux of shape (n_object, n_wavelength) on one shared observed grid and the redshift of each
object, and returns new flux; what is not given is drawn, so that a benchmark can fix the dose. Fluxes may be noiseless
or observed. On observed flux an absorption also scales down the noise inside it, so pass a smooth model as `signal`:
then only that is absorbed and the noise stays as the object's own ivar says.
"""

import numpy as np
from scipy.special import expit, wofz

from astrolab.lines import SPEED_OF_LIGHT

FAMILIES = (
    "BAL_HI", "BAL_LO", "BAL_FELO", "DLA", "reddened", "weak_lined", "double_peaked", "civ_peaked", "blend",
    "changing_look", "wrong_redshift",
)  # fmt: skip

# lines that absorb in outflows: (rest vacuum wavelength in Å, optical depth relative to C IV)
_BAL_HIGH = ((1033.8, 0.9), (1215.67, 0.7), (1240.14, 0.9), (1396.76, 0.55), (1549.06, 1.0))
_BAL_LOW = (*_BAL_HIGH, (1335.3, 0.35), (1671.0, 0.4), (1857.4, 0.6), (2798.75, 0.55))
_FE_II = (
    (2344.2, 0.5),
    (2382.8, 0.8),
    (2374.5, 0.5),
    (2586.7, 0.6),
    (2600.2, 0.8),
    (2414, 0.45),
    (2622, 0.4),
    (2750, 0.45),
)
BAL_LINES = {"HI": _BAL_HIGH, "LO": _BAL_LOW, "FELO": (*_BAL_LOW, *_FE_II)}

# pairs of lines that redshift fits take for each other: (true line, what it was taken for), rest vacuum Å
LINE_CONFUSIONS = ((1549.06, 1215.67), (1908.73, 1549.06), (2798.75, 1908.73), (2798.75, 1215.67), (1215.67, 2798.75))


def inject_bal(flux, wavelength, redshift, rng, *, kind="HI", velocity=None, width=None, depth=None, signal=None):
    """Carve broad absorption troughs of an outflow into quasar spectra.

    The trough of every line spans velocities from `velocity` to `velocity + width` blueward of the line, with steep
    edges and a wavy bottom of its own in each object but alike in all its lines: the same gas absorbs in all of them.
    High-ionisation BALs absorb in O VI, Lyα, N V, Si IV and C IV; low-ionisation ones also in C II, Al II, Al III and
    Mg II; FeLoBALs also in Fe II.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame; any unit. Masked pixels are treated like others.
    wavelength : numpy.ndarray, shape (n_wavelength,)
        Observed vacuum wavelength, Å.
    redshift : numpy.ndarray, shape (n_object,)
        True redshift.
    rng : numpy.random.Generator
        Source of what is not given.
    kind : {'HI', 'LO', 'FELO'}, optional
        Which lines absorb.
    velocity, width : float or numpy.ndarray, optional
        Onset and extent of the trough in km/s; drawn from 2,000-12,000 and 3,000-12,000 (FELO: narrower).
    depth : float or numpy.ndarray, optional
        Fraction of the light that C IV removes where the trough is deepest, 0 to 1; drawn from 0.5-0.97.
    signal : numpy.ndarray, optional
        What is absorbed, such as a smooth model of `flux`; default `flux` itself.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    Raises
    ------
    ValueError
        If `kind` is unknown.

    References
    ----------
    Weymann et al. (1991), ApJ 373, 23; Trump et al. (2006), ApJS 165, 1 (velocities, kinds and their frequency).
    """
    if kind not in BAL_LINES:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(map(repr, BAL_LINES))}: kind='HI'.")
    n = len(flux)
    velocity = _column(velocity, n, rng.uniform(2000, 12000, n))
    width = _column(width, n, rng.uniform(3000, 12000, n) if kind != "FELO" else rng.uniform(2000, 5000, n))
    depth = _column(depth, n, rng.uniform(0.5, 0.97, n))
    phase, waves = rng.uniform(0, 2 * np.pi, (n, 1, 3)), rng.uniform(0.5, 3.5, (n, 1, 3))
    peak = -np.log1p(-np.clip(depth, 0, 0.999))
    optical_depth = np.zeros(flux.shape, "float64")
    for line, relative in BAL_LINES[kind]:
        columns = _columns_between(wavelength, redshift, velocity + 1.2 * width, line)
        ratio = wavelength[columns] / (line * (1 + redshift[:, None]))
        outflow = -SPEED_OF_LIGHT * (ratio**2 - 1) / (ratio**2 + 1)
        place = (outflow - velocity) / width
        edges = expit(place / 0.04) * expit((1 - place) / 0.06)
        ripple = np.sin(2 * np.pi * waves * np.clip(place, -1, 2)[..., None] + phase).mean(axis=2)
        optical_depth[:, columns] += relative * peak * edges * (0.75 + 0.25 * ripple)
    return _absorb(flux, optical_depth, signal)


def inject_dla(flux, wavelength, redshift, rng, *, log_nhi=None, redshift_dla=None, signal=None):
    """Put a damped Lyα absorber in front of quasars.

    A Voigt profile of Lyα (Doppler parameter 30 km/s), Lyβ, and the low-ionisation metal lines that come with it.

    Parameters
    ----------
    flux, wavelength, redshift, rng, signal
        As for `inject_bal`.
    log_nhi : float or numpy.ndarray, optional
        log10 of the column density of neutral hydrogen in cm-2; drawn from 20.5-21.8.
    redshift_dla : float or numpy.ndarray, optional
        Redshift of the absorber; drawn between Lyβ and Lyα of the quasar where the grid reaches.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    Raises
    ------
    ValueError
        If `redshift_dla` is not given and the Lyα forest of a quasar lies outside the grid.

    References
    ----------
    Wolfe, Gawiser & Prochaska (2005), ARA&A 43, 861; Noterdaeme et al. (2012), A&A 547, L1.
    """
    n = len(flux)
    log_nhi = _column(log_nhi, n, rng.uniform(20.5, 21.8, n))
    lowest = np.maximum((1 + redshift) * 1040 / 1215.67, (wavelength[0] + 60) / 1215.67)
    highest = (1 + redshift) * 0.985
    if redshift_dla is None and np.any(highest < lowest):
        least = (wavelength[0] + 60) / 1215.67 / 0.985 - 1
        raise ValueError(
            f"the lowest redshift is {redshift.min():.2f}, expected at least {least:.2f} for Lyα to be in range; "
            "leave those quasars out."
        )
    highest = np.maximum(highest, lowest)
    absorber = _column(redshift_dla, n, rng.uniform(lowest, highest) - 1)
    optical_depth = np.zeros(flux.shape, "float64")
    for line, strength, damping in ((1215.67, 0.4164, 6.265e8), (1025.72, 0.0791, 1.897e8)):
        optical_depth += _voigt_depth(wavelength, absorber, log_nhi, line, strength, damping)
    for line, equivalent in _DLA_METALS:
        centre = line * (1 + absorber)
        x = (wavelength - centre) / np.hypot(centre * 4e-4, 0.75)
        optical_depth += equivalent * 10 ** (0.3 * (log_nhi - 20.3)) * np.exp(-0.5 * np.clip(x, -9, 9) ** 2)
    return _absorb(flux, optical_depth, signal)


# metals of a damped absorber: (rest vacuum wavelength in Å, optical depth at log N(HI) = 20.3)
_DLA_METALS = (
    (1260.42, 0.7), (1302.17, 0.6), (1334.53, 0.6), (1526.71, 0.4), (1670.79, 0.5), (2344.21, 0.3), (2382.76, 0.4),
    (2586.65, 0.3), (2600.17, 0.4), (2796.35, 0.7), (2803.53, 0.6),
)  # fmt: skip


def inject_reddening(flux, wavelength, redshift, rng, *, ebv=None, signal=None):
    """Redden quasars by dust like the Small Magellanic Cloud's in their own frame.

    Parameters
    ----------
    flux, wavelength, redshift, rng, signal
        As for `inject_bal`.
    ebv : float or numpy.ndarray, optional
        E(B-V) in mag; drawn from 0.25-0.9.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`; fainter everywhere, more so in the blue.

    References
    ----------
    Prevot et al. (1984), A&A 132, 389; Glikman et al. (2012), ApJ 757, 51 (red quasars).
    """
    n = len(flux)
    ebv = _column(ebv, n, rng.uniform(0.25, 0.9, n))
    micron = wavelength / (1 + redshift[:, None]) / 1e4
    return _absorb(flux, 0.4 * np.log(10) * 1.39 * ebv * micron**-1.2, signal)


def inject_weak_lines(flux, lines, rng, *, factor=None):
    """Weaken the emission lines: weak-line quasars, or with a factor above 1 strong-lined ones.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame.
    lines : numpy.ndarray, shape (n_object, n_wavelength)
        The emission lines alone, in the unit of `flux` (a smooth model minus its continuum).
    rng : numpy.random.Generator
        Source of what is not given.
    factor : float or numpy.ndarray, optional
        What the lines are multiplied with; drawn from 0.03-0.2.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Diamond-Stanic et al. (2009), ApJ 699, 782 (Lyα and N V below 15 Å).
    """
    factor = _column(factor, len(flux), rng.uniform(0.03, 0.2, len(flux)))
    return (flux - (1 - factor) * lines).astype(flux.dtype)


def inject_double_peaks(flux, continuum, wavelength, redshift, rng, *, equivalent_width=None, separation=None):
    """Add the double-peaked lines of a rotating disc: Hα, Hβ, Hγ and Mg II.

    Two Gaussian peaks and a flat bridge; the blue peak is the brighter one, as Doppler boosting makes it.

    Parameters
    ----------
    flux, wavelength, redshift, rng
        As for `inject_bal`.
    continuum : numpy.ndarray, shape (n_object, n_wavelength)
        Continuum in the unit of `flux`, to which equivalent widths refer.
    equivalent_width : float or numpy.ndarray, optional
        Rest equivalent width of Hβ in Å; drawn from 60-140. Hα has 4.5, Hγ 0.4 and Mg II 0.5 times as much.
    separation : float or numpy.ndarray, optional
        Velocity between the peaks in km/s; drawn from 6,000-12,000.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Eracleous & Halpern (1994), ApJS 90, 1; Strateva et al. (2003), AJ 126, 1720.
    """
    n = len(flux)
    strength = _column(equivalent_width, n, rng.uniform(60, 140, n))
    separation = _column(separation, n, rng.uniform(6000, 12000, n))
    boost = rng.uniform(1.05, 1.5, (n, 1))
    added = np.zeros(flux.shape, "float64")
    for line, relative in ((2798.75, 0.5), (4341.68, 0.4), (4862.68, 1.0), (6564.61, 4.5)):
        velocity = _velocity(wavelength, redshift, line)
        for place, weight in ((-0.5, 0.42 * boost), (0.5, 0.42), (0.0, 0.35)):
            sigma = separation * (0.16 if place else 0.3)
            profile = _gaussian(velocity, place * separation, sigma, line)
            added += relative * strength * weight / (0.77 + 0.42 * boost) * profile
    return (flux + continuum * added).astype(flux.dtype)


def inject_civ_peak(flux, continuum, wavelength, redshift, rng, *, equivalent_width=None, fwhm=None):
    """Add a strong, narrow C IV line and its companions: a "C IV peaker".

    Parameters
    ----------
    flux, wavelength, redshift, rng
        As for `inject_bal`.
    continuum : numpy.ndarray, shape (n_object, n_wavelength)
        Continuum in the unit of `flux`, to which equivalent widths refer.
    equivalent_width : float or numpy.ndarray, optional
        Rest equivalent width added to C IV in Å; drawn from 60-160. Lyα gets 1.2, N V 0.08, He II 0.12, C III] 0.15
        times that.
    fwhm : float or numpy.ndarray, optional
        Width in km/s; drawn from 900-2,200.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    Tiwari & Vivek (2024), arXiv:2411.16858 (the C IV peakers among anomalous quasars of SDSS DR16).
    """
    n = len(flux)
    strength = _column(equivalent_width, n, rng.uniform(60, 160, n))
    sigma = _column(fwhm, n, rng.uniform(900, 2200, n)) / 2.3548
    added = np.zeros(flux.shape, "float64")
    for line, relative in ((1215.67, 1.2), (1240.14, 0.08), (1549.06, 1.0), (1640.42, 0.12), (1908.73, 0.15)):
        added += relative * strength * _gaussian(_velocity(wavelength, redshift, line), 0.0, sigma, line)
    return (flux + continuum * added).astype(flux.dtype)


def inject_changing_look(flux, continuum, lines, rng, *, fade=None):
    """Turn quasars off: the blue continuum fades, and the broad lines fade further; host and narrow lines stay.

    One epoch of it: the spectrum of an object between a quasar and a galaxy.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density, observed frame.
    continuum, lines : numpy.ndarray, shape (n_object, n_wavelength)
        The quasar's own continuum, and its broad lines, in the unit of `flux`.
    rng : numpy.random.Generator
        Source of what is not given.
    fade : float or numpy.ndarray, optional
        What the continuum is multiplied with; drawn from 0.05-0.25. The broad lines keep a quarter of that.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.

    References
    ----------
    MacLeod et al. (2016), MNRAS 457, 389; Guo et al. (2024), ApJS 270, 26 (changing looks in DESI).
    """
    fade = _column(fade, len(flux), rng.uniform(0.05, 0.25, len(flux)))
    return (flux - (1 - fade) * continuum - (1 - 0.25 * fade) * lines).astype(flux.dtype)


def inject_blend(flux, flux_other, rng, *, ratio=None):
    """Add a second object that fell into the same fibre.

    Parameters
    ----------
    flux, flux_other : numpy.ndarray, shape (n_object, n_wavelength)
        Flux density of both objects, observed frame.
    rng : numpy.random.Generator
        Source of what is not given.
    ratio : float or numpy.ndarray, optional
        Median flux of the other relative to this one; drawn from 0.4-1.2.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength)
        New flux, dtype of `flux`.
    """
    ratio = _column(ratio, len(flux), rng.uniform(0.4, 1.2, len(flux)))
    own = np.median(np.abs(flux), axis=1, keepdims=True)
    other = np.median(np.abs(flux_other), axis=1, keepdims=True)
    return (flux + ratio * own / np.where(other > 0, other, 1) * flux_other).astype(flux.dtype)


def draw_wrong_redshift(redshift, rng):
    """Return a redshift that a pipeline might have recorded by taking one line for another.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        True redshift.
    rng : numpy.random.Generator
        Source of the choice among `LINE_CONFUSIONS`.

    Returns
    -------
    numpy.ndarray, shape (n_object,)
        Between 0.05 and 5.5, and more than 3,000 km/s from the truth.
    """
    true_line, taken_for = np.transpose(LINE_CONFUSIONS)
    wrong = (1 + redshift[:, None]) * true_line / taken_for - 1
    is_possible = (wrong > 0.05) & (wrong < 5.5)
    score = np.where(is_possible, rng.random(wrong.shape), -1)
    return wrong[np.arange(len(redshift)), score.argmax(axis=1)]


def _column(value, n_object, drawn):
    value = drawn if value is None else value
    return np.broadcast_to(np.asarray(value, float), n_object)[:, None]


def _absorb(flux, optical_depth, signal):
    signal = flux if signal is None else signal
    return (flux - -np.expm1(-optical_depth) * signal).astype(flux.dtype)


def _velocity(wavelength, redshift, line):
    """Velocity in km/s of every pixel about a line of every object; negative is blueward."""
    return SPEED_OF_LIGHT * (wavelength / (line * (1 + redshift[:, None])) - 1)


def _gaussian(velocity, centre, sigma, line):
    """Gaussian of unit area over rest wavelength in Å."""
    peak = SPEED_OF_LIGHT / (np.sqrt(2 * np.pi) * sigma * line)
    return peak * np.exp(-0.5 * np.clip((velocity - centre) / sigma, -30, 30) ** 2)


def _columns_between(wavelength, redshift, reach, line):
    """Slice of the grid that a trough reaching `reach` km/s blueward of a line covers in any of the objects."""
    low = (line * (1 + redshift) * (1 - 1.1 * reach[:, 0] / SPEED_OF_LIGHT)).min(initial=np.inf)
    high = (line * (1 + redshift) * 1.01).max(initial=0)
    return slice(*np.searchsorted(wavelength, (low, high)))


def _voigt_depth(wavelength, absorber, log_nhi, line, strength, damping):
    centre, doppler = line * (1 + absorber), 30.0  # Å, km/s
    width = centre * doppler / SPEED_OF_LIGHT
    a = damping * line * 1e-8 / (4 * np.pi * doppler * 1e5)
    peak = 1.497e-2 * strength * line * 1e-8 / (doppler * 1e5) * 10**log_nhi
    return peak * wofz((wavelength - centre) / width + 1j * a).real
