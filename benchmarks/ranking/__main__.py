"""``python -m benchmarks.ranking``: measure AstroLab's ranking and the baselines, and print both tables."""

import argparse
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.ranking.data import real_sample, simulated_sample
from benchmarks.ranking.families import FAMILIES, Family
from benchmarks.ranking.figures import all_figures
from benchmarks.ranking.protocol import score_everything
from benchmarks.ranking.rankers import BASELINES, AstroLab, load_plugin
from benchmarks.ranking.tables import print_tables

_QUICK_FAMILIES = ("reddening", "cosmic_ray")
_QUICK = {"n_replicate": 1, "n_seed": 2, "n_processes": 1}


def main(arguments=None):
    """Run the benchmark.

    Parameters
    ----------
    arguments : list of str, optional
        Command line; default that of the process.

    Returns
    -------
    dict
        ``command``, ``label``, ``seconds`` and ``figures``: what ``--json`` prints.
    """
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    folder = os.environ.get("ASTROLAB_REAL_DATA")
    sample = real_sample(folder) if folder else simulated_sample(100 if options.quick else 400)
    families = _families(options)
    names = {"label": sample.label, "n_left_out": sample.n_left_out}
    settings = _QUICK if options.quick else {"n_replicate": 2, "n_seed": 5, "n_processes": min(2, os.cpu_count() or 1)}
    lists = score_everything(sample, _rankers(options), families, progress=not options.json, **settings)
    figures = all_figures(lists, families, label=sample.label, n_draw=50 if options.quick else 200)
    seconds = time.monotonic() - started
    command = "python -m benchmarks.ranking " + " ".join(sys.argv[1:] if arguments is None else arguments)
    result = {"command": command.strip(), **names, "seconds": round(seconds, 1), "figures": _plain(figures)}
    if options.out_path:
        Path(options.out_path).write_text(json.dumps(result, indent=1, ensure_ascii=False))
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_tables(figures, families, **names)
        print(f"{command}: {seconds:.0f} s on {os.cpu_count()} cores")
    return result


def _parser():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print every figure as JSON instead of the tables")
    parser.add_argument("--out-path", help="write the JSON to this file as well")
    parser.add_argument("--quick", action="store_true", help="few injections and short trainings, under a minute")
    parser.add_argument("--ranker", action="append", default=[], metavar="MODULE:NAME", help="another ranker")
    parser.add_argument("--family", action="append", default=[], metavar="MODULE:NAME", help="another family")
    parser.add_argument("--only", nargs="+", metavar="RANKER", help="run these rankers alone")
    return parser


def _families(options):
    families = [one for one in FAMILIES if not options.quick or one.name in _QUICK_FAMILIES]
    for name in options.family:
        found = load_plugin(name)
        found = found if isinstance(found, Family) or hasattr(found, "doses") else found()
        if len(found.doses) < 6 or list(found.doses) != sorted(found.doses) or found.doses[0] <= 0:
            raise ValueError(f"family '{name}' has doses {found.doses}, expected at least 6, rising, above 0.")
        families.append(found)
    return tuple(families)


def _rankers(options):
    """Return the rankers by name, AstroLab's first: the others are compared with it."""
    rankers = {"AstroLab": AstroLab, **BASELINES, **{name: load_plugin(name) for name in options.ranker}}
    if options.only:
        unknown = sorted(set(options.only) - set(rankers))
        if unknown:
            raise ValueError(f"no ranker is named {', '.join(unknown)}; choose from {', '.join(rankers)}.")
        rankers = {name: rankers[name] for name in rankers if name in options.only}
    if options.quick:
        for name in set(rankers) & {"AstroLab", "plain VAE", "latent density"}:
            rankers[name] = partial(rankers[name], n_epochs=5)
    return rankers


def _plain(figures):
    """Return rows that JSON can hold: what is not reached or not defined is null."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else _number(value)
         for key, value in row.items()}
        | ({"is_reached": math.isfinite(row["value"])} if row["metric"] == "S50" and row["value"] is not None else {})
        for row in figures
    ]  # fmt: skip


def _number(value):
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    main()
