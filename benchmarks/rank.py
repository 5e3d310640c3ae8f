"""How fast a store becomes scores, beside what the machine allows: ``python -m benchmarks.rank``.

On simulated DESI-like spectra (7781 pixels) it times, on the same Dask workers and one after the other: reading and
decompressing every chunk and nothing else; the networks on resident arrays and nothing else (together: the limit); the
matrix products of the networks alone; the way store → rest frame → networks → scores; and the whole way to the ranking,
which is calibrated, ordered and put into words in one process (a part of that does not grow with the survey: some ten
seconds with five models). Then what a user would write instead, in one process a worker. Ratios are results; times
belong to this machine.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil

import astrolab as al
from astrolab.anomaly.scores import raw_scores
from astrolab.models.files import model_from_bytes, model_to_bytes
from benchmarks.survey import save_repeated
from benchmarks.timing import PeakMemory, best_of_each, print_figures

N_WAVELENGTH = 1500
CHUNK = 1024
N_ALTERNATIVE = 2000
SPENDER = 24  # spectra/s on a machine like this one, encode and decode (13.5 M parameters): measured apart


def main():
    """Print the rates as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-objects", type=int, nargs="+", default=[8192], help="sizes, such as 10000 30000 100000")
    parser.add_argument("--n-workers", type=int, default=2)
    parser.add_argument("--n-models", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # each size in a process of its own, so that none finds the memory of another
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        figures = {n: pool.submit(measure, n, options.n_workers, options.n_models).result() for n in options.n_objects}
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for n_objects, some in figures.items():
        print_figures(f"{n_objects:,} simulated spectra, {options.n_workers} workers of one thread", some)
    if len(figures) > 1:
        memory = [some["peak memory of client and workers, MB"] for some in figures.values()]
        print(f"peak memory from the smallest to the largest: × {memory[-1] / memory[0]:.2f}")


def measure(n_objects, n_workers, n_models, n_alternative=N_ALTERNATIVE):
    """Return rates (spectra/s), their ratios, and memory.

    Parameters
    ----------
    n_objects, n_workers : int
        Spectra in the store; Dask workers of one thread each.
    n_models : list of int
        How many models score at once; each number is measured.
    n_alternative : int, optional
        Spectra for the user's alternative.

    Returns
    -------
    dict
        Name to number.
    """
    with tempfile.TemporaryDirectory() as folder:
        spectra = save_repeated(Path(folder) / "spectra.zarr", n_objects)
        some = spectra.isel(object=slice(n_alternative)).compute()
        tasks = {"alternative": lambda: _write_it_yourself(some, n_workers)}
        # before there are workers, so that it has the machine for itself; the first round imports and compiles
        alternative = best_of_each(tasks, n_rounds=2)["alternative"]
        with al.start_cluster("cpu", n_workers=n_workers) as client:
            figures = _measure_on(client, spectra, n_models)
    per_spectrum = alternative.processor / some.sizes["object"]
    figures["what a user would write, spectra/s"] = some.sizes["object"] / alternative.wall
    for n in n_models:
        whole = figures[f"store to scores, {n} models, spectra/s"]
        figures[f"times what a user would write, {n} models"] = whole / figures["what a user would write, spectra/s"]
        own = 1e-6 * figures[f"processor time a spectrum, µs, {n} models"]
        figures[f"the same in processor time, {n} models"] = per_spectrum / own
        figures[f"times spender's rate ({SPENDER}/s, measured apart), {n} models"] = whole / SPENDER
    return figures


def _measure_on(client, spectra, n_models):
    n_objects = spectra.sizes["object"]
    rest = al.normalize_flux(al.to_restframe(spectra, al.rest_grid(1000, 7500, N_WAVELENGTH)))
    models = [al.VAE(n_wavelength=N_WAVELENGTH) for _ in range(max(n_models))]
    # compile, import and fill the page cache before timing
    raw_scores(models, rest.isel(object=slice(0, 2 * CHUNK)))
    tasks = {"reading alone": lambda: _read(spectra)}
    for n in n_models:
        tasks |= {
            f"networks alone, {n} models": lambda n=n: _network(client, models[:n], n_objects, _evaluate),
            f"matrix products alone, {n} models": lambda n=n: _network(client, models[:n], n_objects, _multiply),
            f"store to scores, {n} models": lambda n=n: raw_scores(models[:n], rest),
            f"store to ranking, {n} models": lambda n=n: al.score_anomalies(models[:n], rest),
        }
    processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    spent = best_of_each(tasks, processes)
    figures = {f"{name}, spectra/s": n_objects / one.wall for name, one in spent.items()}
    with PeakMemory([psutil.Process(), *processes]) as memory:
        al.score_anomalies(models, rest)
    for n in n_models:
        read, whole = spent["reading alone"], spent[f"store to scores, {n} models"]
        for what in ("networks", "matrix products"):
            alone = spent[f"{what} alone, {n} models"]
            figures[f"share of the limit (reading + {what}), {n} models"] = (read.wall + alone.wall) / whole.wall
            figures[f"the same in processor time (reading + {what}), {n} models"] = (
                read.processor + alone.processor
            ) / whole.processor
        ranking = spent[f"store to ranking, {n} models"]
        figures[f"the same of store to ranking (reading + matrix products), {n} models"] = (
            read.wall + alone.wall
        ) / ranking.wall
        for name, one in (("scores", whole), ("ranking", ranking)):
            figures[f"1.6 million to {name} at this rate, minutes (an extrapolation), {n} models"] = (
                1.6e6 * one.wall / n_objects / 60
            )
        figures[f"processor time a spectrum, µs, {n} models"] = 1e6 * whole.processor / n_objects
    return figures | {"peak memory of client and workers, MB": memory.megabytes}


def _read(spectra):
    """Read every chunk on the workers; only one number a chunk comes back."""
    (spectra["flux"].data[:, 0].sum() + spectra["ivar"].data[:, 0].sum()).compute(optimize_graph=False)


def _network(client, models, n_objects, function):
    """Give each worker its share of the spectra, and the networks once."""
    packed = [model_to_bytes(model) for model in models]
    workers = list(client.scheduler_info()["workers"])
    shares = np.diff(np.linspace(0, n_objects, len(workers) + 1).astype(int))
    parts = [
        client.submit(_put_through, function, packed, int(n_rows), workers=[worker], pure=False)
        for worker, n_rows in zip(workers, shares, strict=True)
    ]
    client.gather(parts)


def _put_through(function, packed, n_rows):
    """Put flat spectra, a chunk at a time, through networks and nothing else."""
    import torch

    torch.set_num_threads(1)
    models = [model_from_bytes(*one).eval() for one in packed]
    flat = torch.ones(CHUNK, 2 * N_WAVELENGTH)
    with torch.inference_mode():
        return sum(function(model, flat[: n_rows - start]) for start in range(0, n_rows, CHUNK) for model in models)


def _evaluate(model, flat):
    flux = flat[:, :N_WAVELENGTH].contiguous()
    return float(model(flux, flux).flux_model[0, 0])


def _multiply(model, flat):
    """Put spectra through the layers alone: matrix products, and what is between them."""
    return float(model.decoder(model.encoder(flat)[:, : model.n_latent])[0, 0])


def _write_it_yourself(spectra, n_processes):
    """Do what a user would write: np.interp one by one, PCA-20 and an isolation forest of scikit-learn."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    grid = al.rest_grid(1000, 7500, N_WAVELENGTH)
    flux, ivar, redshift = spectra["flux"].values, spectra["ivar"].values, spectra["redshift"].values
    rest = np.zeros((len(flux), N_WAVELENGTH))
    for i in range(len(flux)):
        good = ivar[i] > 0
        if good.any() and np.isfinite(redshift[i]):
            wavelength = spectra["wavelength"].values[good] / (1 + redshift[i])
            rest[i] = np.interp(grid, wavelength, flux[i][good], 0, 0)
            rest[i] /= max(abs(np.median(rest[i])), 1e-3)
    features = PCA(20, random_state=0).fit_transform(rest)
    return IsolationForest(random_state=0, n_jobs=n_processes).fit(features).score_samples(features)


if __name__ == "__main__":
    main()
