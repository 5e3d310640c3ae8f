"""What the command line shows of runs: the end of one, the state of many."""

import json

from rich.table import Table

from astrolab.runs.resume import resume_command
from astrolab.runs.status import age


def to_json(result):
    """Return what came of a run as JSON text.

    Parameters
    ----------
    result : RunResult
        As `run_template` gives it.

    Returns
    -------
    str
    """
    return json.dumps({"run_dir": str(result.run_dir), "status": result.status, "products": result.products})


def print_result(result, console):
    """Print what came of a run: the strangest objects, where the rest is, what to type next.

    Parameters
    ----------
    result : RunResult
        As `run_template` gives it.
    console : rich.console.Console
        Where to.
    """
    has_ranking = "ranking.parquet" in result.products
    if has_ranking:
        console.print(_strangest(result.run_dir / "ranking.parquet"))
    reports = [path for path in result.products if path.endswith(".html") and "/" not in path]
    console.print(f"run folder: {result.run_dir}")
    console.print(f"report:     {result.run_dir / reports[0]}")
    if has_ranking:
        console.print(f"look at them: astrolab vet {result.run_dir}")


def print_statuses(found, console):
    """Print how far runs are, and how to go on with those that were stopped.

    Parameters
    ----------
    found : list of RunStatus
        At least one.
    console : rich.console.Console
        Where to.
    """
    table = Table("run folder", "state", "step", "done", "chunks/s", "time left", "failed", "quarantined")
    for one in found:
        table.add_row(*_row(one))
    console.print(table)
    for one in found:  # below the table, where nothing breaks a command in two
        if one.is_resumable:
            console.file.write(f"{one.state}: {resume_command(one.run_dir)}\n")


def _row(one):
    is_going_on = one.state == "running" and one.seconds_left is not None
    return (
        one.run_dir,
        one.state,
        one.step or one.cell,
        f"{one.n_done}/{one.n_total}" if one.n_total else "",
        f"{one.chunks_per_s:.2g}" if is_going_on else "",
        age(one.seconds_left) if is_going_on else "",
        str(one.n_failed),
        str(one.n_quarantined),
    )


def _strangest(path):
    import pandas as pd

    columns = ["targetid", "redshift", "anomaly_score", "reasons"]
    ranking = pd.read_parquet(path, columns=[*columns, "anomaly_rank"]).nsmallest(10, "anomaly_rank")
    table = Table("rank", *columns, title=f"the {len(ranking)} strangest")
    for rank, row in enumerate(ranking[columns].itertuples(index=False), start=1):
        table.add_row(str(rank), str(row.targetid), f"{row.redshift:.4f}", f"{row.anomaly_score:.3g}", str(row.reasons))
    return table
