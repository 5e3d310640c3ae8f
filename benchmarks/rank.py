"""How fast a store becomes scores, beside what the machine allows: ``python -m benchmarks.rank``.

On simulated DESI-like spectra (7781 pixels) it times, on the same Dask workers and one after the other: reading and
decompressing every chunk and nothing else; the network and its scores on resident arrays and nothing else; and the
whole way store → rest frame → network → scores. Ratios are results; times belong to this machine.
"""

import argparse
import json
import tempfile
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import astrolab as al
from astrolab.anomaly.scores import raw_scores, score_block
from astrolab.models.files import model_to_bytes

N_WAVELENGTH = 1500


def main():
    """Print the rates as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-objects", type=int, default=8192)
    parser.add_argument("--n-workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.n_objects, options.n_workers)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title=f"{options.n_objects:,} simulated spectra, {options.n_workers} workers of one thread")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}")
    Console().print(table)


def measure(n_objects, n_workers):
    """Return rates (spectra/s) and their ratios.

    Parameters
    ----------
    n_objects, n_workers : int
        Spectra in the store; Dask workers of one thread each.

    Returns
    -------
    dict
        Name to number.
    """
    with tempfile.TemporaryDirectory() as folder, al.start_cluster("cpu", n_workers=n_workers) as client:
        al.save_spectra(al.simulate_survey(n_objects, seed=0, chunk_size=1024), f"{folder}/spectra.zarr")
        spectra = al.open_spectra(f"{folder}/spectra.zarr")
        model = al.VAE(n_wavelength=N_WAVELENGTH)
        rest = al.normalize_flux(al.to_restframe(spectra, al.rest_grid(1000, 7500, N_WAVELENGTH)))
        raw_scores(model, rest.isel(object=slice(0, 2048)))  # compile, import and fill the page cache before timing
        _read(spectra)
        read = _best(lambda: _read(spectra))
        network = _best(lambda: _network(client, model, n_objects))
        whole = _best(lambda: raw_scores(model, rest))
    return {
        "reading alone, spectra/s": n_objects / read,
        "network and scores alone, spectra/s": n_objects / network,
        "store to scores, spectra/s": n_objects / whole,
        "share of the limit (reading + network)": (read + network) / whole,
        "1.6 million at this rate, minutes (an extrapolation)": 1.6e6 * whole / n_objects / 60,
    }


def _read(spectra):
    """Read every chunk on the workers; only one number a chunk comes back."""
    (spectra["flux"].data[:, 0].sum() + spectra["ivar"].data[:, 0].sum()).compute(optimize_graph=False)


def _network(client, model, n_objects):
    described, weights = model_to_bytes(model)
    blocks = [client.submit(_score_flat, described, weights, i, pure=False) for i in range(n_objects // 1024)]
    client.gather(blocks)


def _score_flat(described, weights, seed):
    flat = np.full((1024, N_WAVELENGTH), 1 + seed, "float32")
    return score_block(flat, flat, described, weights)[:, 0].sum()


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
