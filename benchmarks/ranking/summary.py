"""The few figures of the benchmark that ship with AstroLab, for the reports of rankings.

``python -m benchmarks.ranking.summary FIGURES.json`` writes them from what ``python -m benchmarks.ranking --out-path
FIGURES.json`` wrote.
"""

import json
import sys
from pathlib import Path

from astrolab.anomaly.measured import MEASURED_PATH

_COLUMNS = {
    "real rare classes, recall": ("recall@P", "macro over rare classes", True),
    "injected astrophysics, recall": ("recall@P", "macro over astrophysical families", True),
    "artefacts in the top 50": ("artefact fraction@50", "mixed list", False),
    "astrophysics in the top 50": ("precision@50", "mixed list", False),
    "ρ with S/N": ("Spearman", "snr", False),
    "ρ with redshift": ("Spearman", "redshift", False),
}


def summarise(result):
    """Return the figures that ship.

    Parameters
    ----------
    result : dict
        What `benchmarks.ranking.__main__.main` returns.

    Returns
    -------
    dict
        ``command``, ``label`` and ``rows``, one a ranker, text.
    """
    found = {(row["metric"], row["subject"], row["ranker"]): row for row in result["figures"] if "dose" not in row}
    rankers = dict.fromkeys(row["ranker"] for row in result["figures"] if not row["ranker"].startswith("AstroLab: "))
    rows = [
        {"ranker": ranker}
        | {name: _text(found[metric, subject, ranker], has_interval)
           for name, (metric, subject, has_interval) in _COLUMNS.items()}
        for ranker in rankers
    ]  # fmt: skip
    label = "public SDSS, BOSS, eBOSS and DESI spectra" if result["label"] == "real" else result["label"]
    return {"command": "python -m benchmarks.ranking", "label": label, "rows": rows}


def _text(row, has_interval):
    value = f"{row['value']:.2f}"
    return f"{value} ({row['low']:.2f}–{row['high']:.2f})" if has_interval else value


if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text())
    MEASURED_PATH.write_text(json.dumps(summarise(figures), indent=1, ensure_ascii=False) + "\n")
