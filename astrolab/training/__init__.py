"""Training: what a model learns from, and one loop for every model."""

from astrolab.training.loop import fit
from astrolab.training.sample import load_training, split_spectra

__all__ = ["fit", "load_training", "split_spectra"]
