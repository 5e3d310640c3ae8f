r"""Verdicts in and out: one table, written as CSV, JSON, Parquet, FITS, VOTable, or prospect's VI file.

No text of a vetter is ever a formula, a script or markup where it arrives, and all of it comes back byte for byte:
a spreadsheet's formula signs get an apostrophe in front, what FITS and VOTable cannot hold becomes ``\xNN`` as in
Python's strings.
"""

import csv
import getpass
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io.votable import from_table, parse_single_table
from astropy.table import Table

from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.run_folder import open_run, ranking_columns

COLUMNS = (
    "targetid",
    "survey",
    "program",
    "user",
    "time",
    "label",
    "quality",
    "flags",
    "spectype",
    "redshift",
    "comment",
    "model_version",
    "run_id",
    "seconds_spent",
    "is_current",
    "is_repeat",
    "is_audit",
    "is_adjudication",
    "imported_by",
)
# https://github.com/desihub/prospect: utilities.vi_file_fields, in the order that its reader expects
PROSPECT_COLUMNS = (
    "TARGETID",
    "EXPID",
    "NIGHT",
    "TILEID",
    "Spec_version",
    "Redrock_version",
    "Template_version",
    "Redrock_spectype",
    "Redrock_z",
    "VI_scanner",
    "VI_quality",
    "VI_issue",
    "VI_z",
    "VI_spectype",
    "VI_comment",
)
FORMATS = ("csv", "json", "parquet", "fits", "votable", "prospect")
_PROSPECT_DEFAULTS = dict.fromkeys(PROSPECT_COLUMNS[1:7], "-1")
_KIND_OF = {f".{kind}": kind for kind in ("csv", "json", "parquet", "fits")} | dict.fromkeys(
    (".votable", ".vot", ".xml"), "votable"
)
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # what a spreadsheet would compute
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")  # in prospect's columns these are texts
_NUMBERS = {"quality": int, "redshift": float, "seconds_spent": float}
_NOT_FITS = re.compile(r"[^\x20-\x5b\x5d-\x7e]|^ | $")
_NOT_XML = re.compile(r"[\x00-\x1f\x5c\x7f-\x9f\u2028\u2029\ufffe\uffff]|[^\x00-\uffff]|^\s|\s$")


def verdict_table(events):
    """Return verdicts as they are exported: one row each, without those that were taken back.

    Parameters
    ----------
    events : pandas.DataFrame
        What `Catalog.verdicts` returns.

    Returns
    -------
    pandas.DataFrame
        Those of the columns ``COLUMNS`` that the events have; targetid int64, time ISO 8601 in UTC.
    """
    table = events[events["undoes"].isna() & ~events["is_undone"]]
    time = [moment.isoformat() for moment in table["time"]]
    names = [name for name in (*COLUMNS, "imported_row") if name in table]
    return table.assign(time=np.asarray(time, dtype=object))[names].reset_index(drop=True)


def export_verdicts(table, format):  # noqa: A002 the command's word
    """Return a file of verdicts.

    Parameters
    ----------
    table : pandas.DataFrame
        What `verdict_table` returns.
    format : str
        One of ``FORMATS``. In FITS and VOTable a quality of -1 and a redshift of NaN mean: not given. JSON holds
        targetid as a number of 64 bits, more than a browser's numbers hold. ``"prospect"`` has neither labels nor
        the flags artefact and astrophysics.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If there is no such format.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of: {', '.join(FORMATS)}.")
    if format == "prospect":
        return _to_prospect(table)
    table = table.drop(columns="imported_row")
    return {"csv": _to_csv, "json": _to_json, "parquet": _to_parquet, "fits": _to_fits, "votable": _to_votable}[format](
        table
    )


def export_objects(table, format):  # noqa: A002 the command's word
    r"""Return a file of objects, such as a selection of a survey.

    Parameters
    ----------
    table : pandas.DataFrame
        One row an object, with ``targetid``; up to millions.
    format : {"csv", "parquet"}
        Of the file.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If there is no such format.

    Examples
    --------
    >>> export_objects(pd.DataFrame({"targetid": [2**53 + 1], "survey": ["=main"]}), "csv")
    b"targetid,survey\n9007199254740993,'=main\n"
    """
    if format == "parquet":
        return _to_parquet(table)
    if format != "csv":
        raise ValueError(f"format is {format!r}, expected one of: csv, parquet.")
    texts = [name for name in table if table[name].dtype.kind not in "biuf"]
    # a survey has few different words in millions of rows
    inert = {name: table[name].map({text: _inert(text) for text in table[name].unique()}) for name in texts}
    return table.assign(**inert).to_csv(index=False).encode("utf-8")


def read_verdicts(path):
    """Read verdicts that were made elsewhere: a file that `export_verdicts` made, or one of prospect.

    Parameters
    ----------
    path : path-like
        Its name ends in .csv, .json, .parquet, .fits, .votable, .vot or .xml; a CSV with a column ``VI_scanner`` is
        prospect's.

    Returns
    -------
    list of dict
        What `Session.import_verdicts` takes; the same row has the same key whenever it is read.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds no verdicts; it says which row.
    """
    path = Path(path)
    kind = _KIND_OF.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"'{path}' ends in {path.suffix!r}, expected one of: {', '.join(_KIND_OF)}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}), expected a file of verdicts.") from error
    try:
        records = list(
            {"csv": _from_csv, "json": json.loads, "parquet": _from_parquet}.get(kind, _from_astropy)(content)
        )
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"'{path}' is no {kind} file of verdicts ({error}).") from error
    rows = []
    for number, record in enumerate(records, start=1):
        try:
            rows.append(_row(record))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"'{path}', verdict {number}: {error!r}, expected columns as in an export.") from error
    return rows


def import_file(catalog, run_dir, path):
    """Import a file of verdicts on the objects of a run, as the person who is logged in on this machine.

    Parameters
    ----------
    catalog : astrolab.stores.catalog.Catalog
        Where they go.
    run_dir : path-like
        The run; the verdicts must be on objects that it ranks.
    path : path-like
        What `read_verdicts` reads.

    Returns
    -------
    n_read, n_new : int
        Verdicts in the file, and those that were not there before.
    """
    rows, run = read_verdicts(path), open_run(run_dir)
    campaign = open_campaign(catalog, run.run_id, ranking_columns(run.ranked), model_version=run.model_version)
    session = campaign.session(getpass.getuser(), "admin")
    n_new = session.import_verdicts(rows, source=Path(path).name, targetids=set(run.ranking["targetid"].tolist()))
    return len(rows), n_new


# --- out


def _inert(text):
    is_formula = isinstance(text, str) and _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return "'" + text if is_formula else text


def _to_csv(table):
    rows = table.astype(object).where(table.notna(), "").to_numpy().tolist()
    return _write_csv(table.columns, rows, csv.QUOTE_NONNUMERIC)


def _write_csv(names, rows, quoting):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=quoting, lineterminator="\n")
    careful = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")  # a bare carriage return ends a line too
    writer.writerow(names)
    for row in rows:
        has_return = any(isinstance(value, str) and "\r" in value for value in row)
        (careful if has_return else writer).writerow([_inert(value) for value in row])
    return file.getvalue().encode("utf-8")


def _to_json(table):
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    text = json.dumps(records, ensure_ascii=False, indent=1)
    for character in "<>&\u2028\u2029":  # only within strings: inert in a page too
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8")


def _to_parquet(table):
    file = io.BytesIO()
    table.to_parquet(file, index=False, write_page_checksum=True)
    return file.getvalue()


def _to_fits(table):
    file = io.BytesIO()
    escaped = _for_astropy(table, _NOT_FITS, lambda text: text.encode("ascii"))
    escaped.meta["COMMENT"] = "text columns: backslash escapes as in Python's strings; quality -1: not given"
    escaped.write(file, format="fits")
    return file.getvalue()


def _to_votable(table):
    file = io.BytesIO()
    from_table(_for_astropy(table, _NOT_XML, str)).to_xml(file)
    return file.getvalue()


def _for_astropy(table, unsafe, to_stored):
    columns = {}
    for name, values in table.items():
        if name == "quality":
            columns[name] = values.fillna(-1).to_numpy("int16")
        elif values.dtype == object or str(values.dtype) == "str":
            texts = [to_stored(unsafe.sub(_escaped, text)) for text in values]
            columns[name] = np.array(texts or [to_stored("")])[: len(texts)]
        else:
            columns[name] = values.to_numpy()
    return Table(columns)


def _escaped(match):
    number = ord(match.group())
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _to_prospect(table):
    rows = []
    for row in table.to_dict("records"):
        original = json.loads(row["imported_row"] or "{}")
        if "VI_scanner" not in original:
            original = _PROSPECT_DEFAULTS | {
                "TARGETID": row["targetid"],
                "Redrock_spectype": "",
                "Redrock_z": "-1",
                "VI_scanner": row["user"],
                "VI_quality": -1 if pd.isna(row["quality"]) else row["quality"],
                "VI_issue": "".join(flag for flag in row["flags"].split() if len(flag) == 1),
                "VI_z": "" if pd.isna(row["redshift"]) else repr(float(row["redshift"])),
                "VI_spectype": row["spectype"],
                "VI_comment": row["comment"],
            }
        rows.append([original.get(name, "") for name in PROSPECT_COLUMNS])
    return _write_csv(PROSPECT_COLUMNS, rows, csv.QUOTE_MINIMAL)


# --- in


def _from_csv(content):
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    for record in reader:
        if None in record or None in record.values():
            raise ValueError(f"line {reader.line_num} has not as many cells as the first")
        yield {name: text[1:] if text[:1] == "'" and _FORMULA.match(text) else text for name, text in record.items()}


def _from_parquet(content):
    return pd.read_parquet(io.BytesIO(content)).to_dict("records")


def _from_astropy(content):
    if content.startswith(b"SIMPLE"):
        table = Table.read(io.BytesIO(content), format="fits")
    else:
        table = parse_single_table(io.BytesIO(content)).to_table()
    columns = [[_plain(value) for value in table[name].tolist()] for name in table.colnames]
    return [dict(zip(table.colnames, values, strict=True)) for values in zip(*columns, strict=True)]


def _plain(value):
    return _unescaped(value) if isinstance(value, str | bytes) else "" if value is None else value


def _unescaped(text):
    text = text.decode("ascii") if isinstance(text, bytes) else text
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def _row(record):
    """Return the arguments of a verdict from a row of a file."""
    by_upper = {name.upper(): value for name, value in record.items()}
    if "VI_SCANNER" in by_upper:
        return _prospect_row({name: str(by_upper.get(name.upper(), "")) for name in PROSPECT_COLUMNS})
    row = {name: record[name] for name in ("user", "label", "flags", "spectype", "comment", "model_version")}
    row |= {name: record.get(name, "") for name in ("survey", "program")}
    row = {name: str(value) for name, value in row.items()}
    row["targetid"] = _whole(record["targetid"])
    row |= {name: _number(record.get(name), kind) for name, kind in _NUMBERS.items()}
    origin = {name: str(record.get(name, "")) for name in ("time", "run_id")}
    return row | {"key": _key(row | origin), "imported_row": json.dumps(origin)}


def _prospect_row(record):
    quality = _number(record["VI_quality"].strip(), int)
    row = {
        "targetid": _whole(record["TARGETID"]),
        "user": record["VI_scanner"].strip() or "unknown",
        "quality": quality,
        "flags": " ".join(record["VI_issue"].strip()),
        "redshift": _number(record["VI_z"].strip(), float),
        "spectype": record["VI_spectype"].strip(),
        "comment": record["VI_comment"],
    }
    return row | {"key": _key(record), "imported_row": json.dumps(record)}


def _whole(value):
    """Return a targetid as an int; a float has lost digits already."""
    if isinstance(value, float | np.floating):
        raise TypeError(f"targetid is {value!r}, a float, expected an integer")
    return int(value)


def _number(value, kind):
    if value is None or value is pd.NA or value == "":
        return None
    value = float(value)
    if not np.isfinite(value) or (kind is int and value == -1):
        return None
    if kind is int and value != int(value):
        raise ValueError(f"quality is {value!r}, expected a whole number")
    return kind(value)


def _key(row):
    return "import-" + hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()
