"""How fast a store becomes scores, beside what the machine allows: ``python -m benchmarks.rank``.

On simulated DESI-like spectra (7781 pixels) it times, on the same Dask workers and one after the other: reading and
decompressing every chunk and nothing else; the networks on resident arrays and nothing else (together: the limit); the
matrix products of the networks alone; the way store → targets → rest frame → networks → χ² and nothing else; that to
all scores, which looks for features, artefacts, faults and other classes too; and the whole way to the ranking,
calibrated, ordered and put into words in one process (a part of that does not grow with the survey: some seconds with
five models). These find the store in memory. Reading and the way to the scores are timed from the disk as well, where
a survey is read that is larger than memory. The networks are those of the survey and the one that ships with AstroLab,
which is asked too. Then what a user would write instead, with as many processors: astropy, np.interp spectrum by
spectrum, PCA and an isolation forest of scikit-learn. Ratios are results; times belong to this machine.
"""

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from astropy.io import fits
from distributed import get_worker

import astrolab as al
from astrolab.anomaly.scores import raw_scores
from astrolab.models.files import model_from_bytes, model_to_bytes
from astrolab.models.pretrained import pretrained_vae
from astrolab.stores.passes import map_chunks, whole_spectra
from benchmarks.survey import drop_from_memory, save_repeated
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
        store = Path(folder) / "spectra.zarr"
        spectra = save_repeated(store, n_objects)
        n_alternative = min(n_alternative, n_objects)
        _write_fits(spectra.isel(object=slice(n_alternative)), Path(folder) / "spectra.fits")
        # before there are workers, so that it has the machine for itself, and where it leaves no memory behind
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            alternative = pool.submit(_time_alternative, Path(folder) / "spectra.fits", n_workers).result()
        with al.start_cluster("cpu", n_workers=n_workers) as client:
            figures = _measure_on(client, spectra, n_models, partial(drop_from_memory, store))
    per_spectrum = alternative.processor / n_alternative
    figures["what a user would write, spectra/s"] = n_alternative / alternative.wall
    for n in n_models:
        whole = figures[f"store to scores, {n} models, spectra/s"]
        figures[f"times what a user would write, {n} models"] = whole / figures["what a user would write, spectra/s"]
        own = 1e-6 * figures[f"processor time a spectrum, µs, {n} models"]
        figures[f"the same in processor time, {n} models"] = per_spectrum / own
        figures[f"times spender's rate ({SPENDER}/s, measured apart), {n} models"] = whole / SPENDER
    return figures


def _measure_on(client, spectra, n_models, drop):
    # as a run begins: what is no target is left out
    selected, _ = al.select_objects(spectra, spectype="any")
    n_objects = selected.sizes["object"]
    rest = al.normalize_flux(al.to_restframe(selected, al.rest_grid(1000, 7500, N_WAVELENGTH)))
    models = [al.VAE(n_wavelength=N_WAVELENGTH, seed=seed) for seed in range(max(n_models))]
    client.run(_keep_networks, [model_to_bytes(model) for model in (*models, pretrained_vae())])
    # compile, import and fill the page cache before timing
    raw_scores(models, rest.isel(object=slice(0, 2 * CHUNK)))
    tasks = {"reading alone": lambda: _read(spectra), "reading alone, from the disk": lambda: _read(spectra)}
    for n in n_models:
        tasks |= {
            f"networks alone, {n} models": lambda n=n: _network(client, n + 1, n_objects, _evaluate),
            f"matrix products alone, {n} models": lambda n=n: _network(client, n + 1, n_objects, _multiply),
            f"store to χ² alone, {n} models": lambda n=n: _chi2(n + 1, rest),
            f"store to scores, {n} models": lambda n=n: raw_scores(models[:n], rest),
            f"store to scores, from the disk, {n} models": lambda n=n: raw_scores(models[:n], rest),
            f"store to ranking, {n} models": lambda n=n: al.score_anomalies(models[:n], rest),
        }
    processes = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
    # the first ranking, as in a run: later ones find what earlier ones left
    with PeakMemory([psutil.Process(), *processes]) as memory:
        al.score_anomalies(models, rest)
    spent = best_of_each(tasks, processes, before={name: drop for name in tasks if "from the disk" in name})
    figures = {f"{name}, spectra/s": n_objects / one.wall for name, one in spent.items()}
    for n in n_models:
        read, whole = spent["reading alone"], spent[f"store to scores, {n} models"]
        for what in ("networks", "matrix products"):
            alone = spent[f"{what} alone, {n} models"]
            figures[f"share of the limit (reading + {what}), {n} models"] = (read.wall + alone.wall) / whole.wall
            figures[f"the same in processor time (reading + {what}), {n} models"] = (
                read.processor + alone.processor
            ) / whole.processor
        ranking, chi2 = spent[f"store to ranking, {n} models"], spent[f"store to χ² alone, {n} models"]
        figures[f"the same of store to χ² alone (reading + matrix products), {n} models"] = (
            read.wall + alone.wall
        ) / chi2.wall
        figures[f"the same of store to ranking (reading + matrix products), {n} models"] = (
            read.wall + alone.wall
        ) / ranking.wall
        from_disk = spent["reading alone, from the disk"].wall + alone.wall
        figures[f"the same of store to scores, from the disk (reading + matrix products), {n} models"] = (
            from_disk / spent[f"store to scores, from the disk, {n} models"].wall
        )
        for name, one in (("scores", whole), ("ranking", ranking)):
            figures[f"1.6 million to {name} at this rate, minutes (an extrapolation), {n} models"] = (
                1.6e6 * one.wall / n_objects / 60
            )
        figures[f"processor time a spectrum, µs, {n} models"] = 1e6 * whole.processor / n_objects
    return figures | {"peak memory of client and workers, MB": memory.megabytes}


def _read(spectra):
    """Read every chunk on the workers; only one number a chunk comes back."""
    (spectra["flux"].data[:, 0].sum() + spectra["ivar"].data[:, 0].sum()).compute(optimize_graph=False)


def _chi2(n_models, rest):
    """Do the least that ranks: rest frame, networks, and the χ² of what each leaves."""
    map_chunks(_chi2_block, *whole_spectra(rest), n_models=n_models, n_columns=n_models)


def _chi2_block(flux, ivar, n_models):
    import torch

    torch.set_num_threads(1)
    columns = []
    with torch.inference_mode():
        for network in get_worker().networks[-n_models:]:
            out = network(torch.from_numpy(flux), torch.from_numpy(ivar))
            residual = flux - out.flux_model.numpy()
            columns.append(np.einsum("ij,ij,ij->i", residual, residual, out.ivar_model.numpy()))
    return np.stack(columns, axis=1)


def _network(client, n_models, n_objects, function):
    """Give each worker its share of the spectra; it has the networks."""
    workers = list(client.scheduler_info()["workers"])
    shares = np.diff(np.linspace(0, n_objects, len(workers) + 1).astype(int))
    parts = [
        client.submit(_put_through, function, n_models, int(n_rows), workers=[worker], pure=False)
        for worker, n_rows in zip(workers, shares, strict=True)
    ]
    client.gather(parts)


def _keep_networks(packed, dask_worker):
    """On a worker: unpack the networks once, not where they are timed."""
    dask_worker.networks = [model_from_bytes(*one).eval() for one in packed]


def _put_through(function, n_models, n_rows):
    """Put flat spectra, a chunk at a time, through networks and nothing else."""
    import torch

    torch.set_num_threads(1)
    networks = get_worker().networks[-n_models:]
    flat = torch.ones(CHUNK, 2 * N_WAVELENGTH)
    with torch.inference_mode():
        return sum(function(one, flat[: n_rows - start]) for start in range(0, n_rows, CHUNK) for one in networks)


def _evaluate(model, flat):
    flux = flat[:, :N_WAVELENGTH].contiguous()
    return float(model(flux, flux).flux_model[0, 0])


def _multiply(model, flat):
    """Put spectra through the layers alone: matrix products, and what is between them."""
    return float(model.decoder(model.encoder(flat)[:, : model.n_latent])[0, 0])


def _write_fits(spectra, path):
    """Write spectra as one plain FITS file: an image of each variable, and a table."""
    images = [fits.ImageHDU(spectra[name].values, name=name) for name in ("flux", "ivar", "wavelength")]
    columns = [fits.Column("redshift", "D", array=spectra["redshift"].values)]
    fits.HDUList([fits.PrimaryHDU(), *images, fits.BinTableHDU.from_columns(columns, name="table")]).writeto(path)


def _time_alternative(path, n_processes):
    # the first round imports and compiles
    return best_of_each({"it": lambda: _write_it_yourself(path, n_processes)}, n_rounds=2)["it"]


def _write_it_yourself(path, n_processes):
    """Do what a user would write: astropy, np.interp one by one, PCA-20 and an isolation forest of scikit-learn."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    grid = al.rest_grid(1000, 7500, N_WAVELENGTH)
    with fits.open(path) as file:
        flux, ivar = (file[name].data.astype("float32") for name in ("flux", "ivar"))
        observed, redshift = file["wavelength"].data.astype("float64"), file["table"].data["redshift"]
    rest = np.zeros((len(flux), N_WAVELENGTH))
    for i in range(len(flux)):
        good = ivar[i] > 0
        if good.any() and np.isfinite(redshift[i]):
            rest[i] = np.interp(grid, observed[good] / (1 + redshift[i]), flux[i][good], 0, 0)
            rest[i] /= max(abs(np.median(rest[i])), 1e-3)
    features = PCA(20, random_state=0).fit_transform(rest)
    return IsolationForest(random_state=0, n_jobs=n_processes).fit(features).score_samples(features)


if __name__ == "__main__":
    main()
