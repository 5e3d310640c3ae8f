"""Two runs against each other: their rankings, and what was different when they were made."""

import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
from rich.table import Table

from astrolab.anomaly.diff import compare_rankings
from astrolab.runs.manifest import verify_run
from astrolab.runs.paths import MANIFEST, PARAMETERS, RUN, is_remote

_RANKING = "ranking.parquet"
_NOT_RANKED = "not_ranked.parquet"


def compare_runs(run_a, run_b, *, n_top=100):
    """Compare the rankings of two runs: how alike they are, who entered and left the top, and why.

    Parameters
    ----------
    run_a, run_b : path-like
        Finished run folders of one template, such as ``rank_anomalies``; each is verified first.
    n_top : int, optional
        Places that count as the top.

    Returns
    -------
    RankingDiff
        As `compare_rankings` gives; its ``causes`` name parameters, inputs, code and models that differ.

    Raises
    ------
    ValueError
        If a folder is no finished run, was changed since, or has no ranking; if the runs are of different templates,
        or no object is in both.

    Examples
    --------
    >>> import astrolab as al
    >>> al.compare_runs("nowhere/a", "nowhere/b")
    Traceback (most recent call last):
    ValueError: nowhere/a is not a folder, expected a run folder such as 'astrolab run' writes.
    """
    runs = [_Run(run_a), _Run(run_b)]
    names = [run.record["template"] for run in runs]
    if names[0] != names[1]:
        raise ValueError(f"the runs are of different templates, {names[0]!r} and {names[1]!r}, expected two of one.")
    rankings = [run.table(_RANKING) for run in runs]
    not_ranked = [run.table(_NOT_RANKED) if _NOT_RANKED in run.files else None for run in runs]
    return compare_rankings(
        *rankings, n_top=n_top, not_ranked_a=not_ranked[0], not_ranked_b=not_ranked[1], causes=_causes(*runs)
    )


class _Run:
    """What a verified run folder says of itself."""

    def __init__(self, run_dir):
        self.folder = Path(run_dir)
        problems = verify_run(self.folder) if self.folder.is_dir() else None
        if problems is None:
            raise ValueError(f"{self.folder} is not a folder, expected a run folder such as 'astrolab run' writes.")
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise ValueError(
                f"{self.folder} does not verify: {problems[0].path}: {problems[0].what}{more}; "
                "expected a finished run folder, unchanged."
            )
        self.files, self.record, self.parameters = (self._json(name) for name in (MANIFEST, RUN, PARAMETERS))

    def table(self, name):
        """Return a product of the run."""
        if name not in self.files:
            raise ValueError(f"{self.folder} has no {name}, expected a finished run of rank_anomalies.")
        return pd.read_parquet(self.folder / name)

    def model(self):
        """Return the hash of every file of weights, by name."""
        return {name: entry["sha256"] for name, entry in self.files.items() if name.endswith(".safetensors")}

    def inputs(self):
        """Return the hash of every input, by parameter."""
        hashes = {}
        for one in self.record["inputs"]:
            hashes.setdefault(one["parameter"], []).append(one.get("sha256"))
        return hashes

    def _json(self, name):
        path = self.folder / name
        if not path.is_file():
            raise ValueError(f"{self.folder} has no {name}, expected a finished run folder.")
        return json.loads(path.read_bytes())


def _causes(a, b):
    """Return what differs between two runs, in words."""
    causes = []
    inputs_a, inputs_b = a.inputs(), b.inputs()
    for name in sorted(a.parameters.keys() | b.parameters.keys()):
        one, two = (run.parameters.get(name) for run in (a, b))
        if name in inputs_a and inputs_a.get(name) == inputs_b.get(name) and not is_remote(str(one)):
            continue  # the same bytes, wherever they lie
        if one != two:
            causes.append(f"parameter {name}: {one!r} in A, {two!r} in B")
        elif inputs_a.get(name) != inputs_b.get(name):
            causes.append(f"input {name}: other content in B")
    if a.model() != b.model():
        short = ["/".join(value[:8] for value in run.model().values()) or "none" for run in (a, b)]
        causes.append(f"model: {short[0]} in A, {short[1]} in B")
    if a.record["template_sha256"] != b.record["template_sha256"]:
        causes.append("template: another version in B")
    if a.record["code"] != b.record["code"]:
        causes.append("code: another version in B")
    return causes


def to_json(diff):
    """Return the result of `compare_runs` as JSON.

    Parameters
    ----------
    diff : RankingDiff
        The result.

    Returns
    -------
    str
        Its figures, ``causes``, and ``changes``: those that entered or left, targetid as text, for many programs that
        read JSON hold numbers as floats.
    """
    figures = {field.name: getattr(diff, field.name) for field in fields(diff) if field.name != "table"}
    figures = {name: None if value != value else value for name, value in figures.items()}
    changed = diff.table[diff.table["change"] != "stayed"]
    changes = changed.assign(targetid=changed["targetid"].astype(str)).to_json(orient="records", double_precision=9)
    return json.dumps(figures | {"changes": json.loads(changes)}, ensure_ascii=False)


def print_diff(diff, console):
    """Print the result of `compare_runs`.

    Parameters
    ----------
    diff : RankingDiff
        The result.
    console : rich.console.Console
        Where.
    """
    changed = diff.table[diff.table["change"] != "stayed"]
    counts = changed["change"].value_counts()
    console.print(
        f"{diff.n_a:,} objects ranked in A, {diff.n_b:,} in B, {diff.n_common:,} in both\n"
        f"rank-biased overlap (p = 0.99): {diff.rank_biased_overlap:.3f}; Jaccard of the top {diff.n_top:,}: "
        f"{diff.jaccard:.3f}; Spearman of the ranks: {diff.spearman:.3f}\n"
        f"top {diff.n_top:,}: {counts.get('entered', 0):,} entered, {counts.get('left', 0):,} left"
    )
    for cause in diff.causes:
        console.print(f"different: {cause}")
    if changed.empty:
        return
    table = Table("targetid", "change", "rank A", "rank B", "why")
    for row in changed.itertuples():
        ranks = ["–" if rank is pd.NA else f"{rank:,}" for rank in (row.rank_a, row.rank_b)]
        table.add_row(str(row.targetid), row.change, *ranks, row.why)
    console.print(table)
