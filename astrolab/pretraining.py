"""The model that ships with AstroLab: how it is made.

``python -m astrolab.pretraining TEMPLATES_DIR OUT_DIR`` makes it again: simulated quasars of Redrock's template shapes,
in the rest frame of the template rank_anomalies, and `fit`.
"""

import argparse

import numpy as np
import xarray as xr

from astrolab.models.files import save_model
from astrolab.models.vae import VAE
from astrolab.schema import OBJECT
from astrolab.simulation.survey import simulate_survey
from astrolab.spectra import normalize_flux, rest_grid, to_restframe
from astrolab.training import fit

GRID = (1000.0, 7500.0, 1500)
_SIZE = {"n_latent": 8, "n_hidden": 128}
_SEEDS = (11, 12, 13)
_N_FIBRES = 4_000
_REDSHIFT_MIN = 0.02


def pretrain_vae(templates_path, *, n_fibres=_N_FIBRES, seeds=_SEEDS, n_epochs=60, grid=GRID, progress=True):
    """Train a VAE on simulated quasars alone.

    Parameters
    ----------
    templates_path : path-like
        Folder of Redrock template files, from which quasars are drawn.
    n_fibres : int, optional
        Fibres of each simulated survey; nine in ten see a quasar.
    seeds : sequence of int, optional
        One survey each.
    n_epochs : int, optional
        Passes over the spectra.
    grid : tuple, optional
        Arguments of `rest_grid`.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    model : VAE
        Trained.
    card : dict
        What it was trained on and how well: for `save_model`.
    """
    wavelength = rest_grid(*grid)
    spectra = xr.concat(
        [_quasars(templates_path, n_fibres, seed, wavelength) for seed in seeds], dim=OBJECT, combine_attrs="drop"
    )
    # the simulator gives the same ids in every survey
    spectra = spectra.assign_coords(targetid=(OBJECT, np.arange(1, 1 + spectra.sizes[OBJECT])))
    model = VAE(n_wavelength=len(wavelength), **_SIZE)
    history = fit(model, spectra, n_epochs=n_epochs, device="cpu", progress=progress)
    card = {
        "wavelength_rest": wavelength.tolist(),
        "trained_on": "simulated quasars without rare objects (astrolab.simulate_survey, templates of Redrock), "
        f"redshift above {_REDSHIFT_MIN}, DESI's noise",
        "n_objects": spectra.sizes[OBJECT],
        "redshifts": np.percentile(spectra["redshift"], [5, 50, 95]).round(2).tolist(),
        "seeds": list(seeds),
        "n_epochs": len(history),
        "loss_valid": float(history["loss_valid"].min()),
        "use": "a warm start: fit(model, spectra, learning_rate=3e-4) on the survey itself before anything is ranked",
        "limits": "it has seen no real spectrum, none below redshift 0.02 and few above 4; by itself it supports no "
        "claim about the sky. Figures of rankings that start from it: benchmarks/ranking/NOTES.md",
    }
    return model, card


def _quasars(templates_path, n_fibres, seed, wavelength):
    survey = simulate_survey(n_fibres, seed=seed, rare_fraction=0.0, templates_path=templates_path)
    redshift = survey["redshift"].values
    chosen = (survey["truth_spectype"].values == "QSO") & np.isfinite(redshift) & (redshift > _REDSHIFT_MIN)
    rest = to_restframe(survey.isel({OBJECT: np.flatnonzero(chosen)}), wavelength)
    return normalize_flux(rest).compute()


def main(arguments=None):
    """Make the model and save it; the command line of this module.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of this process's.
    """
    parser = argparse.ArgumentParser(prog="python -m astrolab.pretraining", description=__doc__)
    parser.add_argument("templates_path", help="folder of Redrock template files")
    parser.add_argument("out_dir", help="folder to write weights.safetensors and model.json into")
    options = parser.parse_args(arguments)
    model, card = pretrain_vae(options.templates_path)
    save_model(model.half(), options.out_dir, **card)


if __name__ == "__main__":
    main()
