"""What single scores add up to: a dip takes the trough that it is, and no other; what is known by its place counts."""

import numpy as np
import pandas as pd

from astrolab.anomaly.artefacts import ARTEFACT_SCORES
from astrolab.anomaly.combination import SCORES, science_score, strangeness


def table_of(n, **columns):
    """Return raw scores of two models without a fault; a dip of 5 sigma at 5,200 Å, which leaves a stronger feature."""
    plain = {"fault_power": 0.0, "fault_left": 0.0, "fault_gain": 0.0, "dip_power": 5.0, "dip_left": 12.0}
    plain |= {"dip_at": 5200.0, "redshift": 1.0, "0.trough_at_8": 2600.0, "1.trough_at_8": 2600.0}
    return pd.DataFrame(plain | columns, index=range(n))


def single_of(n, **scores):
    """Return single scores, all 0 but for those given."""
    single = np.zeros((n, len(SCORES) + len(ARTEFACT_SCORES)))
    for name, value in scores.items():
        single[:, SCORES.index(name)] = value
    return single


def test_a_trough_that_is_a_dip_is_taken_whole_and_one_elsewhere_is_not():
    places = np.array([5200, 5230, 5300, 4000]) / 2
    table = table_of(4, **{"0.trough_at_8": places, "1.trough_at_8": places})
    score = science_score(table, single_of(4, score_trough=4.0, score_chi2=3.0, score_lines=2.0), np.zeros((4, 5)))
    np.testing.assert_allclose(score, [2, 2, np.sqrt(29), np.sqrt(29)])


def test_models_that_see_the_trough_elsewhere_keep_their_part_of_it():
    table = table_of(1, **{"1.trough_at_8": 2000.0})
    score = science_score(table, single_of(1, score_trough=4.0), np.zeros((1, 5)))
    np.testing.assert_allclose(score, [2.0])


def test_a_dip_that_is_none_takes_nothing():
    power = np.array([2.9, 3.0, 3.5, 4.0])
    table = table_of(4, dip_power=power, dip_left=power)
    score = science_score(table, single_of(4, score_trough=4.0), np.zeros((4, 5)))
    assert score[0] == score[1] == 4
    assert 4 > score[2] > score[3]  # no object jumps
    assert strangeness(single_of(1, score_trough=4.0)) == 4


def test_evidence_by_its_place_is_subtracted():
    places = np.zeros((2, 5))
    places[1, 4] = 2.5
    score = science_score(table_of(2, dip_power=0.0), single_of(2, score_trough=4.0), places)
    np.testing.assert_allclose(score, [4, 4 - 1.25 * 2])
