"""How what follows scoring grows with the survey: ``python -m benchmarks.rows``.

Raw scores of a few thousand simulated spectra (32 latent dimensions) are drawn again and again, with scatter, to
5·10⁴ and 2·10⁵ rows, or as many as ``--n-rows`` says (a survey: 100000 400000 1600000). Each step runs on
all of them; its growth is the exponent of the processor time between the smallest and the largest size: 1 is linear,
n log n stays below 1.1.
"""

import argparse
import json
import tempfile
from pathlib import Path
from unittest.mock import patch

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

import astrolab as al
from astrolab.anomaly import ranking as ranking_module
from astrolab.anomaly.conformal import conformal_p_values, fit_cells
from astrolab.anomaly.diff import compare_rankings
from astrolab.anomaly.scores import raw_scores
from benchmarks.timing import best_of_each, print_figures

N_WAVELENGTH, N_LATENT, N_SIMULATED = 300, 32, 4096
SMALLEST_SECONDS = 0.2  # what takes less at the smallest size grows by chance


def main():
    """Print the processor time of each step at each size, and how it grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds = measure(options.n_rows)
    growth = growth_of_each(seconds)
    if options.json:
        print(json.dumps({"seconds": seconds, "growth": growth}, indent=2))
        return
    for n_rows, steps in seconds.items():
        print_figures(f"{n_rows:,} rows: processor time, s", steps)
    print_figures("growth: exponent of the number of rows", growth)


def measure(sizes):
    """Return the processor time of each step at each size.

    Parameters
    ----------
    sizes : list of int
        Numbers of rows.

    Returns
    -------
    dict of int to dict of str to float
        Seconds.
    """
    model = al.VAE(n_wavelength=N_WAVELENGTH, n_latent=N_LATENT)
    few = al.simulate_survey(N_SIMULATED, seed=0)
    few, _ = al.select_objects(few)
    few = al.normalize_flux(al.to_restframe(few, al.rest_grid(1000, 7500, N_WAVELENGTH))).compute()
    scores = raw_scores(model, few)
    return {n_rows: _time_steps(model, few, scores, n_rows) for n_rows in sizes}


def growth_of_each(seconds):
    """Return by what power of the number of rows each step grows.

    Parameters
    ----------
    seconds : dict of int to dict of str to float
        From `measure`.

    Returns
    -------
    dict of str to float
        Between the smallest size at which the step takes 0.2 s and the largest; NaN where there is no such pair.
    """
    growth = {}
    for step in next(iter(seconds.values())):
        times = {n: steps[step] for n, steps in sorted(seconds.items()) if steps[step] > SMALLEST_SECONDS}
        (first, *_), (*_, last) = (list(times) or [1]), (list(times) or [1])
        growth[step] = float(np.log(times[last] / times[first]) / np.log(last / first)) if last > first else np.nan
    return growth


def _time_steps(model, few, scores, n_rows):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(scores), n_rows)
    values = scores.to_numpy()
    is_whole = (values == np.rint(values)).all(axis=0)  # counts and numbers of classes stay what they are
    values = values[rows] * np.where(is_whole, 1, rng.normal(1, 0.05, (n_rows, values.shape[1])))
    raw = pd.DataFrame(values.astype("float32"), columns=scores.columns)
    spectra = _columns_alone(few, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranking.parquet"
        with patch.object(ranking_module, "raw_scores", lambda *_, **__: raw):
            spent, ranking = _time_one("score_anomalies, from raw scores on", al.score_anomalies, model, spectra)
        ranking = ranking.ranking
        steps = {"score_anomalies, from raw scores on": spent}
        steps |= _time_tables(ranking, path)
        steps |= _time_catalog(ranking, folder)
    return steps


def _time_tables(ranking, path):
    labels = dict(zip(ranking["targetid"].head(20), ["anomaly", "regular"] * 10, strict=True))
    matched = ranking[["redshift", "snr", "n_good"]].to_numpy("float64")
    score = ranking["anomaly_score"].to_numpy("float64")
    shaken = ranking.assign(anomaly_score=score + np.random.default_rng(1).normal(0, 0.1, len(score)))
    shaken = shaken.sort_values("anomaly_score", ascending=False, ignore_index=True)
    shaken["anomaly_rank"] = np.arange(1, len(shaken) + 1, dtype="int32")

    def p_values():
        return conformal_p_values(fit_cells(score, matched), score, matched, np.ones(len(score), bool))

    steps = {
        "conformal p-values": p_values,
        "writing ranking.parquet": lambda: al.save_table(ranking, path),
        "reading ranking.parquet": lambda: pd.read_parquet(path),
        "rerank after 20 labels": lambda: al.rerank(ranking, labels, n_jobs=1),
        "compare_rankings": lambda: compare_rankings(ranking, shaken),
    }
    return {name: one.processor for name, one in best_of_each(steps, n_rounds=1).items()}


def _time_catalog(ranking, folder):
    from astrolab.stores.catalog import open_catalog
    from astrolab.vetting.campaigns import open_campaign

    with open_catalog(f"sqlite:///{folder}/catalog.db") as catalog:
        first, _ = _time_one("first", open_campaign, catalog, "run", ranking)
        again, _ = _time_one("again", open_campaign, catalog, "run", ranking)
    return {"offering every row in the catalog": first, "opening that campaign again": again}


def _time_one(name, function, *arguments):
    results = []
    spent = best_of_each({name: lambda: results.append(function(*arguments))}, n_rounds=1)
    return spent[name].processor, results[0]


def _columns_alone(few, rows):
    """Return spectra that have columns and a shape, and no pixels in memory."""
    columns = {
        name: ("object", column.values[rows], column.attrs)
        for name, column in few.coords.items()
        if column.dims == ("object",)
    }
    columns["targetid"] = ("object", np.arange(1, len(rows) + 1), few["targetid"].attrs)
    grid = few["wavelength_rest"]
    empty = da.zeros((len(rows), len(grid)), dtype="float32", chunks=(100_000, -1))
    variables = {name: (("object", "wavelength_rest"), empty, few[name].attrs) for name in ("flux", "ivar")}
    return xr.Dataset(variables, columns | {"wavelength_rest": grid})


if __name__ == "__main__":
    main()
