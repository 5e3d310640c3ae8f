"""Classes and redshifts of real spectra by an engine of which no part has seen them.

The scanned templates come from the simulator and have seen no real spectrum. The sets that settle redshifts of quasars
are learned again without the objects judged, in five folds. The shipped network has seen half of the objects; those are
judged by its twin, of the same making, which has seen the other half alone and ships beside this file:
``python -m benchmarks.redshift_held_out FOLDER_OF_LABELLED_SPECTRA`` trains it again (about 15 minutes of one core).
"""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

import astrolab as al
from astrolab.models.files import model_from_bytes
from astrolab.redshift.build import build_quasar_templates, labelled_spectra
from astrolab.redshift.network import classifier_card, open_classifier
from astrolab.redshift.train_classifier import _N_SIMULATED, _N_VALIDATION, calibrate, figures, train_classifier
from astrolab.redshift.training_spectra import part_of, real_spectra, simulated_training_spectra

_TWIN = Path(__file__).with_name("redshift_twin.safetensors")


def held_out_answers(folder, spectra, truth):
    """Answers of `classify_spectra`, in the order of the spectra, by parts that have not seen the object judged."""
    table, flux, ivar = labelled_spectra(folder, "QSO")
    redshift, group = table["truth_z"].to_numpy(), truth["object_group"].to_numpy()
    twin = model_from_bytes(("SpectrumClassifier", classifier_card()["config"]), _TWIN.read_bytes())
    is_seen = part_of(group) != "held out"
    parts = []
    for fold in range(5):
        kept = (table["object_group"] % 5 != fold).to_numpy()
        settling = tuple(build_quasar_templates(flux[kept], ivar[kept], redshift[kept]))
        for seen, network in ((False, open_classifier()), (True, twin)):
            rows = np.flatnonzero((group % 5 == fold) & (is_seen == seen))
            with (
                patch("astrolab.redshift.network.open_classifier", return_value=network),
                patch("astrolab.redshift.settle.open_quasar_templates", return_value=settling),
            ):
                parts.append(al.classify_spectra(spectra.isel(object=rows)).set_index(rows))
    return pd.concat(parts).sort_index()


def main():
    """Train the twin, calibrate it, and print its figures."""
    torch.set_num_threads(1)
    simulated = simulated_training_spectra(_N_SIMULATED, seed=1)
    validation = simulated_training_spectra(_N_VALIDATION, seed=2)
    real = {part: real_spectra(sys.argv[1], part, of_twin=True) for part in ("training", "calibration", "held out")}
    model = train_classifier(simulated, real["training"], 2000)
    calibrate(model, validation, real["calibration"])
    _TWIN.write_bytes(save({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}))
    print(json.dumps({"simulated": figures(model, validation), "held out": figures(model, real["held out"])}, indent=2))


if __name__ == "__main__":
    main()
