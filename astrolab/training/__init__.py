"""Training: what a model learns from, one loop for every model, and several models at the same time."""

from astrolab.training.ensemble import fit_models
from astrolab.training.loop import fit
from astrolab.training.sample import load_training, split_spectra

__all__ = ["fit", "fit_models", "load_training", "split_spectra"]
