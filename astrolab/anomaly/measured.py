"""What the ranking was measured to find: the figures of the benchmark, shipped for reports."""

import json
from pathlib import Path

import pandas as pd

MEASURED_PATH = Path(__file__).with_name("measured.json")


def measured_ranking():
    """Return what AstroLab's ranking and the baselines found in the benchmark.

    Returns
    -------
    pandas.DataFrame
        One row a ranker. Columns: macro recall at N = P over real rare classes and over injected astrophysical families
        at the middle dose (95 % interval in brackets), the share of artefacts and of astrophysics in the top 50 of a
        mixed list, Spearman's ρ of the score with S/N and redshift on ordinary quasars. ``attrs["command"]`` makes them
        again, ``attrs["label"]`` says on which spectra: not on the survey at hand.

    Examples
    --------
    >>> measured_ranking().index[0]
    'AstroLab'
    """
    measured = json.loads(MEASURED_PATH.read_text())
    table = pd.DataFrame(measured["rows"]).set_index("ranker")
    table.attrs = {"command": measured["command"], "label": measured["label"]}
    return table
