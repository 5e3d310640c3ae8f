"""What single scores add up to: how strange an object is, and how much of that an artefact explains."""

import numpy as np

from astrolab.anomaly.classes import class_score
from astrolab.anomaly.fault_search import IS_FAULT

# those that peers calibrate, then the one that is absolute
PEER_SCORES = ("score_chi2", "score_trough", "score_lines", "score_continuum", "score_latent")
SCORES = (*PEER_SCORES, "score_class")

# evidence of observed pixels, in sigma beyond what noise and an ordinary night leave, the same in every survey
PIXEL_SCORES = ("artefact_cosmic_ray", "artefact_sky")
_SHARP = 5.0  # sigma: no noise of some thousand pixels is that sharp
# residuals on airglow lines whose squares are 2.2 times those beside them; every tenth more counts as one sigma
_SHINING, _PER_SIGMA = np.log(2.2), 0.1
_MOST = 20.0

# what an artefact may explain is taken off: the evidence beyond what every third ordinary object has
_ARTEFACT_FREE, _ARTEFACT_WEIGHT = 0.5, 1.25
# from here on it is no longer a question what a feature is, and however high a spike stands it is taken off whole
_ARTEFACT_SURE = 5.0
# what noise alone leaves as the strongest of all features, sigma
_NOISE_LEFT = 1.5


def strangeness(single):
    """Combine the single scores of objects: the length of what is above the peers.

    Parameters
    ----------
    single : numpy.ndarray, shape (object, n_score)
        ``SCORES`` and whatever follows.

    Returns
    -------
    numpy.ndarray, shape (object,)
        Nothing is taken off.
    """
    by_peers, of_class, _ = np.split(single, [len(PEER_SCORES), len(SCORES)], axis=1)
    # where nothing else explains an object, its peers alone say how ordinary it is
    return length(np.concatenate([by_peers, np.where(of_class > 0, of_class, -np.inf)], axis=1))


def science_score(table, single, shared):
    """Say how strange objects are beyond what artefacts explain.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``FAULT_COLUMNS`` and ``PIXEL_COLUMNS``.
    single : numpy.ndarray, shape (object, n_score)
        ``SCORES`` and ``ARTEFACT_SCORES``.
    shared : numpy.ndarray, shape (object, n_shared)
        ``SHARED_SCORES``.

    Returns
    -------
    numpy.ndarray, shape (object,)
        A fault, or a dip where nothing absorbs, takes its share of what is above the peers, and a fault all that
        another class explains no better than it does; other evidence of artefacts is subtracted.
    """
    share = np.maximum(_explained_share(table, "fault"), _explained_share(table, "dip"))
    gain = np.where(table["fault_power"] > table["fault_left"], class_score(table["fault_gain"], 0), 0)
    left = single.copy()
    by_peers, of_class = left[:, : len(PEER_SCORES)], left[:, SCORES.index("score_class")]
    by_peers *= np.where(by_peers > 0, 1 - share[:, None], 1)
    of_class -= gain
    evidence = length(np.concatenate([single[:, len(SCORES) :], shared, pixel_scores(table)], axis=1))
    doubt, certainty = (np.maximum(evidence - limit, 0) for limit in (_ARTEFACT_FREE, _ARTEFACT_SURE))
    return strangeness(left) - _ARTEFACT_WEIGHT * doubt - 0.5 * certainty**2


def pixel_scores(table):
    """Say how far observed pixels go beyond what noise and an ordinary night leave.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``PIXEL_COLUMNS``.

    Returns
    -------
    numpy.ndarray, shape (object, 2)
        ``PIXEL_SCORES``, from 0 to 20 sigma.
    """
    spike, airglow = (table[name].to_numpy("float64") for name in ("pixel_spike", "pixel_airglow"))
    return np.clip(np.column_stack([spike - _SHARP, (airglow - _SHINING) / _PER_SIGMA]), 0, _MOST)


def fault_score(table):
    """Say by how many sigma a fault stands above all that is left without it.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``fault_power`` and ``fault_left``.

    Returns
    -------
    numpy.ndarray, shape (object,)
        Not below 0.
    """
    power, left = (table[f"fault_{what}"].to_numpy("float64") for what in ("power", "left"))
    return np.where(power > IS_FAULT, np.maximum(power - left, 0), 0)


def length(scores):
    """Return the length of what is above 0 in each row; where nothing is, the largest."""
    lengths = np.sqrt((np.maximum(scores, 0) ** 2).sum(axis=1))
    return np.where(lengths > 0, lengths, scores.max(axis=1))


def _explained_share(table, kind):
    """Return the share of a score that goes with a fault, in what its removal leaves of the strongest feature."""
    power, left = (table[f"{kind}_{what}"].to_numpy("float64") for what in ("power", "left"))
    left = np.maximum(left - _NOISE_LEFT, 0)
    share = np.sqrt(np.clip(1 - (left / np.maximum(power, 1e-3)) ** 2, 0, 1))
    return share * np.clip(power - IS_FAULT, 0, 1)  # whole a sigma later: no object jumps
