"""What it costs that nothing is lost: ``python -m benchmarks.resume``.

Training with a checkpoint every few seconds beside training without, and scoring with every chunk sealed in a file
beside scoring without, in the same run.
"""

import os
import shutil
import tempfile
from pathlib import Path

import psutil

import astrolab as al
from astrolab.anomaly.scores import raw_scores
from benchmarks.survey import save_repeated
from benchmarks.timing import best_of_each, print_measured
from benchmarks.train import N_WAVELENGTH, resident_spectra


def main():
    """Print the overheads."""
    print_measured(measure, "{n_objects:,} spectra", n_objects=8192, n_epochs=8)


def measure(n_objects, n_epochs=8):
    """Return overheads: 0.05 is 5 %.

    Parameters
    ----------
    n_objects : int
        Spectra to train on and to score.
    n_epochs : int, optional
        Passes over them.

    Returns
    -------
    dict
        Name to number.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        spent = best_of_each(_training_tasks(root, n_objects, n_epochs)) | _time_scoring(root, n_objects)
    figures = {}
    for what in ("training", "scoring"):
        kept, lost = spent[f"{what}, kept"], spent[f"{what}, not kept"]
        figures[f"overhead of keeping, {what}"] = kept.wall / lost.wall - 1
        figures[f"overhead of keeping, {what}, in processor time"] = kept.processor / lost.processor - 1
        figures[f"{what} without keeping, s"] = lost.wall
    return figures


def _training_tasks(root, n_objects, n_epochs):
    rest = resident_spectra(n_objects)

    def train(checkpoint_path=None):
        if checkpoint_path is not None:
            checkpoint_path.unlink(missing_ok=True)
        model = al.VAE(n_wavelength=N_WAVELENGTH)
        al.fit(model, rest, n_epochs=n_epochs, checkpoint_path=checkpoint_path, progress=False)

    return {"training, not kept": train, "training, kept": lambda: train(root / "training.chunk")}


def _time_scoring(root, n_objects):
    spectra = save_repeated(root / "spectra.zarr", n_objects)
    rest = al.normalize_flux(al.to_restframe(spectra, al.rest_grid(1000, 7500, N_WAVELENGTH)))
    model = al.VAE(n_wavelength=N_WAVELENGTH)

    def score(chunks_dir=None):
        if chunks_dir is not None:
            shutil.rmtree(chunks_dir, ignore_errors=True)
        raw_scores(model, rest, chunks_dir=chunks_dir)

    with al.start_cluster("cpu", n_workers=2) as client:
        score()
        processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        tasks = {"scoring, not kept": score, "scoring, kept": lambda: score(root / "chunks")}
        return best_of_each(tasks, processes)


if __name__ == "__main__":
    main()
