"""What the network and the absorption troughs add to the scan: seeds, scores, and refitted hypotheses."""

import numpy as np

from astrolab.redshift.network import BIN, COLUMNS, N_REDSHIFT, probability_near
from astrolab.redshift.refine import CHI2, REDSHIFT
from astrolab.redshift.troughs import quasar_set, refit_quasar

# a hypothesis's score is its χ² less this for each nat of the network's log-probability; measured on spectra that
# neither the network nor the templates were made from: see `astrolab.redshift.classify.class_probability`
NETWORK_WEIGHT = 8.0
# more where the network sees a quasar with broad absorption: χ² of templates that know no troughs means less there
ABSORBED_WEIGHT = 32.0
PROBABILITY_FLOOR = 1e-4  # the network is never surer than that: it may be fooled
_SEED_MIN = 0.05  # of the network's probability of class and redshift, to look there
_SEED_REACH = 1.5 * BIN  # of ln(1 + redshift) about the network's redshift
# of the network's probability of broad absorption, to leave troughs out; the less where a set of absorbed quasars fits
_BAL_MIN, _BAL_MIN_OF_SET = 0.3, 0.02
_N_REFITS = 4  # quasar hypotheses of one object
_REDSHIFT_MIN = 0.9  # nearer than that no trough of a common line is in range


def network_seeds(judgement):
    """Return the redshifts at which the network sees a quasar, and a galaxy, where it is worth a look.

    Parameters
    ----------
    judgement : numpy.ndarray, shape (n_object, 9)
        As `astrolab.redshift.network.judge_spectra` gives it.

    Returns
    -------
    dict of str to numpy.ndarray, shape (n_object,)
        Redshift as "QSO" and as "GALAXY"; NaN where it is improbable.
    """
    column = dict(zip(COLUMNS, judgement.T, strict=True))
    return {
        name: np.where(column[f"p_{key}"] * column[f"p_bin_{key}"] > _SEED_MIN, column[f"redshift_{key}"], np.nan)
        for name, key in (("QSO", "qso"), ("GALAXY", "galaxy"))
    }


def seeded_minima(gain, redshift, seed):
    """Return the best place of a scan near each seed.

    Parameters
    ----------
    gain : numpy.ndarray, shape (n_object, n_redshift)
        As `astrolab.redshift.scan.scan_batch` gives it.
    redshift : numpy.ndarray, shape (n_redshift,)
        Of the plan.
    seed : numpy.ndarray, shape (n_object,)
        NaN for none.

    Returns
    -------
    redshift, gain : numpy.ndarray, shape (n_object,)
        NaN and -inf where the seed is out of the plan's range.
    """
    out = np.full(len(seed), np.nan), np.full(len(seed), -np.inf)
    log_tried = np.log1p(redshift)
    for i in np.flatnonzero(np.isfinite(seed)):
        near = np.flatnonzero(np.abs(log_tried - np.log1p(seed[i])) < _SEED_REACH)
        if near.size:
            best = near[np.argmax(gain[i, near])]
            out[0][i], out[1][i] = redshift[best], gain[i, best]
    return out


def score_of(chi2, judgement, log_probability, spectype, redshift):
    """Return χ² less what the network says for each hypothesis.

    Parameters
    ----------
    chi2 : numpy.ndarray, shape (n_object, n_hypothesis)
        -2 ln evidence.
    judgement : numpy.ndarray, shape (n_object, 9)
        As `astrolab.redshift.network.judge_spectra` gives it.
    log_probability : numpy.ndarray, shape (n_object, 2 N_REDSHIFT + 2), or None
        As `judge_spectra` gives it; None without a network.
    spectype, redshift : numpy.ndarray, shape (n_object, n_hypothesis)
        Of the hypotheses; '' is a spectrum that says nothing.

    Returns
    -------
    numpy.ndarray, shape (n_object, n_hypothesis)
        Smaller is better.
    """
    if log_probability is None:
        return chi2
    if log_probability.shape[1] != 2 * N_REDSHIFT + 2:
        raise ValueError(f"the network has {log_probability.shape[1]} cells, expected {2 * N_REDSHIFT + 2}.")
    probability = probability_near(log_probability, spectype, redshift)
    column = dict(zip(COLUMNS, judgement.T, strict=True))
    weight = NETWORK_WEIGHT + ABSORBED_WEIGHT * column["p_qso"] * column["p_bal"]
    return chi2 - weight[:, None] * np.log(np.maximum(probability, PROBABILITY_FLOOR))


def refit_absorbed(flux, weight, log_wavelength, templates, quasars, p_bal, is_bal_set):
    """Fit the quasar hypotheses of one object again with broad absorption left out, if there seems to be any.

    Parameters
    ----------
    flux, weight : numpy.ndarray, shape (n_wavelength,), float32
        One spectrum, as `clean_spectra` gives it.
    log_wavelength : numpy.ndarray, shape (n_wavelength,)
        log10 of the observed wavelengths in Å.
    templates : sequence of TemplateSet
        All sets.
    quasars : numpy.ndarray, shape (n,)
        Redshifts of the quasar hypotheses, best first.
    p_bal : float
        The network's probability of broad absorption; NaN without a network.
    is_bal_set : bool
        Whether a set of absorbed quasars fits best.

    Returns
    -------
    list of tuple
        Number of the set, and the fit as `refine_minima` gives it.
    """
    if not p_bal > (_BAL_MIN_OF_SET if is_bal_set else _BAL_MIN):
        return []
    fits = []
    for redshift in quasars[:_N_REFITS]:
        fit = refit_quasar(flux, weight, log_wavelength, templates, redshift) if redshift > _REDSHIFT_MIN else None
        if fit is not None and np.isfinite(fit[CHI2]):
            one = quasar_set(templates, fit[REDSHIFT])
            if one is not None:
                fits.append((templates.index(one), fit))
    return fits
