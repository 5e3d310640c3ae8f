"""One class and one redshift for every spectrum, with warnings, a probability, and the hypotheses that came next."""

import io

import numpy as np
import pandas as pd
from astropy.table import Table

from astrolab.redshift.candidates import SAME_VELOCITY, velocity_between
from astrolab.redshift.hypotheses import scan_redshifts
from astrolab.redshift.network import COLUMNS, NAMES
from astrolab.schema import NO_REDSHIFT, WAVELENGTH
from astrolab.stores.publish import write_whole

# redshift_warning: bits that mean what Redrock's ZWARN means by them, and the schema's NO_REDSHIFT
SKY = 1 << 0  # the fibre was on sky, or not on a target
LITTLE_COVERAGE = 1 << 1  # few good pixels
SMALL_DELTA_CHI2 = 1 << 2  # another redshift, or a spectrum without features, fits nearly as well
NEGATIVE_MODEL = 1 << 3  # the best model is negative on the whole
AT_LIMIT = 1 << 5  # the best redshift is the first or the last that was tried
NO_DATA = 1 << 9  # not one good pixel
BAD_MINIMUM = 1 << 10  # χ² has no minimum that a parabola can describe
POOR_DATA = 1 << 11  # there were invalid pixels (NaN, negative ivar); they were left out
DISAGREES = 1 << 12  # the network is sure of a redshift elsewhere
WARNINGS = {
    "SKY": SKY,
    "LITTLE_COVERAGE": LITTLE_COVERAGE,
    "SMALL_DELTA_CHI2": SMALL_DELTA_CHI2,
    "NEGATIVE_MODEL": NEGATIVE_MODEL,
    "AT_LIMIT": AT_LIMIT,
    "NO_DATA": NO_DATA,
    "BAD_MINIMUM": BAD_MINIMUM,
    "POOR_DATA": POOR_DATA,
    "DISAGREES": DISAGREES,
    "NO_REDSHIFT": NO_REDSHIFT,
}

DELTA_CHI2_MIN = 16.0  # residuals of the sky reach 9, as independent pixels would not
DELTA_SCORE_MIN = 25.0  # the same with the network, which may say 74 on its own
_SURE, _ELSEWHERE = 0.8, 3000.0  # the network's probability, and km/s, for DISAGREES
_RIGHT_ANYWAY = 0.3  # of the answers with DISAGREES are right, on simulated rare objects
_COVERAGE_MIN = 0.3  # part of the grid's pixels
_N_BEST = 5
# χ² differences are divided by this before they become probabilities: see `class_probability`
TEMPERATURE, TEMPERATURE_NETWORK = 2.0, 6.0
_UNFORESEEN = 0.015  # of the surest answers on simulated spectra are wrong: blends, clusters of cosmic rays


def classify_spectra(spectra, templates=None, *, device="auto", chunks_dir=None, with_network=True):
    """Give every spectrum a class and a redshift.

    The scan of all templates over all redshifts and a small network judge together: the network's redshift seeds a
    hypothesis of the scan, quasars with broad absorption are fitted again without it, and of all hypotheses the one of
    the least score is the answer: χ², plus about 14 for what may lie at any redshift and not, as a star, here alone
    (`TemplateSet.redshift_volume`), less 8 for each nat of the network's log-probability (40 with broad absorption).
    The others are kept. With AstroLab's own templates the redshift of a quasar is settled at last by sets learned from
    catalogued quasars (`astrolab.redshift.settle`).

    Parameters
    ----------
    spectra : xarray.Dataset
        Observed frame, dims ``(object, wavelength)``, any grid (DESI, SDSS); lazy or in memory. Pixels with
        ``ivar == 0`` count for nothing.
    templates : sequence of TemplateSet, optional
        As `open_templates` gives them; AstroLab's own by default.
    device : str, optional
        Where the matrix products run: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU if there is one.
    chunks_dir : path-like, optional
        Folder that keeps what each chunk gave as soon as it is there: the same call after a crash goes on.
    with_network : bool, optional
        False leaves the network, and what it seeds, out.

    Returns
    -------
    pandas.DataFrame
        One row an object, in order: targetid; spectype (QSO, GALAXY, STAR), subtype; redshift, redshift_err (1 sigma,
        statistical; see `redshift_intervals`); redshift_warning (bits in `WARNINGS`, 0 = good); delta_chi2 (of the
        score, to the next redshift or to a spectrum without features, whichever is nearer);
        probability (see `class_probability`; at most 0.3 with the warning DISAGREES, 0 with NEGATIVE_MODEL); source
        (scan, network or trough, see `scan_redshifts`);
        spectype_scan and redshift_scan (of the least score of the scan alone); spectype_network ('' for an empty
        spectrum), redshift_network (0 for stars) and probability_network; bal_probability (of broad absorption, if it
        is a quasar); chi2; n_good (pixels); and spectype_k, redshift_k, delta_chi2_k, source_k of the hypotheses
        k = 2 … 5 (spectype '' where there is none). Of an object without a good pixel spectype is '' and redshift NaN.

    Raises
    ------
    SchemaError
        If the spectra are not in the observed frame.
    ValueError
        If a template set covers the grid at no redshift, the grid is too coarse for lines, or there are no templates.

    References
    ----------
    Warnings: https://desidatamodel.readthedocs.io/en/latest/bitmasks.html (ZWARN).

    Examples
    --------
    >>> import astrolab as al
    >>> spectra = al.simulate_survey(3, seed=3, rare_fraction=0)
    >>> al.classify_spectra(spectra)["redshift_warning"].dtype
    dtype('int64')
    """
    options = {"n_best": _N_BEST, "device": device, "chunks_dir": chunks_dir, "with_network": with_network}
    table = scan_redshifts(spectra, templates, **options)
    found = {name: column.to_numpy().reshape(-1, _N_BEST) for name, column in table.items()}
    delta = found["score"] - found["score"][:, :1]
    has_answer = np.isfinite(found["chi2"][:, 0])
    delta_chi2 = np.fmin(_delta_to_other_redshift(found, delta), found["score_smooth"][:, 0] - found["score"][:, 0])
    delta_chi2 = np.where(has_answer, delta_chi2, 0)
    is_target = spectra["is_target"].values if "is_target" in spectra.coords else np.ones(len(delta), bool)
    coverage = found["n_good"][:, 0] / spectra.sizes[WAVELENGTH]
    is_small = delta_chi2 < (DELTA_SCORE_MIN if with_network else DELTA_CHI2_MIN)
    opinions = _opinions(found)
    disagrees = _disagreement(found, opinions)
    probability = class_probability(found, TEMPERATURE_NETWORK if with_network else TEMPERATURE)
    capped = np.minimum(probability, _RIGHT_ANYWAY)
    columns = {
        "targetid": found["targetid"][:, 0],
        "spectype": found["spectype"][:, 0].astype(str),
        "subtype": found["subtype"][:, 0].astype(str),
        "redshift": found["redshift"][:, 0],
        "redshift_err": found["redshift_err"][:, 0],
        "redshift_warning": _warnings(found, is_small, is_target, coverage) | disagrees,
        "delta_chi2": delta_chi2,
        "probability": np.where(found["is_negative"][:, 0], 0, np.where(disagrees, capped, probability)),
        "source": found["source"][:, 0].astype(str),
    }
    columns |= opinions
    columns |= {"chi2": found["chi2"][:, 0], "n_good": found["n_good"][:, 0]}
    for k in range(1, _N_BEST):
        columns[f"spectype_{k + 1}"] = found["spectype"][:, k].astype(str)
        columns[f"redshift_{k + 1}"] = found["redshift"][:, k]
        columns[f"delta_chi2_{k + 1}"] = delta[:, k]
        columns[f"source_{k + 1}"] = found["source"][:, k].astype(str)
    return pd.DataFrame(columns)


def _opinions(found):
    """Return what the scan says alone, and the network alone."""
    rows = np.arange(len(found["chi2"]))
    own = {name: found[name][:, 0] for name in COLUMNS}
    shares = np.stack([own["p_qso"], own["p_galaxy"], own["p_star"], own["p_nothing"]], axis=1)
    knows = np.isfinite(shares).all(axis=1) & (found["n_good"][:, 0] > 0)
    kind = np.where(knows, np.nan_to_num(shares).argmax(axis=1), 3)
    zero, one = np.zeros(len(rows)), np.ones(len(rows))
    redshift = np.stack([own["redshift_qso"], own["redshift_galaxy"], zero, zero * np.nan])[kind, rows]
    near = np.stack([own["p_bin_qso"], own["p_bin_galaxy"], one, one])[kind, rows]
    return {
        "spectype_scan": found["spectype_scan"][:, 0].astype(str),
        "redshift_scan": found["redshift_scan"][:, 0],
        "spectype_network": np.array(NAMES)[kind],
        "redshift_network": redshift,
        "probability_network": np.where(knows, shares[rows, kind] * near, np.nan),
        "bal_probability": np.where(knows, own["p_bal"], np.nan),
    }


def class_probability(found, temperature=TEMPERATURE):
    """Return the probability that class and redshift of the best hypothesis are right.

    The weights ``exp(-Δ / (2 temperature))`` of the hypotheses kept and of a spectrum without features, divided by
    their sum, where Δ is a difference of scores: a temperature above 1 because templates are not perfect, pixels not
    independent, and the network has learned from the same light. It is the one that makes the probabilities of
    simulated spectra, and of real ones that the network was not trained on, most likely given which answers were right
    (``python -m benchmarks.redshift`` prints how often they are). Never above 0.985: some failures no fit foresees.

    Parameters
    ----------
    found : dict of str to numpy.ndarray, shape (n_object, n_hypothesis)
        score and score_smooth, as `scan_redshifts` gives them, best first.
    temperature : float, optional
        Divides the differences.

    Returns
    -------
    numpy.ndarray, shape (n_object,)
        Between 0 and 0.985; 0 where there is no hypothesis.
    """
    score = np.concatenate([found["score"], found["score_smooth"][:, :1]], axis=1)
    score = np.where(np.isfinite(score), score, np.inf)
    lowest = score.min(axis=1, keepdims=True)
    weight = np.exp(-0.5 / temperature * (score - np.where(np.isfinite(lowest), lowest, 0)))
    return (1 - _UNFORESEEN) * weight[:, 0] / np.maximum(weight.sum(axis=1), 1e-300)


def save_redrock(answers, path):
    """Save classes and redshifts as a FITS table with Redrock's names, which DESI's tools read.

    Parameters
    ----------
    answers : pandas.DataFrame
        As `classify_spectra` gives it.
    path : str or pathlib.Path
        File to write; HDU ``REDSHIFTS`` with TARGETID, CHI2, Z, ZERR, ZWARN, NPIXELS, SPECTYPE, SUBTYPE, DELTACHI2.

    References
    ----------
    https://desidatamodel.readthedocs.io/en/latest/DESI_SPECTRO_REDUX/SPECPROD/healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM/redrock-SURVEY-PROGRAM-PIXNUM.html

    Examples
    --------
    >>> import astrolab as al, tempfile
    >>> answers = al.classify_spectra(al.simulate_survey(2, seed=3, rare_fraction=0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     al.save_redrock(answers, f"{folder}/redshifts.fits")
    ...     len(Table.read(f"{folder}/redshifts.fits", hdu="REDSHIFTS"))
    2
    """
    table = Table(
        {
            "TARGETID": answers["targetid"].to_numpy("int64"),
            "CHI2": answers["chi2"].to_numpy("float64"),
            "Z": answers["redshift"].to_numpy("float64"),
            "ZERR": answers["redshift_err"].to_numpy("float64"),
            "ZWARN": answers["redshift_warning"].to_numpy("int64"),
            "NPIXELS": answers["n_good"].to_numpy("int64"),
            "SPECTYPE": answers["spectype"].to_numpy().astype("S6"),
            "SUBTYPE": answers["subtype"].to_numpy().astype("S20"),
            "DELTACHI2": answers["delta_chi2"].to_numpy("float64"),
        },
        meta={"EXTNAME": "REDSHIFTS"},
    )
    file = io.BytesIO()
    table.write(file, format="fits")
    write_whole(path, file.getvalue())


def _delta_to_other_redshift(found, delta):
    """Difference of scores to the best hypothesis at another redshift; two classes at one redshift agree about it."""
    apart = velocity_between(found["redshift"], found["redshift"][:, :1]) >= SAME_VELOCITY
    return np.where(apart & np.isfinite(delta), delta, np.inf).min(axis=1)


def _disagreement(found, opinions):
    """Return DISAGREES where the network is sure of another redshift; at the same one, class is a matter of degree."""
    apart = velocity_between(found["redshift"][:, 0], opinions["redshift_network"]) > _ELSEWHERE
    return np.where(apart & (opinions["probability_network"] > _SURE), DISAGREES, 0)


def _warnings(found, is_small, is_target, coverage):
    bits = np.zeros(len(is_small), "int64")
    no_data = found["n_good"][:, 0] == 0
    no_answer = ~np.isfinite(found["chi2"][:, 0])
    for bit, where in (
        (SKY, ~is_target),
        (LITTLE_COVERAGE, coverage < _COVERAGE_MIN),
        (SMALL_DELTA_CHI2, is_small),
        (NEGATIVE_MODEL, found["is_negative"][:, 0]),
        (AT_LIMIT, found["is_at_edge"][:, 0]),
        (NO_DATA | NO_REDSHIFT, no_data),
        (NO_REDSHIFT, no_answer),
        (BAD_MINIMUM, ~found["is_minimum"][:, 0] & ~no_answer),
        (POOR_DATA, found["is_poor"][:, 0]),
    ):
        bits[where] |= bit
    return bits
