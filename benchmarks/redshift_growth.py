"""How the rate and the memory of classification grow with the survey: ``python -m benchmarks.redshift --growth 1000``.

Simulated DESI-like spectra (7781 pixels), a few thousand that repeat, streamed from a store on disk through two workers
of one thread. Rates are of processor time too, which a busy machine does not stretch, and stand beside the rate of
matrix products that the same workers reach just before.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

import astrolab as al
from astrolab.redshift.scan import bin_edges, plan_all
from astrolab.redshift.templates import open_templates
from benchmarks.survey import save_repeated
from benchmarks.timing import PeakMemory, best_of_each, print_figures

_SIDE = 1536


def print_growth(sizes, n_workers=2):
    """Print rates and memory of each size, and how they grow from the smallest to the largest.

    Parameters
    ----------
    sizes : list of int
        Spectra in each store.
    n_workers : int, optional
        Workers of one thread each.
    """
    figures = [_measure(n, n_workers) for n in sizes]
    for n, own in zip(sizes, figures, strict=True):
        print_figures(f"class and redshift of {n:,} simulated spectra, {n_workers} workers of one thread", own)
    for name in ("spectra/s", "spectra/s a core, in processor time", "peak memory, MB", "peak memory of a worker, MB"):
        print(f"{name}, from the smallest to the largest: × {figures[-1][name] / figures[0][name]:.2f}")


def _measure(n_objects, n_workers):
    with tempfile.TemporaryDirectory() as folder:
        spectra = save_repeated(Path(folder) / "spectra.zarr", n_objects)
        with al.start_cluster("cpu", n_workers=n_workers) as client:
            # compile and import before timing
            al.classify_spectra(spectra.isel(object=slice(0, 4096)))
            workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
            products = np.mean(list(client.run(product_rate).values()))
            with PeakMemory([psutil.Process(), *workers]) as memory, PeakMemory(workers[:1]) as of_worker:
                tasks = {"classes": lambda: al.classify_spectra(spectra)}
                spent = best_of_each(tasks, workers, n_rounds=1)["classes"]
    rate = n_objects / spent.processor
    return {
        "spectra/s": n_objects / spent.wall,
        "spectra/s a core, in processor time": rate,
        "matrix products of a core, GFLOP/s": products / 1e9,
        "the scan's products, part of that": rate * scan_flops(spectra["wavelength"].values) / products,
        "peak memory, MB": memory.megabytes,
        "peak memory of a worker, MB": of_worker.megabytes,
        "1.6 million at this rate, hours on these workers (an extrapolation)": 1.6e6 * spent.wall / n_objects / 3600,
    }


def scan_flops(wavelength):
    """Return the operations of the coarse scan of one spectrum: those of its matrix products alone."""
    plans = plan_all(open_templates(), wavelength)
    n_bin = len(bin_edges(wavelength)[1]) - 1
    return 2 * n_bin * sum(len(plan.redshift) * len(plan.vectors) for plan in plans)


def product_rate(n_times=7):
    """Return the rate of square matrix products in float32 on one thread: operations a second of processor time."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    square = torch.rand(_SIDE, _SIDE)
    times = []
    for _ in range(n_times):
        start = time.thread_time()
        square @ square
        times.append(time.thread_time() - start)
    torch.set_num_threads(n_threads)
    return 2 * _SIDE**3 / np.median(times)
