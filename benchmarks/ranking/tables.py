"""The two tables, as text."""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks.ranking.families import ARTEFACT, ASTRO
from benchmarks.ranking.protocol import middle_dose

_WIDTH = 260


def print_tables(rows, families, *, label, n_left_out, console=None):
    """Print the tables of real classes and of injections.

    Parameters
    ----------
    rows : list of dict
        From `figures.all_figures`.
    families : sequence of Family
        Injections that were made.
    label : str
        ``"real"`` or ``"simulated"``.
    n_left_out : dict
        Spectra left out, by reason.
    console : rich.console.Console, optional
        Where to.
    """
    console = console or Console(width=_WIDTH)
    table = pd.DataFrame(rows)
    real, injected = table[table["table"] == label], table[table["table"] != label]
    console.print(_class_table(real, label))
    console.print(_trust_table(real, injected, label))
    reasons = ", ".join(f"{n} × {reason}" for reason, n in n_left_out.items() if n)
    console.print(f"left out: {reasons or 'nothing'}\n")
    for what in ("recall@P", "S50"):
        console.print(_family_table(injected, families, label, what))
    console.print(_difference_table(table, label))


def _class_table(real, label):
    recall = real[(real["metric"] == "recall@P")]
    subjects = [*recall["subject"].drop_duplicates()]
    table = Table(title=f"({label}) recall at N = P (95 % interval), each class among ordinary quasars alone")
    table.add_column("ranker")
    for subject in subjects:
        one = recall[recall["subject"] == subject].iloc[0]
        about = "" if np.isnan(one.get("n", np.nan)) else f"\nn={one['n']:.0f}, {one['prevalence']:.0%}, {one['kind']}"
        table.add_column(subject + about, justify="right")
    table.add_column("RWS, macro", justify="right")
    table.add_column("precision@50,\nall rare", justify="right")
    for ranker in recall["ranker"].drop_duplicates():
        own = real[real["ranker"] == ranker]
        cells = [_cell(own, "recall@P", subject) for subject in subjects]
        cells.append(_cell(own, "RWS", "macro over rare classes"))
        cells.append(_cell(own, "precision@50", "all rare"))
        table.add_row(f"{ranker} ({label})", *cells)
    return table


def _trust_table(real, injected, label):
    columns = {
        "Spearman with S/N": (real, "Spearman", "snr"),
        "Spearman with redshift": (real, "Spearman", "redshift"),
        "overlap of 5 seeds (RBO 0.99)": (real, "rank-biased overlap", "seeds"),
        "Jaccard of seeds": (real, "top-N Jaccard", "seeds"),
        "KS of p-values": (real, "KS distance of p-values", "ordinary"),
        "sky fibres in top 50": (real, "artefact fraction@50", "sky fibres"),
    }
    for metric in sorted({one for one in injected["metric"] if one.startswith(("artefact fraction", "precision@"))}):
        columns[f"{metric}, injected mixed list"] = (injected, metric, "mixed list")
    table = Table(title=f"({label}; last columns injected) can the ranking be trusted?")
    table.add_column("ranker")
    for name in columns:
        table.add_column(name, justify="right")
    for ranker in real["ranker"].drop_duplicates():
        cells = [_cell(frame[frame["ranker"] == ranker], *which) for frame, *which in columns.values()]
        table.add_row(f"{ranker} ({label})", *cells)
    return table


def _family_table(injected, families, label, what):
    rankers = [*injected["ranker"].drop_duplicates()]
    title = {
        "recall@P": "recall at N = P, prevalence 5 %, at the middle dose (control: the same hosts, nothing injected)",
        "S50": "S50, the dose at which half are found (>: not at the highest dose; ≤: at the lowest already)",
    }[what]
    table = Table(title=f"(injected into {label}) {title}")
    table.add_column("family (dose)")
    for ranker in rankers:
        table.add_column(ranker.replace(": ", ":\n"), justify="right")
    for kind in (ASTRO, ARTEFACT):
        for family in [one for one in families if one.kind == kind]:
            own = injected[injected["subject"] == family.name]
            if what == "recall@P":
                own, dose = own[own["dose"] == middle_dose(family)], middle_dose(family)
            else:
                dose = f"{family.doses[0]}–{family.doses[-1]}"
            values = _by_ranker(own, what, rankers)
            best = np.nanmax(values) if what == "recall@P" else np.nanmin(values)
            cells = [
                _mark(_cell(own[own["ranker"] == ranker], what, family.name, family), value == best)
                for ranker, value in zip(rankers, values, strict=True)
            ]
            table.add_row(f"{family.name} ({dose} {family.unit}) injected", *cells)
        if what == "recall@P":
            for metric in ("recall@P", "recall@P, control", "RWS"):
                subject = f"macro over {kind} families"
                cells = [_cell(injected[injected["ranker"] == ranker], metric, subject) for ranker in rankers]
                table.add_row(f"[bold]{kind}, macro {metric}", *cells)
        table.add_section()
    return table


def _difference_table(table, label):
    """Show the first ranker minus every other, and whether the interval leaves 0 out."""
    found = table[table["metric"].str.startswith("difference")]
    keys = [*found[["table", "metric", "subject"]].drop_duplicates().itertuples(index=False, name=None)]
    keys = [key for key in keys if not any(word in key[1] for word in ("control", "enrichment", "average"))]
    first = found["first"].iloc[0] if len(found) else ""
    result = Table(title=f"{first} minus each other ranker, paired (=: no difference, the 95 % interval includes 0)")
    result.add_column("figure")
    rankers = [*found["ranker"].drop_duplicates()]
    for ranker in rankers:
        result.add_column(ranker, justify="right")
    for key in keys:
        own = found[(found["table"] == key[0]) & (found["metric"] == key[1]) & (found["subject"] == key[2])]
        cells = [_cell(own[own["ranker"] == ranker], key[1], key[2], is_signed=True) for ranker in rankers]
        subject = key[2].removeprefix("macro over ").removesuffix(" families")
        frame = "injected" if key[0].startswith("injected") else key[0]
        result.add_row(f"({frame}) {key[1].removeprefix('difference: ')}, {subject}", *cells)
    return result


def _by_ranker(own, metric, rankers):
    values = own[own["metric"] == metric].set_index("ranker")["value"].astype(float)
    return values.reindex(rankers).to_numpy()


def _cell(own, metric, subject, family=None, is_signed=False):
    found = own[(own["metric"] == metric) & (own["subject"] == subject)]
    if found.empty:
        return "–"
    one = found.iloc[0]
    if isinstance(one.get("note"), str) and one["note"].startswith("too small"):
        return one["note"]
    if pd.isna(one["value"]):
        return "–"
    if family is not None and metric == "S50":
        return _dose(one["value"], family)
    text = f"{one['value']:+.2f}" if is_signed else f"{one['value']:.2f}"
    if pd.notna(one["low"]):
        text += f" ({_short(one['low'])} {_short(one['high'])})"
        if is_signed and one["low"] <= 0 <= one["high"]:
            text += " ="
    return text


def _short(value):
    """Format without the zero before the point: eleven rankers stand side by side."""
    return f"{value:.2f}".replace("0.", ".", 1)


def _dose(value, family):
    if np.isinf(value):
        return f">{family.doses[-1]:g}"
    return f"{'≤' if value <= family.doses[0] else ''}{value:.3g}"


def _mark(text, is_best):
    return f"[bold green]{text}[/]" if is_best and not text.startswith(">") else text
