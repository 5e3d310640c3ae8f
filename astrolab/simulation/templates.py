"""Quasars and stars from PCA templates in Redrock's format, read by path and never copied.

A template file holds eigenvectors (``BASIS_VECTORS``) on a uniform grid of wavelength or log10(wavelength), and for
stars also the coefficients of real ones (``ARCHETYPE_COEFF``). A star is one of those rows. For quasars no coefficients
are published with the templates: each quasar takes those with which the eigenvectors come nearest to its analytic
spectrum, and so keeps its own slope and line strengths while the shapes of its lines and its iron are those of the
eigenvectors.

Format: https://github.com/desihub/redrock-templates
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from astrolab.simulation.grid import N_WAVELENGTH, WAVELENGTH
from astrolab.simulation.profiles import add_templates

_LOG_STEP = 1e-4  # of ln(wavelength): 30 km/s


@dataclass(frozen=True)
class Template:
    """The eigenvectors of one class.

    Attributes
    ----------
    spectype, subtype : str
        Class as the file says: QSO, STAR or GALAXY, and HIZ, LOZ or a stellar type.
    vectors : numpy.ndarray, shape (n_vector, n_rest), float32
        On a grid uniform in ln(rest wavelength).
    log_first : float
        ln of that grid's first wavelength in Å.
    coefficients : numpy.ndarray, shape (n_archetype, n_vector)
        Of real objects; empty where the file has none.
    """

    spectype: str
    subtype: str
    vectors: np.ndarray
    log_first: float
    coefficients: np.ndarray


@lru_cache(maxsize=4)
def read_templates(path):
    """Read the templates of quasars and stars from a Redrock template file or a folder of them.

    Parameters
    ----------
    path : str or pathlib.Path
        ``rrtemplate-*.fits``, or the folder that holds them.

    Returns
    -------
    tuple of Template
        Quasars, and stars that come with coefficients; others are left out.

    Raises
    ------
    FileNotFoundError
        If there is nothing of that name, or no template in the folder.
    ValueError
        If a file is not a Redrock template, or none of them is of quasars or stars.
    """
    path = Path(path)
    files = sorted(path.glob("rrtemplate-*.fits")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(
            f"no Redrock template at '{path}', expected rrtemplate-*.fits: "
            "git clone https://github.com/desihub/redrock-templates."
        )
    found = [_read_template(file) for file in files]
    usable = tuple(one for one in found if one.spectype == "QSO" or (one.spectype == "STAR" and len(one.coefficients)))
    if not usable:
        raise ValueError(
            f"'{path}' holds no template of quasars or stars, expected such as rrtemplate-QSO-HIZ-v1.1.fits."
        )
    return usable


def template_quasars(flux, redshift, templates):
    """Return the quasars that the eigenvectors can make nearest to given spectra.

    Parameters
    ----------
    flux : numpy.ndarray, shape (n_object, n_wavelength), float32
        Noiseless spectra without intervening absorption, on the simulator's grid.
    redshift : numpy.ndarray, shape (n_object,)
        Redshift.
    templates : tuple of Template
        As `read_templates` gives them.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Where no quasar template covers the whole spectrum, the given flux.
    """
    result = flux.copy()
    todo = np.ones(len(flux), bool)
    for template in templates:
        if template.spectype != "QSO":
            continue
        last = template.log_first + _LOG_STEP * (template.vectors.shape[1] - 1)
        shift = np.log1p(redshift)
        covered = (np.log(WAVELENGTH[0]) - shift > template.log_first) & (np.log(WAVELENGTH[-1]) - shift < last)
        rows = np.flatnonzero(covered & todo)
        todo[rows] = False
        result[rows] = _projection(flux[rows], shift[rows], template)
    return result


def template_stars(redshift, templates, rng):
    """Return stars drawn from the archetypes that come with the templates.

    Parameters
    ----------
    redshift : numpy.ndarray, shape (n_object,)
        Radial velocity over the speed of light.
    templates : tuple of Template
        As `read_templates` gives them.
    rng : numpy.random.Generator
        Source of the choice, first of the type and then of the star.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_wavelength), float32
        Flux per Å, in the templates' own unit; None where there is no template of stars.
    """
    stars = [template for template in templates if template.spectype == "STAR"]
    if not stars:
        return None
    flux = np.zeros((len(redshift), N_WAVELENGTH), "float32")
    kind = rng.integers(0, len(stars), len(redshift))
    place = rng.random(len(redshift))
    for number, template in enumerate(stars):
        rows = np.flatnonzero(kind == number)
        chosen = template.coefficients[(place[rows] * len(template.coefficients)).astype(int)]
        part = np.zeros((len(rows), N_WAVELENGTH), "float32")
        _add(part, template, template.vectors, np.log1p(redshift[rows]), chosen)
        flux[rows] = np.maximum(part, 0)
    return flux


def _projection(flux, shift, template):
    n_vector = len(template.vectors)
    basis = np.zeros((n_vector, len(flux), N_WAVELENGTH), "float32")
    for number in range(n_vector):
        _add(basis[number], template, template.vectors[[number]], shift, np.ones((len(flux), 1)))
    normal = np.einsum("aip,bip->iab", basis, basis, dtype="float64")
    right = np.einsum("aip,ip->ia", basis, flux, dtype="float64")
    coefficients = np.linalg.solve(normal, right[..., None])[..., 0]
    return np.maximum(np.einsum("ia,aip->ip", coefficients.astype("float32"), basis), 0)


def _add(out, template, vectors, shift, coefficients):
    add_templates(out, np.log(WAVELENGTH), vectors, template.log_first, _LOG_STEP, shift, coefficients)


def _read_template(path):
    with fits.open(path) as hdus:
        header = hdus[0].header
        if "RRTYPE" not in header or header.get("NAXIS") != 2:
            raise ValueError(
                f"'{path}' is not a Redrock template: its first HDU has no eigenvectors and RRTYPE keyword."
            )
        vectors = np.asarray(hdus[0].data, "float64")
        own = header["CRVAL1"] + header["CDELT1"] * np.arange(vectors.shape[1])
        if "ARCHETYPE_COEFF" in hdus:
            coefficients = np.asarray(hdus["ARCHETYPE_COEFF"].data, "float64")
        else:
            coefficients = np.zeros((0, len(vectors)))
    log_wavelength = own * np.log(10) if header.get("LOGLAM", False) else np.log(own)
    log_wavelength = np.asarray(log_wavelength, "float64")
    grid = np.arange(max(log_wavelength[0], np.log(400)), min(log_wavelength[-1], np.log(12000)), _LOG_STEP)
    resampled = np.stack([np.interp(grid, log_wavelength, vector) for vector in vectors]).astype("float32")
    return Template(header["RRTYPE"].strip(), header.get("RRSUBTYP", "").strip(), resampled, grid[0], coefficients)
