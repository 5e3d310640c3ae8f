"""Simulate a survey: a lazy Dataset of DESI-like spectra with planted rare objects and their truth."""

from functools import partial

import dask.array as da
import numpy as np
import xarray as xr

from astrolab.schema import COLUMNS, FLUX_UNIT, IVAR_UNIT, OBJECT, WAVELENGTH, check_spectra
from astrolab.simulation import artefacts, grid, population, rare
from astrolab.simulation.cosmology import R_BAND, magnitude_to_flux
from astrolab.simulation.forest import forest_transmission, metal_transmission
from astrolab.simulation.galaxies import galaxy_flux
from astrolab.simulation.instrument import observe
from astrolab.simulation.population import BLOCK, SurveyPlan, draw_population, stream
from astrolab.simulation.quasars import quasar_components, quasar_parameters, smc_dust
from astrolab.simulation.stars import star_flux
from astrolab.simulation.templates import read_templates, template_quasars, template_stars

VERSION = "1"  # raise it whenever the same seed gives other spectra

_EXTRA = {
    "truth_spectype": {"long_name": "what the simulator put there: QSO, GALAXY, STAR or SKY"},
    "truth_redshift": {"long_name": "true redshift; NaN for sky"},
    "truth_rare": {"long_name": "planted family of rare object or artefact; empty for an ordinary one"},
    "truth_magnitude": {"units": "mag", "long_name": "true r magnitude, AB; NaN for sky"},
    "n_exposures": {"long_name": "number of simulated exposures of 1000 s"},
}


def simulate_survey(
    n_objects,
    seed=0,
    *,
    chunk_size=BLOCK,
    rare_fraction=0.05,
    galaxy_fraction=0.04,
    star_fraction=0.04,
    sky_fraction=0.02,
    templates_path=None,
    with_noise=True,
):
    """Simulate a survey of quasars as DESI's dark program sees them.

    Quasars between redshift 0.1 and 4 and r = 17-23 mag, a few galaxies, stars and sky fibres, and planted rare objects
    and artefacts (`astrolab.simulation.rare.FAMILIES`, `astrolab.simulation.artefacts.ARTEFACTS`) with their truth. The
    same seed gives the same bytes whatever `chunk_size`, and the first objects of a larger survey are those of a
    smaller one.

    Parameters
    ----------
    n_objects : int
        Number of spectra.
    seed : int, optional
        Seed of every random number.
    chunk_size : int, optional
        Objects in a Dask chunk; a multiple of 256 is fastest, because spectra are made 256 at a time.
    rare_fraction : float, optional
        Share of the quasars that belong to a planted family.
    galaxy_fraction, star_fraction, sky_fraction : float, optional
        Shares of all fibres.
    templates_path : str or pathlib.Path, optional
        Redrock template file, or the folder of them, from which quasars and stars are drawn; by default they are
        analytic.
    with_noise : bool, optional
        False gives the noiseless flux with the same inverse variance and the same masked pixels.

    Returns
    -------
    xarray.Dataset
        Dims ``(object, wavelength)``; lazy `flux` and `ivar` in 1e-17 erg/s/cm2/Å, observed frame, vacuum wavelengths
        in Å; `ivar` is the true one, and both are 0 in masked pixels. Columns are in memory, sorted by `targetid` (bit
        58, "mock", is set); `redshift` and `spectype` are what a pipeline would record, the truth is in the columns
        ``truth_*``. Among the recorded redshifts only those of the family ``wrong_redshift`` are catastrophic.

    Raises
    ------
    ValueError
        If a number is out of range, or `templates_path` holds no template.

    References
    ----------
    The sources of each ingredient are named where it is made, in `astrolab.simulation`.

    Examples
    --------
    >>> spectra = simulate_survey(6, seed=1)
    >>> dict(spectra.sizes)
    {'object': 6, 'wavelength': 7781}
    >>> spectra.attrs["is_simulated"]
    1
    """
    _check_numbers(n_objects, seed, chunk_size, [rare_fraction, galaxy_fraction, star_fraction, sky_fraction])
    if templates_path is not None:
        read_templates(str(templates_path))
    plan = SurveyPlan(
        seed=int(seed),
        rare_fraction=rare_fraction,
        galaxy_fraction=galaxy_fraction,
        star_fraction=star_fraction,
        sky_fraction=sky_fraction,
        templates_path=None if templates_path is None else str(templates_path),
        with_noise=with_noise,
    )
    both = _lazy_spectra(plan, n_objects, chunk_size)
    spectra = xr.Dataset(
        {
            "flux": ((OBJECT, WAVELENGTH), both[:, 0], {"units": FLUX_UNIT, "long_name": "flux density"}),
            "ivar": ((OBJECT, WAVELENGTH), both[:, 1], {"units": IVAR_UNIT, "long_name": "inverse variance of flux"}),
        },
        coords={WAVELENGTH: (WAVELENGTH, grid.WAVELENGTH.copy(), {"units": "Angstrom", "medium": "vacuum"})}
        | _columns(plan, n_objects),
        attrs={
            "title": "Simulated survey (AstroLab): not observations",
            "is_simulated": 1,
            "seed": int(seed),
            "simulator_version": VERSION,
            "with_noise": int(with_noise),
        },
    )
    return check_spectra(spectra)


def _check_numbers(n_objects, seed, chunk_size, fractions):
    for name, value, least in (("n_objects", n_objects, 1), ("seed", seed, 0), ("chunk_size", chunk_size, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(
                f"{name} is {value!r}, expected a whole number of at least {least}: {name}={max(least, 256)}."
            )
    if min(fractions) < 0 or max(fractions) > 1 or sum(fractions[1:]) > 1:
        raise ValueError(
            f"the fractions are {fractions}, expected each between 0 and 1 and those of fibres at most 1 together."
        )


def _columns(plan, n_objects):
    blocks = [draw_population(plan, block) for block in range(-(-n_objects // BLOCK))]
    columns = {name: np.concatenate([block[name] for block in blocks])[:n_objects] for name in blocks[0]}
    columns["survey"] = np.full(n_objects, "main")
    columns["program"] = np.full(n_objects, "dark")
    described = {name: attrs for name, (_, attrs) in COLUMNS.items()} | _EXTRA
    return {name: (OBJECT, columns[name], described[name]) for name in described if name in columns}


def _lazy_spectra(plan, n_objects, chunk_size):
    """Flux and ivar as one dask array, dims (object, 2, wavelength), so that both come out of one computation."""
    sizes = [min(chunk_size, n_objects - start) for start in range(0, n_objects, chunk_size)]
    starts = da.from_array(np.cumsum([0, *sizes[:-1]]), chunks=1)
    sizes_array = da.from_array(np.array(sizes), chunks=1)
    return da.map_blocks(
        partial(_simulate_rows, plan),
        starts[:, None, None],
        sizes_array[:, None, None],
        chunks=(tuple(sizes), (2,), (grid.N_WAVELENGTH,)),
        dtype="float32",
        meta=np.empty((0, 0, 0), "float32"),
        name=f"simulate-{da.core.tokenize(plan, n_objects, chunk_size, VERSION)}",
    )


def _simulate_rows(plan, starts, sizes):
    """Spectra of a run of objects: shape (n_object, 2, n_wavelength), flux and ivar."""
    start, stop = int(starts.ravel()[0]), int(starts.ravel()[0] + sizes.ravel()[0])
    parts = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        flux, ivar = simulate_block(plan, block)
        rows = slice(max(start - block * BLOCK, 0), min(stop - block * BLOCK, BLOCK))
        parts.append(np.stack([flux[rows], ivar[rows]], axis=1))
    return np.concatenate(parts)


def simulate_block(plan, block):
    """Return the spectra of one block.

    Parameters
    ----------
    plan : SurveyPlan
        What to simulate.
    block : int
        Number of the block.

    Returns
    -------
    flux, ivar : numpy.ndarray, shape (256, n_wavelength), float32
        Observed flux (noiseless if the plan says so) and its inverse variance, 0 where masked.
    """
    objects = draw_population(plan, block)
    flux = np.zeros((BLOCK, grid.N_WAVELENGTH), "float32")
    for kind, make in (("QSO", _quasars), ("GALAXY", _galaxies), ("STAR", _stars)):
        rows = np.flatnonzero(objects["truth_spectype"] == kind)
        if rows.size:
            flux[rows] = make(plan, block, {name: column[rows] for name, column in objects.items()})
    rows = np.flatnonzero(objects["truth_rare"] == "blend")
    if rows.size:
        flux[rows] = rare.inject_blend(flux[rows], _others(flux, rows), stream(plan, block, population.RARE + 100))
    flux *= _scale_to_magnitude(flux, objects["truth_magnitude"])
    rng = stream(plan, block, population.NOISE)
    flux, ivar = observe(flux, objects["n_exposures"], objects["efficiency"], rng, plan.with_noise)
    return _damage(flux, ivar, objects["truth_rare"], stream(plan, block, population.DAMAGE))


def _quasars(plan, block, objects):
    redshift, family = objects["truth_redshift"], objects["truth_rare"]
    parameters = quasar_parameters(redshift, objects["truth_magnitude"], stream(plan, block, population.QUASARS))
    parts = quasar_components(parameters)
    rng = stream(plan, block, population.FOREST)
    transmission = forest_transmission(redshift, rng)
    transmission *= metal_transmission(redshift, rng)
    transmission *= smc_dust(parts.log_wavelength, parameters.ebv)
    agn = parts.continuum + parts.broad + parts.narrow
    if plan.templates_path is not None:
        agn = template_quasars(agn, redshift, read_templates(plan.templates_path))
    flux = agn * transmission
    flux += parts.host
    return _make_rare(flux, parts, transmission, redshift, family, stream(plan, block, population.RARE))


def _make_rare(flux, parts, transmission, redshift, family, rng):
    wavelength = grid.WAVELENGTH
    for name in np.unique(family[family != ""]):
        rows = np.flatnonzero(family == name)
        own, at = flux[rows], redshift[rows]
        continuum, lines = parts.continuum[rows] * transmission[rows], parts.broad[rows] * transmission[rows]
        if name.startswith("BAL_"):
            own = rare.inject_bal(own, wavelength, at, rng, kind=name.removeprefix("BAL_"))
        elif name == "DLA":
            own = rare.inject_dla(own, wavelength, at, rng)
        elif name == "reddened":
            own = rare.inject_reddening(own, wavelength, at, rng)
        elif name == "weak_lined":
            own = rare.inject_weak_lines(own, lines, rng)
        elif name == "double_peaked":
            own = rare.inject_double_peaks(
                rare.inject_weak_lines(own, lines, rng, factor=0.3), continuum, wavelength, at, rng
            )
        elif name == "civ_peaked":
            own = rare.inject_civ_peak(own, continuum, wavelength, at, rng)
        elif name == "changing_look":
            own = rare.inject_changing_look(own, continuum, lines, rng)
        flux[rows] = own
    return flux


def _galaxies(plan, block, objects):
    return galaxy_flux(objects["truth_redshift"], stream(plan, block, population.GALAXIES))


def _stars(plan, block, objects):
    rng = stream(plan, block, population.STARS)
    flux = None
    if plan.templates_path is not None:
        flux = template_stars(objects["truth_redshift"], read_templates(plan.templates_path), rng)
    return star_flux(objects["truth_redshift"], rng) if flux is None else flux


def _others(flux, rows):
    """Spectra of other objects of the block that are not empty, one for each of the rows."""
    bright = np.flatnonzero(flux.any(axis=1))
    place = np.searchsorted(bright, rows)
    return flux[bright[(place + 1) % len(bright)]]


def _scale_to_magnitude(flux, magnitude):
    in_band = slice(*np.searchsorted(grid.WAVELENGTH, R_BAND))
    mean = flux[:, in_band].mean(axis=1, dtype="float64")
    wanted = np.nan_to_num(magnitude_to_flux(magnitude))
    return (wanted / np.where(mean > 0, mean, 1)).astype("float32")[:, None]


def _damage(flux, ivar, family, rng):
    for name in artefacts.ARTEFACTS:
        rows = np.flatnonzero(family == name)
        if rows.size == 0:
            continue
        own, weight = flux[rows], ivar[rows]
        if name == "cosmic_ray":
            own = artefacts.inject_cosmic_rays(own, weight, rng)
        elif name == "sky_residual":
            own = artefacts.inject_sky_residual(own, weight, grid.WAVELENGTH, rng)
        elif name == "arm_step":
            own = artefacts.inject_arm_step(own, grid.WAVELENGTH, rng)
        else:
            own, weight = artefacts.inject_dead_amplifier(own, weight, grid.WAVELENGTH, rng)
        flux[rows], ivar[rows] = own, weight
    return flux, ivar
