"""Who is in the survey: classes, redshifts, magnitudes, exposures, positions and identifiers, block by block.

A block is 256 objects in one healpix pixel (nside 64, 0.84 square degrees): the density of DESI's quasar targets, 310 a
square degree (Chaussidon et al. 2023, ApJ 944, 107). Every random number belongs to (seed, block, subject), so that a
block is the same however many others there are and whoever computes it.
"""

from dataclasses import dataclass

import numpy as np

from astrolab.simulation.artefacts import ARTEFACTS
from astrolab.simulation.rare import FAMILIES, draw_wrong_redshift

BLOCK = 256
NSIDE = 64
FIRST_HEALPIX = 8192  # nested; from RA 225, Dec 0 deg northward, then on
N_HEALPIX = 12 * NSIDE**2
POPULATION, QUASARS, GALAXIES, STARS, RARE, FOREST, NOISE, DAMAGE = range(8)  # subjects of random numbers

# TARGETID as in desitarget: OBJID in bits 0-21, BRICKID 22-41, RELEASE 42-57, MOCK in bit 58
_RELEASE, _MOCK = 9010, 1

# quasars per unit redshift, after Chaussidon et al. (2023), figure of n(z): median 1.6, a third above 2.1
_QUASAR_REDSHIFTS = (
    (0.10, 0.5), (0.3, 2.5), (0.5, 6), (0.8, 12), (1.0, 15), (1.2, 17.5), (1.5, 20), (1.7, 20.5), (1.9, 18.5),
    (2.1, 16), (2.3, 13.5), (2.5, 10.5), (2.7, 7.5), (3.0, 4.2), (3.3, 2.0), (3.6, 0.9), (4.0, 0.2),
)  # fmt: skip
# relative numbers of r magnitudes
_QUASAR_MAGNITUDES = (
    (17.0, 0.02),
    (18.0, 0.10),
    (19.0, 0.45),
    (20.0, 1.3),
    (21.0, 2.4),
    (22.0, 3.6),
    (22.5, 4.0),
    (22.8, 3.2),
    (23.0, 1.2),
)
_GALAXY_REDSHIFTS = ((0.02, 0.5), (0.1, 4), (0.3, 6), (0.7, 9), (0.9, 9), (1.2, 5), (1.5, 1))
_GALAXY_MAGNITUDES = ((17.0, 0.1), (19.0, 1.0), (21.0, 3.0), (22.5, 4.0), (23.0, 1.0))
_STAR_MAGNITUDES = ((17.0, 0.6), (19.0, 1.0), (21.0, 1.6), (22.5, 2.0), (23.0, 0.5))

# the redshifts at which a family shows in the observed window, and its share among the rare
_FAMILY_REDSHIFTS = {
    "BAL_HI": (1.65, 3.9), "BAL_LO": (1.0, 2.4), "BAL_FELO": (0.9, 2.3), "DLA": (2.3, 3.9), "reddened": (0.3, 2.5),
    "weak_lined": (0.5, 3.9), "double_peaked": (0.12, 0.9), "civ_peaked": (1.5, 3.9), "blend": (0.3, 3.9),
    "changing_look": (0.15, 0.9), "wrong_redshift": (0.6, 3.5),
}  # fmt: skip
_FAMILY_SHARES = dict.fromkeys((*FAMILIES, *ARTEFACTS), 1.0) | {"BAL_HI": 3.0, "DLA": 1.5}


@dataclass(frozen=True)
class SurveyPlan:
    """What is to be simulated; small, and all that a task needs beside the number of its block.

    Attributes
    ----------
    seed : int
        Seed of everything.
    rare_fraction : float
        Share of quasars that belong to a planted family.
    galaxy_fraction, star_fraction, sky_fraction : float
        Shares of all fibres.
    templates_path : str or None
        Redrock templates to draw quasars and stars from.
    with_noise : bool
        Add noise to the flux.
    """

    seed: int = 0
    rare_fraction: float = 0.05
    galaxy_fraction: float = 0.04
    star_fraction: float = 0.04
    sky_fraction: float = 0.02
    templates_path: str | None = None
    with_noise: bool = True


def stream(plan, block, subject):
    """Return the random numbers of one subject in one block.

    Parameters
    ----------
    plan : SurveyPlan
        Gives the seed.
    block, subject : int
        Number of the block, and one of this module's subjects.

    Returns
    -------
    numpy.random.Generator
        Philox, a counter-based generator: its key is (seed, block), its counter begins at the subject.
    """
    return np.random.Generator(np.random.Philox(key=[plan.seed, block], counter=[0, 0, 0, subject]))


def draw_population(plan, block):
    """Draw the objects of one block: truth, and what a pipeline would record.

    Parameters
    ----------
    plan : SurveyPlan
        What to simulate.
    block : int
        Number of the block.

    Returns
    -------
    dict of str to numpy.ndarray, shape (256,)
        Columns named as in the data model, and ``truth_spectype`` (QSO, GALAXY, STAR, SKY), ``truth_redshift``,
        ``truth_rare`` (empty for an ordinary object), ``truth_magnitude`` (r, AB), ``n_exposures``, ``efficiency``.
    """
    rng = stream(plan, block, POPULATION)
    truth = _draw_class(plan, rng)
    family = _draw_family(plan, truth, rng)
    redshift = _draw_redshift(truth, family, rng)
    magnitude = _draw_magnitude(truth, redshift, rng)
    n_exposures = np.where((truth == "QSO") & (redshift > 2.1), rng.integers(1, 5, BLOCK), 1)
    columns = {
        "truth_spectype": truth,
        "truth_redshift": redshift,
        "truth_rare": family,
        "truth_magnitude": np.where(truth == "SKY", np.nan, magnitude),
        "n_exposures": n_exposures.astype("int64"),
        "efficiency": 10 ** rng.normal(0, 0.08, BLOCK),
    }
    return columns | _measured(columns, rng) | _identity(block, truth, rng)


def _draw_class(plan, rng):
    shares = [plan.sky_fraction, plan.star_fraction, plan.galaxy_fraction]
    kind = np.searchsorted(np.cumsum(shares), rng.random(BLOCK), side="right")
    return np.array(["SKY", "STAR", "GALAXY", "QSO"])[kind]


def _draw_family(plan, truth, rng):
    names = np.array(list(_FAMILY_SHARES))
    shares = np.array(list(_FAMILY_SHARES.values()))
    edges = np.cumsum(shares)[:-1] / shares.sum()
    drawn = names[np.searchsorted(edges, rng.random(BLOCK))]
    return np.where((rng.random(BLOCK) < plan.rare_fraction) & (truth == "QSO"), drawn, "")


def _draw_redshift(truth, family, rng):
    place = rng.random(BLOCK)
    low = np.array([_FAMILY_REDSHIFTS.get(name, (0.1, 4.0))[0] for name in family])
    high = np.array([_FAMILY_REDSHIFTS.get(name, (0.1, 4.0))[1] for name in family])
    quasar = _from_histogram(_QUASAR_REDSHIFTS, place, low, high)
    galaxy = _from_histogram(_GALAXY_REDSHIFTS, place)
    star = rng.normal(0, 120, BLOCK) / 299792.458
    return np.select([truth == "QSO", truth == "GALAXY", truth == "STAR"], [quasar, galaxy, star], np.nan)


def _draw_magnitude(truth, redshift, rng):
    place = rng.random(BLOCK)
    # the brightest galaxies: no galaxy outshines about 3e11 suns
    brightest = 16.6 + 4.6 * np.nan_to_num(np.abs(redshift)) ** 0.6
    galaxy = _from_histogram(_GALAXY_MAGNITUDES, place, np.minimum(brightest, 22.8), np.full(BLOCK, 23.0))
    quasar, star = _from_histogram(_QUASAR_MAGNITUDES, place), _from_histogram(_STAR_MAGNITUDES, place)
    return np.select([truth == "QSO", truth == "GALAXY"], [quasar, galaxy], star)


def _from_histogram(points, place, low=None, high=None):
    """Draw from a density given at points, restricted to an interval an object."""
    value, density = np.transpose(points)
    fine = np.linspace(value[0], value[-1], 2000)
    cumulative = np.cumsum(np.interp(fine, value, density))
    cumulative = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
    start = 0.0 if low is None else np.interp(low, fine, cumulative)
    stop = 1.0 if high is None else np.interp(high, fine, cumulative)
    return np.interp(start + place * (stop - start), cumulative, fine)


def _measured(columns, rng):
    """Return what a pipeline records: class, redshift with small errors, and its warning."""
    truth, redshift, family = columns["truth_spectype"], columns["truth_redshift"], columns["truth_rare"]
    is_sky = truth == "SKY"
    scatter = np.select([truth == "QSO", truth == "GALAXY"], [8e-4, 1.2e-4], 5e-5)
    nonsense = rng.uniform(0, 4, BLOCK)
    measured = np.where(is_sky, nonsense, redshift + scatter * (1 + redshift) * rng.standard_normal(BLOCK))
    wrong = draw_wrong_redshift(np.where(truth == "QSO", redshift, 1.0), rng)
    measured = np.where(family == "wrong_redshift", wrong, measured)
    recorded = np.array(["GALAXY", "QSO", "STAR"])[rng.integers(0, 3, BLOCK)]
    faint = np.clip((columns["truth_magnitude"] - 22.2) * 0.1, 0, 0.1)
    is_doubtful = is_sky | (rng.random(BLOCK) < np.nan_to_num(faint))
    return {
        "redshift": measured,
        "redshift_err": 0.4 * scatter * (1 + np.abs(measured)) * 10 ** rng.normal(0, 0.15, BLOCK),
        "redshift_warning": np.where(is_doubtful, 4, 0).astype("int64"),  # 4: a small difference in chi2
        "spectype": np.where(is_sky, recorded, truth),
    }


def _identity(block, truth, rng):
    pixel = FIRST_HEALPIX + block
    if pixel >= N_HEALPIX:
        raise ValueError(
            f"block {block} lies beyond the sky, expected at most {(N_HEALPIX - FIRST_HEALPIX) * BLOCK} objects: "
            "simulate_survey(n_objects=1_000_000)."
        )
    ra, dec = healpix_to_sky(pixel, rng.random(BLOCK), rng.random(BLOCK))
    number = np.arange(BLOCK, dtype="int64")
    return {
        "targetid": (np.int64(_MOCK) << 58) + (np.int64(_RELEASE) << 42) + (np.int64(pixel) << 22) + number,
        "ra": ra,
        "dec": dec,
        "healpix": np.full(BLOCK, pixel, "int32"),
        "objtype": np.where(truth == "SKY", "SKY", "TGT"),
        "is_target": truth != "SKY",
        "fiberstatus": np.zeros(BLOCK, "int64"),
    }


def healpix_to_sky(pixel, x, y):
    """Return sky positions inside one healpix pixel (nside 64, nested).

    Parameters
    ----------
    pixel : int
        Number of the pixel, nested order.
    x, y : numpy.ndarray
        Place inside the pixel along its south-east and south-west edges, 0 to 1; uniform numbers cover equal areas.

    Returns
    -------
    ra, dec : numpy.ndarray
        Degrees.

    References
    ----------
    Gorski et al. (2005), ApJ 622, 759, section 4 and 5.

    Examples
    --------
    >>> ra, dec = healpix_to_sky(8192, 0.5, 0.5)
    >>> float(ra), round(float(dec), 4)
    (225.0, 0.5968)
    """
    face, inside = divmod(pixel, NSIDE**2)
    column = sum(((inside >> (2 * bit)) & 1) << bit for bit in range(NSIDE.bit_length()))
    row = sum(((inside >> (2 * bit + 1)) & 1) << bit for bit in range(NSIDE.bit_length()))
    x, y = (column + np.asarray(x)) / NSIDE, (row + np.asarray(y)) / NSIDE
    # rings of faces: 0-3 around the north pole, 4-7 on the equator, 8-11 around the south pole
    south_corner = (2, 3, 4)[face // 4]
    longitude_unit = (2 * (face % 4) + 1, 2 * (face % 4), 2 * (face % 4) + 1)[face // 4]
    height = south_corner - x - y  # 0 at the north pole, 4 at the south pole
    near_pole = np.minimum(height, 4 - height)
    in_cap = near_pole < 1
    span = np.where(in_cap, near_pole, 1.0)
    sine = np.where(in_cap, 1 - span**2 / 3, (2 - near_pole) * 2 / 3)
    sine = np.where(height > 2, -sine, sine)
    longitude = longitude_unit + (x - y) / np.where(span > 0, span, 1)
    return (45 * longitude) % 360, np.degrees(np.arcsin(sine))
