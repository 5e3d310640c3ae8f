"""How fast a store becomes scores, beside what the machine allows: ``python -m benchmarks.rank``.

On simulated DESI-like spectra (7781 pixels) it times, on the same Dask workers and one after the other: reading and
decompressing every chunk and nothing else; the networks on resident arrays and nothing else (together: the limit); and
the whole way store → rest frame → network → scores. Ratios are results; times belong to this machine.
"""

import argparse
import json
import tempfile
import time

from rich.console import Console
from rich.table import Table

import astrolab as al
from astrolab.anomaly.scores import raw_scores
from astrolab.models.files import model_from_bytes, model_to_bytes

N_WAVELENGTH = 1500
CHUNK = 512


def main():
    """Print the rates as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-objects", type=int, default=8192)
    parser.add_argument("--n-workers", type=int, default=2)
    parser.add_argument("--n-models", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.n_objects, options.n_workers, options.n_models)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title=f"{options.n_objects:,} simulated spectra, {options.n_workers} workers of one thread")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    Console().print(table)


def measure(n_objects, n_workers, n_models):
    """Return rates (spectra/s) and their ratios.

    Parameters
    ----------
    n_objects, n_workers : int
        Spectra in the store; Dask workers of one thread each.
    n_models : list of int
        How many models score at once; each number is measured.

    Returns
    -------
    dict
        Name to number.
    """
    with tempfile.TemporaryDirectory() as folder, al.start_cluster("cpu", n_workers=n_workers) as client:
        al.save_spectra(al.simulate_survey(n_objects, seed=0, chunk_size=CHUNK), f"{folder}/spectra.zarr")
        spectra = al.open_spectra(f"{folder}/spectra.zarr")
        rest = al.normalize_flux(al.to_restframe(spectra, al.rest_grid(1000, 7500, N_WAVELENGTH)))
        models = [al.VAE(n_wavelength=N_WAVELENGTH) for _ in range(max(n_models))]
        # compile, import and fill the page cache before timing
        raw_scores(models, rest.isel(object=slice(0, 2 * CHUNK)))
        _read(spectra)
        read = _best(lambda: _read(spectra))
        figures = {"reading alone, spectra/s": n_objects / read}
        for n in n_models:
            network = _best(lambda n=n: _network(client, models[:n], n_objects))
            whole = _best(lambda n=n: raw_scores(models[:n], rest))
            figures |= {
                f"networks alone, spectra/s, {n} models": n_objects / network,
                f"store to scores, spectra/s, {n} models": n_objects / whole,
                f"share of the limit (reading + networks), {n} models": (read + network) / whole,
                f"1.6 million at this rate, minutes (an extrapolation), {n} models": 1.6e6 * whole / n_objects / 60,
            }
    return figures


def _read(spectra):
    """Read every chunk on the workers; only one number a chunk comes back."""
    (spectra["flux"].data[:, 0].sum() + spectra["ivar"].data[:, 0].sum()).compute(optimize_graph=False)


def _network(client, models, n_objects):
    packed = [model_to_bytes(model) for model in models]
    blocks = [
        client.submit(_evaluate, packed, min(CHUNK, n_objects - i), i, pure=False) for i in range(0, n_objects, CHUNK)
    ]
    client.gather(blocks)


def _evaluate(packed, n_rows, seed):
    """Put flat spectra through the networks and nothing else."""
    import torch

    torch.set_num_threads(1)
    flat = torch.full((n_rows, N_WAVELENGTH), 1.0 + seed % 7)
    with torch.inference_mode():
        return sum(float(model_from_bytes(*one).eval()(flat, flat).flux_model[0, 0]) for one in packed)


def _best(function, n_times=3):
    """Return the shortest of a few times: the one with the least of other programs in it."""
    seconds = []
    for _ in range(n_times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
