"""How uncertain a redshift is: intervals, a probability density, and a bootstrap over pixels."""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from astrolab.lines import SPEED_OF_LIGHT
from astrolab.redshift.classify import TEMPERATURE, TEMPERATURE_NETWORK
from astrolab.redshift.refine import REDSHIFT, refine_minima
from astrolab.redshift.scan import clean_spectra, plan_scan
from astrolab.redshift.settle import settling_sets
from astrolab.redshift.templates import open_templates
from astrolab.redshift.troughs import quasar_set
from astrolab.schema import WAVELENGTH

# what redshifts scatter about the truth by, in km/s: Student's t of (factor of redshift_err, floor added in quadrature,
# degrees of freedom). The templates are not the objects: broad lines of quasars shift by hundreds of km/s of their own,
# and far quasars show nothing else. Most likely values for 2354 simulated spectra; `python -m benchmarks.redshift`
# prints the coverage on others, and on real quasars.
SCATTER = {"QSO": (0.98, 20.0, 2.7), "GALAXY": (1.06, 0.0, 2.5), "STAR": (0.81, 0.0, 2.9)}
_FAR, _FAR_SCATTER = 1.1, (0.89, 183.0, 4.2)  # of quasars beyond that redshift


def redshift_intervals(answers, level=0.68):
    """Return the interval of each redshift that holds the truth with a given probability, if the class is right.

    Parameters
    ----------
    answers : pandas.DataFrame
        As `classify_spectra` gives it: spectype, redshift, redshift_err.
    level : float, optional
        Probability, between 0 and 1.

    Returns
    -------
    low, high : numpy.ndarray, shape (n_object,)
        Redshifts; NaN without a redshift or its error. `redshift_err` is widened by what simulated spectra scatter
        beyond their noise (`SCATTER`), with heavier tails than a Gaussian's. Wrong minima of χ² are not in it: see
        `redshift_pdf`.

    Raises
    ------
    ValueError
        If the level is no probability.

    Examples
    --------
    >>> one = pd.DataFrame({"spectype": ["QSO"], "redshift": [2.0], "redshift_err": [1e-4]})
    >>> low, high = redshift_intervals(one)
    >>> bool(low[0] < 1.9999 and high[0] > 2.0001)
    True
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a probability between 0 and 1: level=0.68.")
    redshift = answers["redshift"].to_numpy("float64")
    scale, freedom = _scatter(answers["spectype"].to_numpy(), redshift, answers["redshift_err"].to_numpy("float64"))
    half = scale * student.ppf(0.5 + level / 2, freedom)
    return redshift - half, redshift + half


def redshift_pdf(hypotheses, redshift=None):
    """Return the probability density of the redshift of one object, from the minima of its χ².

    Every hypothesis is one peak: as heavy as its score says (see `classify_spectra` for the temperature), and
    as wide as its χ² curve and the scatter of simulated spectra say.

    Parameters
    ----------
    hypotheses : pandas.DataFrame
        Rows of one object, from `scan_redshifts`.
    redshift : array_like, shape (n,), optional
        Where; by default a grid that is fine about every peak.

    Returns
    -------
    pandas.DataFrame
        redshift; density, per unit redshift, over all; and density_QSO, density_GALAXY, density_STAR.

    Raises
    ------
    ValueError
        If there are rows of more than one object.

    Examples
    --------
    >>> import astrolab as al
    >>> pdf = redshift_pdf(al.scan_redshifts(al.simulate_survey(1, seed=3)))
    >>> bool(0.9 < np.trapezoid(pdf["density"], pdf["redshift"]) < 1.05)
    True
    """
    n_objects = hypotheses["targetid"].nunique()
    if n_objects > 1:
        raise ValueError(f"the hypotheses are of {n_objects} objects, expected one: hypotheses[targetid == …].")
    own = hypotheses[np.isfinite(hypotheses["chi2"]) & np.isfinite(hypotheses["redshift_err"])]
    centre, score = own["redshift"].to_numpy(), own["score"].to_numpy()
    spectype = own["spectype"].to_numpy()
    scale, freedom = _scatter(spectype, centre, own["redshift_err"].to_numpy())
    temperature = TEMPERATURE_NETWORK if "p_qso" in own and own["p_qso"].notna().any() else TEMPERATURE
    weight = np.exp(-0.5 / temperature * (score - score.min(initial=np.inf))) if len(own) else score
    weight = weight / max(weight.sum(), 1e-300)
    if redshift is None:
        steps = np.concatenate([-np.geomspace(1e3, 1e-2, 200), [0], np.geomspace(1e-2, 1e3, 200)])
        redshift = np.unique(np.clip((centre[:, None] + scale[:, None] * steps).ravel(), -0.02, 8))
    redshift = np.asarray(redshift, "float64")
    peaks = student.pdf((redshift[:, None] - centre) / scale, freedom) / scale * weight
    table = {"redshift": redshift, "density": peaks.sum(axis=1)}
    return pd.DataFrame(table | {f"density_{name}": peaks[:, spectype == name].sum(axis=1) for name in SCATTER})


def bootstrap_redshift(spectrum, spectype, subtype, redshift, *, n_draws=100, seed=0, templates=None):
    """Draw redshifts of one spectrum by a bootstrap over its pixels.

    Each draw gives every good pixel a random weight (Poisson, mean 1) and refines the minimum again: what scatters is
    the noise as it is, stated or not, and what single pixels of bad templates do.

    Parameters
    ----------
    spectrum : xarray.Dataset
        One object (``spectra.isel(object=[i])``), observed frame; pixels with ``ivar == 0`` do not count.
    spectype, subtype : str
        The template set, as in the answer.
    redshift : float
        The answer.
    n_draws, seed : int, optional
        How many, and of which random numbers.
    templates : sequence of TemplateSet, optional
        AstroLab's own by default.

    Returns
    -------
    numpy.ndarray, shape (n_draws,)
        Redshifts; their standard deviation is the error.

    Raises
    ------
    ValueError
        If there is no such template set.

    Examples
    --------
    >>> import astrolab as al
    >>> spectrum = al.simulate_survey(1, seed=3, rare_fraction=0)
    >>> answer = al.classify_spectra(spectrum).iloc[0]
    >>> draws = al.bootstrap_redshift(spectrum, answer["spectype"], answer["subtype"], answer["redshift"], n_draws=2)
    >>> bool(abs(draws - answer["redshift"]).max() < 0.01)
    True
    """
    templates = open_templates() if templates is None else templates
    sets = {(one.spectype, one.subtype): one for one in templates}
    if (spectype, subtype) not in sets:
        names = ", ".join(f"{a} {b}".strip() for a, b in sets if a)
        raise ValueError(f"there is no template set '{spectype} {subtype}', expected one of: {names}.")
    settled = quasar_set(settling_sets(templates), redshift) if spectype == "QSO" else None
    one = sets[spectype, subtype] if settled is None else settled
    wavelength = np.asarray(spectrum[WAVELENGTH].values, "float64")
    flux, weight, _ = clean_spectra(*(np.atleast_2d(spectrum[name].values) for name in ("flux", "ivar")), wavelength)
    count = np.random.default_rng(seed).poisson(1.0, (n_draws, weight.shape[1]))
    limits = plan_scan(one, wavelength).redshift[[-1, 0]]
    copies = np.repeat(flux, n_draws, axis=0), (weight * count).astype("float32")
    return refine_minima(*copies, np.log10(wavelength), one, np.full(n_draws, float(redshift)), limits)[:, REDSHIFT]


def _scatter(spectype, redshift, redshift_err):
    """Scale (in redshift) and degrees of freedom of Student's t for each redshift."""
    own = np.array([SCATTER.get(name, (np.nan, np.nan, 1.0)) for name in spectype]).reshape(-1, 3)
    own[(np.asarray(spectype) == "QSO") & (redshift > _FAR)] = _FAR_SCATTER
    factor, floor, freedom = own.T
    return np.hypot(factor * redshift_err, floor / SPEED_OF_LIGHT * (1 + redshift)), freedom
