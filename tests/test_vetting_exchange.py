"""Verdicts leave and come back as they were: ids exact, texts byte for byte, formulas and scripts inert."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from astrolab.stores.catalog import open_catalog
from astrolab.vetting.campaigns import open_campaign
from astrolab.vetting.exchange import COLUMNS, FORMATS, export_verdicts, read_verdicts, verdict_table

FIRST_ID = 2**53 + 1
SUFFIX = {"prospect": "csv"}
COMMENTS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@x",
    "-2",
    "-cmd",
    "\tx",
    "\r=1",
    "\n=1",
    "'=x",
    "'",
    "''",
    "＝x",
    "a;=b",
    '"q",',
]
COMMENTS += ["<script>alert(1)</script> & ]]>", "é 星 \U0001f52d \u202e", "a\r\nb\rc\n", " both ends ", "\\x41 \\", ""]
COMMENTS += ["\x01\x7f\x85", "nan", "None", "x" * 10_000]

# what prospect's own page saves
PROSPECT = """\
TARGETID,EXPID,NIGHT,TILEID,Spec_version,Redrock_version,Template_version,Redrock_spectype,Redrock_z,VI_scanner,VI_quality,VI_issue,VI_z,VI_spectype,VI_comment
9007199254740993,12345,20200703,65432,0.33.3,0.22.2,1.0,GALAXY,0.2200,Desi Arnaz,1,R,0.230,QSO,"a , comma"
9007199254740995,-1,20200703,65432,0.33.3,0.22.2,1.0,STAR,-0.0003,Desi Arnaz,4,RCS,,STAR,
9007199254740997,12345,20200703,65432,0.33.3,0.22.2,1.0,STAR,0.0003,Desi Arnaz,-1,,,,only words
"""


def table_of(comments, n_objects):
    """Build a table as `verdict_table` returns it, without a database."""
    number = np.arange(n_objects)
    texts = {"survey": "main", "program": "dark", "user": "vera", "label": "anomaly", "flags": "R S", "spectype": "QSO"}
    texts |= {"time": "2026-01-01T00:00:00+00:00", "model_version": "m", "run_id": "r", "imported_by": ""}
    marks = dict.fromkeys(("is_current", "is_repeat", "is_audit", "is_adjudication"), False)
    table = pd.DataFrame({"targetid": FIRST_ID + 2 * number, **texts, **marks, "imported_row": ""})
    quality = pd.array([None if i % 7 == 0 else i % 5 for i in number], "Int64")
    redshift = np.where(number % 3, number / 7 + 0.1, np.nan)
    comment = [comments[i % len(comments)] for i in number]
    return table.assign(quality=quality, redshift=redshift, comment=comment, seconds_spent=1.5)


@pytest.mark.parametrize("kind", FORMATS)
def test_everything_comes_back(kind, tmp_path):
    table = table_of(COMMENTS, 3 * len(COMMENTS))
    path = tmp_path / f"verdicts.{SUFFIX.get(kind, kind)}"
    path.write_bytes(export_verdicts(table, kind))
    rows = read_verdicts(path)
    assert [row["targetid"] for row in rows] == table["targetid"].tolist()
    assert [row["comment"] for row in rows] == table["comment"].tolist()
    assert [row["quality"] for row in rows] == [None if pd.isna(q) else q for q in table["quality"]]
    assert [row["redshift"] for row in rows] == [None if np.isnan(z) else z for z in table["redshift"]]
    assert {row["flags"] for row in rows} == {"R S"}
    assert rows == read_verdicts(path)  # keys too: a second import is none
    export_verdicts(table[:0], kind)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "fits", "votable"])
def test_100_000_ids_are_exact(kind, tmp_path):
    columns = table_of(["", "odd"], 100_000)
    path = tmp_path / f"verdicts.{SUFFIX.get(kind, kind)}"
    path.write_bytes(export_verdicts(columns, kind))
    if kind == "csv":
        found = pd.read_csv(path)["targetid"]
    elif kind == "json":
        found = pd.Series([row["targetid"] for row in json.loads(path.read_bytes())])
    elif kind == "parquet":
        found = pd.read_parquet(path)["targetid"]
    else:
        from astropy.table import Table

        found = pd.Series(np.array(Table.read(path, format=kind)["targetid"]).astype("int64"))
    assert found.dtype == np.int64
    assert (found == columns["targetid"]).sum() == 100_000


def test_a_spreadsheet_computes_nothing_and_a_page_runs_nothing():
    table = table_of(COMMENTS, len(COMMENTS))
    for kind in ("csv", "prospect"):
        for row in csv.reader(io.StringIO(export_verdicts(table, kind).decode(), newline="")):
            for cell in row:
                is_number = cell.lstrip("-").replace(".", "", 1).isdecimal()
                assert is_number or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")), cell
    assert b"<script" not in export_verdicts(table, "json")
    assert b"<script" not in export_verdicts(table, "votable")


def test_prospects_columns_round_trip_through_the_catalog(catalog_url, tmp_path):
    (tmp_path / "vi.csv").write_text(PROSPECT)
    ranking = pd.DataFrame({"targetid": FIRST_ID + 2 * np.arange(3), "anomaly_rank": [1, 2, 3], "survey": "main"})
    with open_catalog(catalog_url) as catalog:
        lea = open_campaign(catalog, "run", ranking).session("lea", "lead")
        rows = read_verdicts(tmp_path / "vi.csv")
        assert lea.import_verdicts(rows, source="vi.csv") == 3
        assert lea.import_verdicts(rows, source="vi.csv") == 0
        table = verdict_table(catalog.verdicts("run"))
        with pytest.raises(ValueError, match="1 objects are not in run 'run': 5; nothing is stored"):
            lea.import_verdicts([rows[0] | {"targetid": 5}])
    assert export_verdicts(table, "prospect").decode() == PROSPECT
    assert tuple(table.columns[:-1]) == COLUMNS
    assert table["flags"].tolist() == ["R", "R C S", ""]
    assert table["redshift"].tolist()[0] == 0.23
    assert set(table["imported_by"]) == {"lea"}
    assert set(table["survey"]) == {"main"}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.doc", b"", "ends in '.doc', expected one of: .csv"),
        ("x.csv", b"\xff\xfe", "is no csv file of verdicts"),
        ("x.csv", b"a,b\n1\n", "not as many cells"),
        ("x.csv", b"targetid,label\n5,anomaly\n", "verdict 1: KeyError"),
        ("x.json", b"{", "is no json file"),
        ("x.json", b'[{"targetid": 5.0}]', "verdict 1"),
        ("x.fits", b"SIMPLE", "is no fits file"),
        ("x.parquet", b"PAR1", "is no parquet file"),
        ("x.vot", b"<x>", "is no votable file"),
    ],
    ids=str,
)
def test_what_is_no_verdict_says_so(tmp_path, name, content, sentence):
    path = Path(tmp_path / name)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        read_verdicts(path)
