"""Type 1 quasars: power law, Balmer continuum, broad and narrow lines, iron, host galaxy and dust.

Every object has its own slopes, luminosity-dependent line strengths (Baldwin effect), widths, blueshifts, iron
strength, dust and host; `quasar_parameters` draws them, `quasar_components` turns them into flux.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import expit

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.simulation.cosmology import log_luminosity
from astrolab.simulation.galaxies import OLD, TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, YOUNG, add_galaxy
from astrolab.simulation.grid import LINE_SPREAD, N_WAVELENGTH, WAVELENGTH, WAVELENGTH_FIRST, WAVELENGTH_STEP
from astrolab.simulation.profiles import add_gaussians, add_templates
from astrolab.simulation.quasar_lines import IRON_OPTICAL, IRON_UNIT, IRON_UV, NARROW_LINES, broad_line_columns

_FWHM = 2 * np.sqrt(2 * np.log(2))
_LOG_3000, _LOG_RED, _LOG_LYA = np.log(3000.0), np.log(5000.0), np.log(1215.67)
_C_IV = 15  # row of C IV in the table of broad lines


@dataclass(frozen=True)
class QuasarParameters:
    """What makes one quasar differ from the next; every array has shape (n_object,) or (n_object, n_line).

    Attributes
    ----------
    redshift : numpy.ndarray
        True redshift.
    log_luminosity : numpy.ndarray
        log10 of λL(3000 Å) in erg/s.
    slope : numpy.ndarray, shape (n_object, 3)
        Power-law indices of flux per Å: below Lyα, from Lyα to 5000 Å, redward.
    ebv : numpy.ndarray
        Reddening E(B-V) in mag by dust like the Small Magellanic Cloud's.
    broad_width, broad_strength, broad_shift : numpy.ndarray, shape (n_object, n_line)
        FWHM in km/s, rest equivalent width in Å, and velocity in km/s (negative: blueshift) of the broad lines.
    narrow_width, narrow_strength : numpy.ndarray
        FWHM in km/s, and strength relative to the table.
    iron_uv, iron_optical, balmer : numpy.ndarray
        Strengths of iron relative to the table, and Balmer continuum relative to the power law at 3000 Å.
    host_fraction, host_young : numpy.ndarray
        Host to power law at 5100 Å (rest), and the share of young stars in it.
    """

    redshift: np.ndarray
    log_luminosity: np.ndarray
    slope: np.ndarray
    ebv: np.ndarray
    broad_width: np.ndarray
    broad_strength: np.ndarray
    broad_shift: np.ndarray
    narrow_width: np.ndarray
    narrow_strength: np.ndarray
    iron_uv: np.ndarray
    iron_optical: np.ndarray
    balmer: np.ndarray
    host_fraction: np.ndarray
    host_young: np.ndarray


def quasar_parameters(redshift, magnitude, rng):
    """Draw the properties of quasars.

    Parameters
    ----------
    redshift, magnitude : numpy.ndarray, shape (n_object,)
        True redshift and r magnitude (AB), from which the luminosity follows.
    rng : numpy.random.Generator
        Source of the scatter.

    Returns
    -------
    QuasarParameters
        One entry an object.
    """
    n = len(redshift)
    lines = broad_line_columns()
    luminosity = log_luminosity(redshift, magnitude)
    bright = luminosity - 45.5
    slope = np.stack(
        [rng.normal(-0.9, 0.3, n), rng.normal(-1.6, 0.25, n), np.clip(rng.normal(-1.1, 0.2, n), None, -0.5)], axis=1
    )
    # first eigenvector of Boroson & Green (1992): strong iron goes with weak [O III]
    eigenvector = rng.standard_normal(n)
    common = rng.normal(0, 0.09, (n, 1))
    scatter = common + rng.normal(0, 0.09, (n, len(lines.wavelength)))
    strength = lines.equivalent_width * 10 ** (scatter + lines.baldwin * bright[:, None])
    blueshift = 500 + 350 * bright + rng.normal(0, 350, n) - 2500 * scatter[:, _C_IV]
    blueshift = np.clip(blueshift, -400, 4500)
    shift = -lines.blueshift * blueshift[:, None] + rng.normal(0, 90, (n, len(lines.wavelength)))
    width = 4600 * 10 ** rng.normal(0, 0.14, (n, 1)) * 10 ** rng.normal(0, 0.04, (n, len(lines.wavelength)))
    host = 10 ** (-0.4 - 0.85 * (luminosity - 44.4) + rng.normal(0, 0.25, n))
    return QuasarParameters(
        redshift=np.asarray(redshift, float),
        log_luminosity=luminosity,
        slope=slope,
        ebv=rng.exponential(0.02, n),
        broad_width=np.clip(width, 1500, 13000),
        broad_strength=strength,
        broad_shift=shift,
        narrow_width=420 * 10 ** rng.normal(0, 0.13, n),
        narrow_strength=10 ** (-0.22 * eigenvector + rng.normal(0, 0.2, n) - 0.1 * bright),
        iron_uv=10 ** (0.12 * eigenvector + rng.normal(0, 0.12, n)),
        iron_optical=10 ** (0.2 * eigenvector + rng.normal(0, 0.15, n)),
        balmer=np.clip(rng.normal(0.17, 0.05, n), 0, None),
        host_fraction=np.clip(host, 0, 8),
        host_young=rng.uniform(0.0, 0.6, n),
    )


def power_law(log_wavelength, slope):
    """Return the quasar continuum: a power law of flux per Å, broken at Lyα and 5000 Å, 1 at 3000 Å.

    Parameters
    ----------
    log_wavelength : numpy.ndarray, shape (n_object, n)
        ln of the rest wavelength in Å.
    slope : numpy.ndarray, shape (n_object, 3)
        Indices below Lyα, in between, and above 5000 Å (Vanden Berk et al. 2001; Lusso et al. 2015, MNRAS 449, 4204).

    Returns
    -------
    numpy.ndarray, shape (n_object, n)
        Dtype as `log_wavelength`.
    """
    slope = slope.astype(log_wavelength.dtype)[..., None]
    blue, middle, red = slope[:, 0], slope[:, 1], slope[:, 2]
    exponent = middle * (log_wavelength - log_wavelength.dtype.type(_LOG_3000))
    exponent += (red - middle) * np.maximum(log_wavelength - log_wavelength.dtype.type(_LOG_RED), 0)
    exponent += (blue - middle) * np.minimum(log_wavelength - log_wavelength.dtype.type(_LOG_LYA), 0)
    return np.exp(exponent, out=exponent)


def smc_dust(log_wavelength, ebv):
    """Return the transmission of dust like the Small Magellanic Cloud's.

    ``A(λ) = 1.39 E(B-V) (λ / 1 µm)**-1.2`` (Prevot et al. 1984, A&A 132, 389; as used for quasars by Richards et al.
    2003, AJ 126, 1131).

    Parameters
    ----------
    log_wavelength : numpy.ndarray, shape (n_object, n)
        ln of the wavelength in Å in the frame of the dust.
    ebv : numpy.ndarray, shape (n_object,)
        E(B-V) in mag.

    Returns
    -------
    numpy.ndarray, shape (n_object, n)
        Between 0 and 1; dtype as `log_wavelength`.
    """
    kind = log_wavelength.dtype.type
    attenuation = np.exp(kind(-1.2) * (log_wavelength - kind(np.log(1e4))))
    attenuation *= (-0.4 * np.log(10) * 1.39 * np.asarray(ebv))[:, None].astype(kind)
    return np.exp(attenuation, out=attenuation)


@dataclass(frozen=True)
class QuasarComponents:
    """The parts of noiseless quasar spectra, each float32, shape (n_object, n_wavelength), observed frame.

    Attributes
    ----------
    continuum, broad, narrow, host : numpy.ndarray
        Power law and Balmer continuum; broad lines and iron; narrow lines; stars. In units of the power law at 3000 Å
        (rest).
    log_wavelength : numpy.ndarray
        ln of the rest wavelength in Å.
    """

    continuum: np.ndarray
    broad: np.ndarray
    narrow: np.ndarray
    host: np.ndarray
    log_wavelength: np.ndarray


def quasar_components(parameters):
    """Return the noiseless parts of quasar spectra, before dust and intervening absorption.

    Parameters
    ----------
    parameters : QuasarParameters
        As `quasar_parameters` draws them.

    Returns
    -------
    QuasarComponents
        On the simulator's grid.
    """
    n = len(parameters.redshift)
    shift = np.log1p(parameters.redshift)
    log_wavelength = (np.log(WAVELENGTH) - shift[:, None]).astype("float32")
    continuum = power_law(log_wavelength, parameters.slope)
    broad, narrow, host = (np.zeros((n, N_WAVELENGTH), "float32") for _ in range(3))
    _add_broad_lines(broad, parameters)
    _add_iron(broad, parameters)
    _add_narrow_lines(narrow, parameters)
    add_templates(
        continuum, np.log(WAVELENGTH), _balmer_continuum(), TEMPLATE_LOG_FIRST, TEMPLATE_LOG_STEP, shift,
        parameters.balmer[:, None],
    )  # fmt: skip
    # a host that gives less than two per cent of the light is not worth its time
    fraction = np.where(parameters.host_fraction > 0.02, parameters.host_fraction, 0)
    level = fraction * power_law(np.full((n, 1), np.log(5100.0)), parameters.slope)[:, 0]
    weights = np.zeros((n, 3))
    weights[:, OLD] = level * (1 - parameters.host_young)
    weights[:, YOUNG] = level * parameters.host_young
    add_galaxy(host, parameters.redshift, weights)
    return QuasarComponents(continuum, broad, narrow, host, log_wavelength)


def add_lines(out, redshift, slope, wavelength, velocity, fwhm, equivalent_width):
    """Add Gaussian emission lines of given rest equivalent width over a power law, in place.

    Parameters
    ----------
    out : numpy.ndarray, shape (n_object, n_wavelength), float32
        On the simulator's grid, observed frame, in units of the power law at 3000 Å (rest).
    redshift : numpy.ndarray, shape (n_object,)
        Redshift of the quasar.
    slope : numpy.ndarray, shape (n_object, 3)
        Of the power law, see `power_law`.
    wavelength : numpy.ndarray, shape (n_line,)
        Rest vacuum wavelengths, Å.
    velocity, fwhm, equivalent_width : numpy.ndarray, broadcast to (n_object, n_line)
        Velocity and FWHM in km/s (before the instrument's own 0.75 Å), rest equivalent width in Å.
    """
    shape = (len(out), len(wavelength))
    rest = wavelength * (1 + np.broadcast_to(velocity, shape) / SPEED_OF_LIGHT)
    stretch = (1 + redshift)[:, None]
    level = power_law(np.log(rest), slope)
    own = rest * stretch * np.broadcast_to(fwhm, shape) / (_FWHM * SPEED_OF_LIGHT)
    sigma = np.hypot(own, LINE_SPREAD)
    peak = np.broadcast_to(equivalent_width, shape) * stretch * level / (np.sqrt(2 * np.pi) * sigma)
    add_gaussians(out, WAVELENGTH_FIRST, WAVELENGTH_STEP, rest * stretch, sigma, peak)


def _add_broad_lines(out, parameters):
    lines = broad_line_columns()
    for share, scale in ((lines.core_fraction, 0.6), (1 - lines.core_fraction, 2.1)):
        add_lines(
            out, parameters.redshift, parameters.slope, lines.wavelength, parameters.broad_shift,
            scale * parameters.broad_width, share * parameters.broad_strength,
        )  # fmt: skip


def _add_iron(out, parameters):
    width = parameters.broad_width[:, [_C_IV]]
    for table, strength in ((IRON_UV, parameters.iron_uv), (IRON_OPTICAL, parameters.iron_optical)):
        wavelength, relative = np.transpose(table)
        add_lines(
            out, parameters.redshift, parameters.slope, wavelength, 0.0, width,
            IRON_UNIT * strength[:, None] * relative,
        )  # fmt: skip


def _add_narrow_lines(out, parameters):
    wavelength, strength = np.transpose(NARROW_LINES)
    width = parameters.narrow_width[:, None]
    strength = parameters.narrow_strength[:, None] * strength
    # a quarter of the flux is in the blue wing of an outflow (Mullaney et al. 2013, MNRAS 433, 622)
    for share, velocity, scale in ((0.75, 0.0, 1.0), (0.25, -220.0, 2.4)):
        add_lines(out, parameters.redshift, parameters.slope, wavelength, velocity, scale * width, share * strength)


@lru_cache
def _balmer_continuum():
    """Partly thick Balmer continuum at 15,000 K (Grandi 1982, ApJ 255, 25), its edge smeared by high-order lines."""
    wavelength = np.exp(TEMPLATE_LOG_FIRST + TEMPLATE_LOG_STEP * np.arange(14000))
    planck = wavelength**-5.0 / np.expm1(1.43878e8 / (wavelength * 15000))
    thick = planck * -np.expm1(-((wavelength / 3646.0) ** 3))
    shape = thick * expit((3700 - wavelength) / 55)
    return (shape / np.interp(3000, wavelength, shape)).astype("float32")[None]
