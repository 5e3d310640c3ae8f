"""What labels are worth: ``python -m benchmarks.active``.

A simulated person labels the objects that a method puts on top, some of them wrongly, and the method ranks anew:
confirmed anomalies against labels spent, for `astrolab.rerank` and what it has to beat. The lists are real spectra,
injections into real ordinary quasars, and a simulated survey where anomalies are rare; without ASTROLAB_REAL_DATA the
last alone. Then the seconds that one re-ranking of 1.6 million rows takes.
"""

import argparse
import json
import os
import time
from itertools import pairwise

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from astrolab.anomaly.ranking import score_anomalies
from astrolab.anomaly.rerank import rerank, rerank_features
from astrolab.models.vae import VAE
from astrolab.spectra import rest_grid
from astrolab.training import fit
from benchmarks.ranking.data import APART, ARTEFACT, ORDINARY, RARE, kind_of, real_sample, simulated_sample
from benchmarks.ranking.families import ARTEFACT as ARTEFACT_FAMILY
from benchmarks.ranking.families import ASTRO, FAMILIES, make_hosts
from benchmarks.ranking.protocol import inject
from benchmarks.ranking.rankers import rest_frame

STOPS = (0, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)  # the method ranks anew after so many labels
BUDGETS = (5, 10, 20, 50, 100)
WRONG = (0.0, 0.05, 0.1)  # share of wrong labels
METHODS = ("static ranking", "random", "uncertainty", "rerank aad", "rerank pine")
_N_ROWS, _N_COLUMNS = 1_600_000, 32


def main(arguments=None):
    """Run the benchmark.

    Parameters
    ----------
    arguments : list of str, optional
        Command line; default that of the process.

    Returns
    -------
    dict
        What ``--json`` prints: ``lists``, ``figures`` and ``speed``.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.active", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of the tables")
    parser.add_argument("--quick", action="store_true", help="3 seeds on a small simulated survey; under a minute")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    n_seed = 3 if options.quick else 20
    lists = make_lists(options.quick)
    figures = [row for name, tables in lists.items() for row in measure(name, tables, n_seed)]
    speed = measure_speed(_N_ROWS // 100 if options.quick else _N_ROWS)
    counts = {name: describe(tables(0)) for name, tables in lists.items()}
    result = {"lists": counts, "figures": figures, "speed": speed, "seconds": round(time.monotonic() - started, 1)}
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_tables(result, n_seed)
    return result


def make_lists(is_quick):
    """Return, by name, a function from a seed to a ranking with ``label``, what an honest person would say."""
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    lists = {}
    if folder and not is_quick:
        sample = real_sample(folder)
        real = _ranked(sample.spectra, sample.truth["truth"])
        lists["real"] = lambda seed: _half_of_the_rare(real, seed)
        injected = [_injected(sample, seed) for seed in range(2)]
        lists["injected"] = lambda seed: injected[seed % len(injected)]
    sample = simulated_sample(300 if is_quick else 3000)
    # as rare as in a survey: a third of what was simulated
    strange = np.flatnonzero(sample.truth["truth"] != "")
    keep = np.ones(len(sample.truth), bool)
    keep[np.random.default_rng(0).permutation(strange)[: 2 * len(strange) // 3]] = False
    spectra, truth = sample.rows(keep)
    simulated = _ranked(spectra, truth["truth"], n_epochs=5 if is_quick else 20)
    lists["simulated"] = lambda seed: simulated
    return lists


def describe(ranking):
    """Return how many objects and anomalies a list has."""
    return {"n_object": len(ranking), "n_anomaly": int((ranking["label"] == "anomaly").sum())}


def _ranked(spectra, truth, n_epochs=60):
    """Train on the spectra themselves, as in use, and rank them."""
    rest = rest_frame(spectra, rest_grid(1000.0, 7500.0, 1500))
    model = VAE(n_wavelength=1500, n_latent=8, seed=0)
    fit(model, rest, n_epochs=n_epochs, seed=0, device="cpu", progress=False)
    ranking = score_anomalies(model, rest, seed=0)[0]
    said = {ORDINARY: "regular", RARE: "anomaly", ARTEFACT: "artefact", APART: "unsure"}
    labels = pd.Series([said[kind_of(name)] for name in truth], index=spectra["targetid"].values)
    return ranking.assign(label=labels.loc[ranking["targetid"]].to_numpy())


def _half_of_the_rare(ranking, seed):
    """Draw half of the anomalies, and leave out what is neither one nor the other."""
    rare = ranking[ranking["label"] == "anomaly"].sample(frac=0.5, random_state=seed)
    rest = ranking[ranking["label"].isin(("regular", "artefact"))]
    return pd.concat([rest, rare]).sort_values("targetid", ignore_index=True)


def _injected(sample, seed):
    """Inject into a fifth of the ordinary quasars, half of it artefacts, at the middle dose or above."""
    spectra, _ = sample.rows((sample.truth["truth"] == "").to_numpy())
    rng = np.random.default_rng(seed)
    hosts = make_hosts(*[spectra[name].values for name in ("flux", "ivar", "wavelength", "redshift")], rng)
    truth = np.full(len(hosts.flux), "", dtype="U32")
    labels = truth.copy()
    for kind, label in ((ASTRO, "anomaly"), (ARTEFACT_FAMILY, "artefact")):
        families = [family for family in FAMILIES if family.kind == kind]
        for k in range(len(truth) // 10):
            family = families[k % len(families)]
            fits = (hosts.redshift >= family.redshift_min) & (hosts.redshift <= family.redshift_max) & (truth == "")
            if fits.any():
                row = rng.choice(np.flatnonzero(fits), 1)
                dose = rng.choice(family.doses[len(family.doses) // 2 :])
                spectra = inject(spectra, hosts, row, family, dose, rng)
                truth[row], labels[row] = family.name, label
    ranking = _ranked(spectra, np.full(len(truth), ""))
    said = pd.Series(np.where(labels == "", "regular", labels), index=spectra["targetid"].values)
    return ranking.assign(label=said.loc[ranking["targetid"]].to_numpy())


def measure(name, tables, n_seed):
    """Return anomalies found by each method at each budget, with intervals over seeds."""
    figures = []
    for wrong in WRONG:
        found = {method: np.array([_spend(tables(seed), method, wrong, seed) for seed in range(n_seed)])
                 for method in METHODS}  # fmt: skip
        for method, counts in found.items():
            for j, budget in enumerate(BUDGETS):
                value, gain = counts[:, j], counts[:, j] - found["static ranking"][:, j]
                gains = {f"gain_{key}": number for key, number in _interval(gain).items()}
                row = {"list": name, "wrong_labels": wrong, "method": method, "n_labels": budget}
                figures.append(row | _interval(value) | gains)
    return figures


def _interval(values):
    """Return the mean and the 95 % interval of it, by bootstrap over seeds."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, (1000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def _spend(ranking, method, wrong, seed):
    """Return how many anomalies were confirmed within each budget, by the truth and not by what was said."""
    rng = np.random.default_rng([seed, 7])
    is_anomaly = (ranking["label"] == "anomaly").to_numpy()
    is_wrong = rng.random(len(ranking)) < wrong
    said = np.where(is_wrong, np.where(is_anomaly, "regular", "anomaly"), ranking["label"])
    table = ranking.drop(columns="label")
    features = StandardScaler().fit_transform(rerank_features(table)[0])
    order = np.empty(0, int)
    for start, stop in pairwise(STOPS):
        priority = _priority(table, features, order, said, method, np.random.default_rng([seed, start]), seed)
        priority[order] = -np.inf
        order = np.append(order, np.lexsort((table["targetid"], -priority))[: stop - start])
    return np.cumsum(is_anomaly[order])[np.array(BUDGETS) - 1]


def _priority(table, features, order, said, method, rng, seed):
    """Return whom the person should look at next, the largest first."""
    static = table["anomaly_score"].to_numpy("float64")
    if method == "random":
        return rng.random(len(table))
    if method == "static ranking" or len(order) == 0:
        return static.copy()
    if method == "uncertainty":
        known = said[order] == "anomaly"
        if known.all() or not known.any():
            return static.copy()
        model = LogisticRegression(max_iter=500).fit(features[order], known)
        return -np.abs(model.decision_function(features))
    labels = dict(zip(table["targetid"].to_numpy()[order], said[order], strict=True))
    again = rerank(table, labels, method=method.removeprefix("rerank "), seed=seed, n_jobs=1)
    return again.set_index("targetid")["anomaly_score_reranked"].loc[table["targetid"]].to_numpy().copy()


def measure_speed(n_rows):
    """Return the time of one re-ranking after 20 labels, of normal random numbers in 32 columns, with 2 threads."""
    rng = np.random.default_rng(0)
    names = [f"latent_{i}" for i in range(_N_COLUMNS - 1)] + ["anomaly_score"]
    table = pd.DataFrame(rng.normal(size=(n_rows, _N_COLUMNS)).astype("float32"), columns=names)
    table.insert(0, "targetid", rng.permutation(n_rows))
    labels = dict(zip(table["targetid"].head(20), ["anomaly", "regular"] * 10, strict=True))
    speed = {"n_rows": n_rows, "n_columns": _N_COLUMNS, "n_cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    for method in ("aad", "pine"):
        wall, cpu = time.perf_counter(), time.process_time()
        rerank(table, labels, method=method, n_jobs=2)
        speed[f"{method}_s"] = round(time.perf_counter() - wall, 2)
        speed[f"{method}_cpu_s"] = round(time.process_time() - cpu, 2)
    return speed


def print_tables(result, n_seed):
    """Print anomalies found against labels spent, and the speed."""
    console = Console(width=150)
    rows = result["figures"]
    for name, counts in result["lists"].items():
        for wrong in WRONG:
            title = (
                f"{name}: {counts['n_anomaly']} anomalies among {counts['n_object']} objects, {wrong:.0%} wrong labels"
            )
            table = Table(
                "method", *(f"{n} labels" for n in BUDGETS), "static + (100)", title=title, title_justify="left"
            )
            for method in METHODS:
                mine = [r for r in rows if (r["list"], r["wrong_labels"], r["method"]) == (name, wrong, method)]
                cells = [f"{r['value']:.1f} ({r['low']:.1f}–{r['high']:.1f})" for r in mine]
                last = mine[-1]
                gain = f"{last['gain_value']:+.1f} ({last['gain_low']:+.1f}, {last['gain_high']:+.1f})"
                table.add_row(method, *cells, gain)
            console.print(table)
    speed = result["speed"]
    console.print(
        f"Anomalies found, mean and 95 % interval over {n_seed} seeds: of the draw, the wrong labels and the forest, "
        "not of the sky: the spectra are the same.\n"
        f"One re-ranking of {speed['n_rows']:,} rows × {speed['n_columns']} columns, 20 labels, 2 threads: AAD "
        f"{speed['aad_s']} s ({speed['aad_cpu_s']} s of CPU), Pine {speed['pine_s']} s ({speed['pine_cpu_s']} s of "
        f"CPU); load of the machine {speed['load']}, {speed['n_cores']} cores.\n"
        f"python -m benchmarks.active: {result['seconds']} s"
    )


if __name__ == "__main__":
    main()
