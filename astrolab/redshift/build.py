"""Make AstroLab's own template sets: ``python -m astrolab.redshift.build [FOLDER]``.

The sets that are scanned come from the simulator's noiseless spectra alone, so that every real spectrum is new to them.
Where a folder of labelled SDSS spectra is given (``sdss/truth.csv`` and the files it names), the quasars in it make the
two sets that settle redshifts (`astrolab.redshift.settle`): there lines lie where they lie in catalogues, and not where
a simulator puts them. The principal vectors are those of an expectation-maximisation that knows which pixels were
measured and how well (Bailey 2012, PASP 124, 1015); the prior on their amplitudes is the scatter of the training set.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.polynomial import Legendre
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.readers import sdss
from astrolab.redshift.templates import _OWN, _QUASARS, STAR_SIGMA, TemplateSet, save_templates
from astrolab.simulation.forest import forest_transmission
from astrolab.simulation.galaxies import galaxy_flux
from astrolab.simulation.grid import WAVELENGTH
from astrolab.simulation.quasars import quasar_components, quasar_parameters, smc_dust
from astrolab.simulation.stars import STAR_CLASSES, TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, star_templates
from astrolab.simulation.stellar_kinds import STELLAR_KINDS, draw_stars

_BLOCK = 256
_N_ITERATIONS = 12
_SYSTEMATIC = 0.05  # of the flux: no training spectrum counts for more than S/N 20 a pixel
_QUASAR_STEP = 2e-4
_SETTLED_SMOOTH = 300.0  # km/s: without it χ² has ripples, of the noise of real spectra and of single narrow lines
_STAR_LIMIT = 0.005
_STAR_STEP = 2e-4
_GIANTS = 0.5
_COOL = ("sdM", "L", "C", "WD+M")  # molecules cover their continua, and nobody knows those well
_BROAD = ("DA", "DB", "DC", "DQ", "DZ", "CV")
_TILTS_COOL = {False: (1, 2), True: (1, 2, 3, 4)}
_FREE = np.inf
_WIDER = 2.0  # nature scatters more than the simulator: priors of quasars and galaxies are this much wider
# broad absorption: (rest wavelength in Å, depth relative to C IV), at velocities in km/s
_TROUGH_LINES = ((1549.06, 1.0), (1396.76, 0.7), (1240.14, 0.7), (1857.4, 0.15), (1033.8, 0.5))
_TROUGH_VELOCITIES, _TROUGH_SIGMA, _TROUGH_PRIOR = (-4000, -9000, -14000, -20000), 2500.0, 0.8


def build_templates(*, n_objects=1300, seed=1):
    """Build template sets of quasars, galaxies and stars, and one of smooth spectra.

    Parameters
    ----------
    n_objects : int, optional
        Quasars to simulate beyond redshift 0.7; the other classes are in proportion.
    seed : int, optional
        Seed of the simulation.

    Returns
    -------
    list of TemplateSet
        QSO (LOZ, MIDZ, HIZ, BAL), GALAXY, STAR (classes of the main sequence from A to M, and kinds of
        `astrolab.simulation.stellar_kinds`), and the smooth set, whose class is empty.

    Examples
    --------
    >>> import astrolab as al
    >>> sorted({one.spectype for one in al.build_templates(n_objects=20, seed=1)})
    ['', 'GALAXY', 'QSO', 'STAR']
    """
    rng = np.random.default_rng(seed)
    near = _log_uniform(0.02, 1.4, n_objects // 3, rng)
    far = np.sort(_log_uniform(0.7, 6.2, n_objects, rng))
    flux_far = _quasars(far, rng)
    # ranges of redshift overlap, so that no quasar is at the edge of the only set that fits it
    middle = _quasar_set("MIDZ", flux_far[far < 3.8], far[far < 3.8], (720, 6000), (0.8, 3.4), 2)
    sets = [
        _quasar_set("LOZ", _quasars(near, rng), near, (1420, 10800), (0.0, 1.4), 1),
        middle,
        _quasar_set("HIZ", flux_far[far > 2.5], far[far > 2.5], (470, 2700), (3.0, 6.2), 2),
        _with_troughs(middle),
        _galaxy_set(_log_uniform(0.0, 1.75, int(0.4 * n_objects), rng), rng),
        *_star_classes(),
        *_star_kinds(max(20, 12 * n_objects // 130), rng),
    ]
    return [*sets, _smooth_set()]


def build_quasar_templates(flux, ivar, redshift, *, n_objects=1300, seed=1):
    """Build the sets that settle redshifts of quasars, from real spectra and simulated ones.

    Parameters
    ----------
    flux, ivar : numpy.ndarray, shape (n_quasar, 4851)
        Real quasars, on the grid of `read_sdss`.
    redshift : numpy.ndarray, shape (n_quasar,)
        Theirs, of a catalogue.
    n_objects, seed : int, optional
        As for `build_templates`.

    Returns
    -------
    list of TemplateSet
        QSO (LOZ, MIDZ).

    Examples
    --------
    >>> import astrolab as al, numpy as np
    >>> noise = np.random.default_rng(0).normal(5, 1, (40, 4851)).astype("float32")
    >>> sets = al.build_quasar_templates(noise, np.ones_like(noise), np.linspace(0.3, 3, 40), n_objects=20)
    >>> {one.spectype for one in sets}
    {'QSO'}
    """
    rng = np.random.default_rng(seed)
    near = _log_uniform(0.02, 1.4, n_objects // 3, rng)
    far = _log_uniform(0.7, 3.8, n_objects // 2, rng)
    rows = redshift < 1.5, (redshift > 0.8) & (redshift < 3.9)
    real = [(flux[own], ivar[own], redshift[own]) for own in rows]
    return [
        _settled_set("LOZ", near, real[0], (1420, 10800), (0.0, 1.4), 1, rng),
        _settled_set("MIDZ", far, real[1], (720, 6000), (0.8, 3.4), 2, rng),
    ]


def fit_vectors(flux, weight, n_vector, share=None, seed=0):
    """Find the vectors that best describe spectra, by expectation-maximisation.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_object, n_rest), float32
        Spectra on one rest grid, of like amplitude; pixels with weight 0 count for nothing.
    n_vector : int
        Number of vectors.
    share : numpy.ndarray, shape (n_object,), optional
        How much each object counts.
    seed : int, optional
        Seed of the start.

    Returns
    -------
    numpy.ndarray, shape (n_vector, n_rest), float64
        The mean of the objects, and the vectors along which they scatter, each with the scatter's own length.
    """
    share = np.ones(len(flux)) if share is None else share
    weight = weight * share[:, None].astype("float32")
    mean = (weight * flux).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12)
    start = np.random.default_rng(seed).normal(size=(n_vector - 1, flux.shape[1])) * np.abs(mean)
    vectors = np.concatenate([mean[None], start]).astype("float64")
    for _ in range(_N_ITERATIONS):
        amplitude = _solve_rows(weight, flux, vectors, 1e-3)
        vectors = _solve_rows(weight.T, flux.T, amplitude.T, 1e-4).T
        vectors /= np.sqrt(np.mean(vectors**2, axis=1, keepdims=True))
    return _whitened(vectors, _solve_rows(weight, flux, vectors, 1e-3), share)


def _solve_rows(weight, flux, vectors, ridge):
    """Weighted least-squares amplitudes of `vectors` (n_vector, n) in every row of `flux` (m, n): (m, n_vector)."""
    n_vector = len(vectors)
    pairs = np.einsum("ip,jp->pij", vectors, vectors).reshape(-1, n_vector**2).astype("float32")
    normal = (weight @ pairs).reshape(-1, n_vector, n_vector).astype("float64")
    right = ((weight * flux) @ vectors.T.astype("float32")).astype("float64")
    mean_diagonal = np.trace(normal, axis1=1, axis2=2)[:, None, None] / n_vector
    normal += np.eye(n_vector) * (ridge * mean_diagonal + 1e-9)
    return np.linalg.solve(normal, right[..., None])[..., 0]


def _whitened(vectors, amplitude, share):
    scale = np.median(np.abs(amplitude @ vectors), axis=1)
    usable = scale > 1e-3 * np.median(scale)
    relative = amplitude / np.where(usable, scale, 1)[:, None]
    off = np.abs(relative - np.median(relative[usable], axis=0))
    # one bad training spectrum must not set the prior
    usable &= (off < 8 * 1.48 * np.median(off[usable], axis=0) + 1e-9).all(axis=1)
    mean = np.average(relative[usable], axis=0, weights=share[usable])
    variance, axes = np.linalg.eigh(np.cov(relative[usable].T, aweights=share[usable]))
    largest = np.argsort(-variance)[: len(vectors) - 1]
    whitened = np.concatenate([[mean @ vectors], (axes[:, largest] * np.sqrt(variance[largest])).T @ vectors])
    return whitened / np.median(np.abs(whitened[0]))


def _quasars(redshift, rng):
    parts = []
    for start in range(0, len(redshift), _BLOCK):
        own = redshift[start : start + _BLOCK]
        parameters = quasar_parameters(own, rng.uniform(17, 22, len(own)), rng)
        light = quasar_components(parameters)
        agn = (light.continuum + light.broad + light.narrow) * smc_dust(light.log_wavelength, parameters.ebv)
        parts.append(agn * forest_transmission(own, rng) + light.host)
    return np.concatenate(parts)


def _quasar_set(subtype, flux, redshift, limits, redshifts, stride):
    return _learned("QSO", subtype, flux, redshift, limits, redshifts, stride, _QUASAR_STEP)


def _settled_set(subtype, redshift, real, limits, redshifts, stride, rng):
    grid = _log_grid(*limits, _QUASAR_STEP)
    simulated = _quasars(redshift, rng)
    made = _training(np.log10(WAVELENGTH), simulated, np.full(simulated.shape, 1e6, "f4"), redshift, grid)
    vectors = fit_vectors(*_together(_training(np.log10(sdss.WAVELENGTH), *real, grid), made, 0.8), seed=0)
    width = _SETTLED_SMOOTH / SPEED_OF_LIGHT / np.log(10) / _QUASAR_STEP
    vectors = gaussian_filter1d(vectors, width, axis=1, mode="nearest")
    prior = np.array([_FREE, *np.full(len(vectors) - 1, _WIDER)])
    return TemplateSet("QSO", subtype, vectors, prior, grid[0], _QUASAR_STEP, *redshifts, stride)


def _together(real, made, share, n_vector=6):
    """Real spectra and simulated ones, of which the real ones weigh `share`: arguments of `fit_vectors`."""
    weight = share / (1 - share) * len(made[0]) / len(real[0])
    shares = np.concatenate([np.full(len(real[0]), weight), np.ones(len(made[0]))])
    return *(np.concatenate(pair) for pair in zip(real, made, strict=True)), n_vector, shares


def _galaxy_set(redshift, rng):
    parts = []
    for start in range(0, len(redshift), _BLOCK):
        own = redshift[start : start + _BLOCK]
        log_rest = (np.log(WAVELENGTH) - np.log1p(own)[:, None]).astype("float32")
        parts.append(galaxy_flux(own, rng) * smc_dust(log_rest, rng.exponential(0.1, len(own))))
    learned = _learned("GALAXY", "", np.concatenate(parts), redshift, (1270, 10800), (-0.003, 1.75), 1, 1e-4)
    return _with_giants(learned, rng)


def _with_giants(galaxy, rng):
    """Add the light of red giants, whose bands of TiO old galaxies show: more or less of it than the simulator has."""
    wavelength = 10**galaxy.log_wavelength
    is_red = wavelength > 5000
    giants = np.zeros(len(wavelength))
    shown = wavelength > 3000
    giants[shown] = draw_stars("M", wavelength[shown], 40, rng).mean(axis=0)
    giants *= np.median(galaxy.vectors[0][is_red]) / np.median(giants[is_red])
    vectors, prior = np.concatenate([galaxy.vectors, giants[None]]), np.append(galaxy.prior_err, _GIANTS)
    return replace(galaxy, vectors=vectors, prior_err=prior)


def _learned(spectype, subtype, flux, redshift, limits, redshifts, stride, step):
    grid = _log_grid(*limits, step)
    vectors = fit_vectors(*_training(np.log10(WAVELENGTH), flux, np.full(flux.shape, 1e6, "f4"), redshift, grid), 6)
    prior = np.array([_FREE, *np.full(5, _WIDER)])
    return TemplateSet(spectype, subtype, vectors, prior, grid[0], step, *redshifts, stride)


def _with_troughs(middle):
    """Quasars whose C IV and like lines are absorbed at velocities up to 25,000 km/s: four depths beside the mean."""
    wavelength = 10**middle.log_wavelength
    troughs = np.zeros((len(_TROUGH_VELOCITIES), len(wavelength)))
    for trough, velocity in zip(troughs, _TROUGH_VELOCITIES, strict=True):
        for line, depth in _TROUGH_LINES:
            own = (wavelength / line - 1) * SPEED_OF_LIGHT
            trough -= depth * np.exp(-0.5 * ((own - velocity) / _TROUGH_SIGMA) ** 2)
    vectors = np.concatenate([middle.vectors[:4], troughs * middle.vectors[0]])
    prior = np.concatenate([middle.prior_err[:4], np.full(len(troughs), _TROUGH_PRIOR)])
    return TemplateSet("QSO", "BAL", vectors, prior, middle.log_first, middle.log_step, 1.3, 3.4, 2)


def _star_classes():
    """One set for each class of the main sequence: its spectrum, its neighbours, and a smooth error of calibration."""
    grid = _log_grid(3390, 10750, _STAR_STEP)
    own = np.log10(np.e) * (TEMPLATE_LOG_FIRST + TEMPLATE_LOG_STEP * np.arange(star_templates().shape[1]))
    spectra = [np.interp(grid, own, spectrum) for spectrum in star_templates()]
    spectra = [spectrum / np.median(spectrum) for spectrum in spectra]
    place = np.linspace(-1, 1, len(grid))
    sets = []
    for i, name in enumerate(STAR_CLASSES[1:], 1):  # of white dwarfs there are better ones
        tilts = [spectra[i] * Legendre.basis(degree)(place) for degree in (1, 2, 3)]
        near = [spectra[j] - spectra[i] for j in (i - 1, i + 1) if 0 < j < len(spectra)]
        vectors = np.stack([spectra[i], *tilts, *near])
        prior = np.array([_FREE, 1.0, *np.full(len(vectors) - 2, 0.5)])
        sets.append(_star_set(name, vectors, prior, grid))
    return sets


def _star_kinds(n_drawn, rng):
    """One set for each other kind of star: mean, scatter, and a smooth error of continuum and calibration."""
    sets = []
    for kind in (kind for kind in STELLAR_KINDS if kind != "M"):
        stride = 1 + (kind in _BROAD)
        grid = _log_grid(3390, 10750, stride * _STAR_STEP)
        flux = draw_stars(kind, 10**grid, n_drawn, rng).astype("float32")
        vectors = fit_vectors(flux, 1 / (_SYSTEMATIC * np.maximum(flux, 0.05)) ** 2, 4)
        place = np.linspace(-1, 1, len(grid))
        tilts = [vectors[0] * Legendre.basis(degree)(place) for degree in _TILTS_COOL[kind in _COOL]]
        prior = np.array([_FREE, *np.full(3, 1.5), *np.full(len(tilts), 0.5)])
        sets.append(_star_set(kind, np.concatenate([vectors, tilts]), prior, grid, stride))
    return sets


def _star_set(subtype, vectors, prior, grid, stride=1):
    step = grid[1] - grid[0]
    return TemplateSet("STAR", subtype, vectors, prior, grid[0], step, -_STAR_LIMIT, _STAR_LIMIT, stride, STAR_SIGMA)


def _smooth_set():
    """Make the set without features, at one place: what an object must beat to have a redshift."""
    grid = _log_grid(3400, 10800, 1e-3)
    place = np.linspace(-1, 1, len(grid))
    vectors = np.stack([Legendre.basis(degree)(place) for degree in range(5)])
    return TemplateSet("", "smooth", vectors, np.array([_FREE, 1.0, 1.0, 1.0, 1.0]), grid[0], 1e-3, 0.0, 0.0)


def _training(log_own, flux, ivar, redshift, grid):
    """Bring spectra to the rest grid, of median 1, with weights that know noise, gaps and a systematic error."""
    out, weight = np.zeros((2, len(flux), len(grid)), "float32")
    for i, shift in enumerate(np.log10(1 + redshift)):
        good = ivar[i] > 0
        if np.count_nonzero(good) < 100:
            continue
        inside = (grid + shift >= log_own[0]) & (grid + shift <= log_own[-1])
        at = grid[inside] + shift
        out[i, inside] = np.interp(at, log_own[good], flux[i][good])
        is_whole = np.interp(at, log_own, good.astype("float64")) > 0.99
        weight[i, inside] = np.interp(at, log_own, ivar[i]) * is_whole
    measured = weight > 0
    scale = np.array([np.median(np.abs(f[m])) if m.any() else 1 for f, m in zip(out, measured, strict=True)])[:, None]
    out /= scale
    total = uniform_filter1d(np.where(measured, np.abs(out), 0), 201, axis=1)
    level = np.maximum(total / np.maximum(uniform_filter1d(measured.astype("f4"), 201, axis=1), 1e-3), 0.05)
    variance = 1 / np.where(measured, weight * scale**2, 1) + (_SYSTEMATIC * level) ** 2
    return out, np.where(measured, 1 / variance, 0).astype("float32")


def _log_uniform(low, high, n, rng):
    return 10 ** rng.uniform(np.log10(1 + low), np.log10(1 + high), n) - 1


def _log_grid(first, last, step):
    return step * np.arange(np.ceil(np.log10(first) / step), np.log10(last) / step)


def labelled_spectra(folder, spectype):
    """Read the spectra of one class of a folder of labelled SDSS spectra.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``sdss/truth.csv`` with columns file, truth_class, truth_z, truth_source.
    spectype : str
        QSO, GALAXY or STAR.

    Returns
    -------
    table : pandas.DataFrame
        Their rows of the table; weak labels are left out.
    flux, ivar : numpy.ndarray, shape (n_object, 4851)
        Their spectra.

    Examples
    --------
    >>> import astrolab as al
    >>> al.labelled_spectra("nowhere", "QSO")
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    table = pd.read_csv(Path(folder) / "sdss" / "truth.csv")
    is_weak = table["truth_source"].str.contains("weak")
    table = table[(table["truth_class"] == spectype) & ~is_weak]
    pixels = np.stack([sdss.read_pixels(str(Path(folder) / "sdss" / file))[0][:, 0] for file in table["file"]])
    return table, pixels[:, 0], pixels[:, 1]


def main():
    """Build the sets that the package ships; those that settle quasars only from a folder of labelled spectra."""
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    source, command = "AstroLab's simulator", "python -m astrolab.redshift.build"
    if folder is not None:
        quasars, flux, ivar = labelled_spectra(folder, "QSO")
        card = {
            "title": "AstroLab's sets that settle redshifts of quasars",
            "made_from": f"{source} (a fifth) and {len(quasars)} SDSS, BOSS and eBOSS quasars (public data)",
            "command": f"{command} FOLDER_OF_LABELLED_SPECTRA",
            "quasars": _names(quasars),
        }
        save_templates(build_quasar_templates(flux, ivar, quasars["truth_z"].to_numpy()), _QUASARS, card)
    card = {"title": "AstroLab's template sets", "made_from": f"{source} alone", "command": command}
    save_templates(build_templates(), _OWN, card)


def _names(table):
    return [f"{plate}-{mjd}-{fiber}" for plate, mjd, fiber in table[["plate", "mjd", "fiber"]].to_numpy()]


if __name__ == "__main__":
    main()
