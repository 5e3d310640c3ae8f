"""Whether something has become slower: ``python -m benchmarks.check``.

Runs the small sizes, compares their ratios with those of ``benchmarks/baseline.json`` and exits 1, naming it, when one
has worsened by more than a third. Ratios are of processor time taken in the same run, so that neither another machine
nor a busy one looks like slower code. ``--update`` writes the baseline anew.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import ingest, rank, resume, train
from benchmarks.timing import print_figures

BASELINE_PATH = Path(__file__).with_name("baseline.json")
WORSE = 1 / 3


def main():
    """Print the ratios; exit 1 with a sentence when one has worsened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the ratios as the new baseline")
    options = parser.parse_args()
    ratios = measure()
    print_figures("larger is better", ratios)
    if options.update:
        BASELINE_PATH.write_text(json.dumps(ratios, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    worse = worsened(ratios, json.loads(BASELINE_PATH.read_text(encoding="utf-8")))
    if worse:
        sys.exit("\n".join(worse))


def measure():
    """Return the ratios, larger is better.

    Returns
    -------
    dict of str to float
    """
    ranked, kept = rank.measure(2048, 2, [1, 5], n_alternative=500), resume.measure(2048, 4)
    ratios = {
        f"rank: {what}, {n} models": ranked[f"{name}, {n} models"]
        for n in (1, 5)
        for what, name in {
            "share of reading + networks": "the same in processor time (reading + networks)",
            "times what a user would write": "the same in processor time",
        }.items()
    }
    ratios["ingest: share of plain reading"] = ingest.measure(1000)["share of plain reading, in processor time"]
    ratios["train: share of the bare loop"] = train.measure(8000)["share of the bare loop, in processor time"]
    for what in ("training", "scoring"):
        overhead = kept[f"overhead of keeping, {what}, in processor time"]
        ratios[f"resume: {what} without keeping over with it"] = 1 / (1 + overhead)
    return {name: round(float(ratio), 3) for name, ratio in ratios.items()}


def worsened(ratios, baseline):
    """Compare ratios with a baseline.

    Parameters
    ----------
    ratios, baseline : dict of str to float
        Larger is better.

    Returns
    -------
    list of str
        A sentence for each ratio that is lower by more than a third, not a number, or not in both.
    """
    sentences = [f"'{name}' is not in the baseline: run --update." for name in ratios.keys() - baseline.keys()]
    for name, before in baseline.items():
        now = ratios.get(name)
        if now is None:
            sentences.append(f"'{name}' is in the baseline and was not measured: run --update where it is gone.")
        elif not now >= before * (1 - WORSE):
            sentences.append(f"'{name}' is {now:.3g}, worse than the baseline's {before:.3g} by more than a third.")
    return sorted(sentences)


if __name__ == "__main__":
    main()
