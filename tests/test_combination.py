"""What single scores add up to: evidence by its place is subtracted, and what ordinary spectra have is not."""

import numpy as np
import pandas as pd

from astrolab.anomaly.artefacts import ARTEFACT_SCORES
from astrolab.anomaly.combination import SCORES, science_score, strangeness
from astrolab.anomaly.faults import FAULT_COLUMNS


def test_evidence_by_its_place_is_subtracted():
    table = pd.DataFrame(0.0, index=range(3), columns=FAULT_COLUMNS)  # no fault
    single = np.zeros((3, len(SCORES) + len(ARTEFACT_SCORES)))
    single[:, SCORES.index("score_trough")] = 4
    places = np.zeros((3, 5))
    places[1:, 4] = 0.5, 2.5
    np.testing.assert_allclose(science_score(table, single, places), [4, 4, 4 - 1.25 * 2])
    np.testing.assert_allclose(strangeness(single), 4)
