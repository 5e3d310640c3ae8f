"""The catalog never loses, doubles, changes or garbles what a person said."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa

from astrolab.settings import settings
from astrolab.stores.catalog import CatalogError, open_catalog
from astrolab.stores.catalog import connection as catalog_module

TARGETID = 2**53 + 1


@pytest.fixture
def catalog():
    with open_catalog() as catalog:
        yield catalog


def test_a_verdict_is_stored_exactly(catalog):
    comment = "=cmd|' /C calc'!A0 <script>alert(1)</script> \u202e é 星\n" + "x" * 10_000
    verdict = catalog.add_verdict(
        "run", np.int64(TARGETID), "anomaly", user="vera", survey="main", comment=comment, model_version="abc"
    )
    assert (settings().home / "catalog.db").exists()
    assert abs(verdict.time - datetime.now(UTC)) < timedelta(minutes=1)
    with open_catalog() as again:
        (row,) = again.verdicts("run").to_dict("records")
    assert row["targetid"] == TARGETID == verdict.targetid
    assert row["comment"] == comment
    assert (row["label"], row["user"], row["survey"], row["model_version"]) == ("anomaly", "vera", "main", "abc")
    assert row["time"] == verdict.time
    assert row["is_current"]


@pytest.mark.parametrize("targetid", [2**63 - 1, -(2**63), -5, 39627652591521181])
def test_every_int64_survives(catalog, targetid):
    catalog.add_verdict("run", targetid, "regular", user="vera")
    assert catalog.verdicts()["targetid"].tolist() == [targetid]
    assert catalog.verdicts()["targetid"].dtype == np.int64


def test_one_key_is_stored_once(catalog):
    first = catalog.add_verdict("run", TARGETID, "anomaly", user="vera", key="click-1")
    assert catalog.add_verdict("run", TARGETID, "anomaly", user="vera", key="click-1") == first
    assert len(catalog.verdicts()) == 1
    with pytest.raises(ValueError, match="key 'click-1' already stands for verdict 1"):
        catalog.add_verdict("run", TARGETID, "regular", user="vera", key="click-1")
    assert len(catalog.verdicts()) == 1


def test_the_last_verdict_of_each_user_is_current(catalog):
    for user, label in [("vera", "regular"), ("edwin", "unsure"), ("vera", "anomaly")]:
        catalog.add_verdict("run", TARGETID, label, user=user)
    catalog.add_verdict("other run", TARGETID, "artefact", user="vera")
    table = catalog.verdicts("run")
    assert table["label"].tolist() == ["regular", "unsure", "anomaly"]
    assert table["is_current"].tolist() == [False, True, True]
    assert len(catalog.verdicts()) == 4


def test_undo_is_an_event_and_brings_back_what_stood_before(catalog):
    first = catalog.add_verdict("run", TARGETID, "regular", user="vera")
    second = catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    event = catalog.undo(second.id, user="vera")
    assert event.undoes == second.id
    table = catalog.verdicts()
    assert len(table) == 3
    assert table.loc[table["is_current"], "id"].tolist() == [first.id]
    with pytest.raises(ValueError, match="verdict 2 is undone already"):
        catalog.undo(second.id, user="vera")
    with pytest.raises(ValueError, match="no verdict 3 to undo"):
        catalog.undo(event.id, user="vera")
    with pytest.raises(ValueError, match="verdict 1 is by 'vera', and 'eve' can undo only their own"):
        catalog.undo(first.id, user="eve")
    assert len(catalog.verdicts()) == 3


def test_an_empty_catalog_is_an_empty_table(catalog):
    table = catalog.verdicts("nothing")
    assert len(table) == 0
    assert table["targetid"].dtype == np.int64
    assert "is_current" in table


@pytest.mark.parametrize("targetid", [float(2**53), np.float64(7), "39627652591521181", None, True])
def test_a_targetid_is_never_rounded(catalog, targetid):
    with pytest.raises(TypeError, match="expected an integer"):
        catalog.add_verdict("run", targetid, "anomaly", user="vera")
    assert len(catalog.verdicts()) == 0


def test_wrong_words_are_refused(catalog):
    with pytest.raises(ValueError, match="label is 'weird', expected one of: anomaly, regular, unsure, artefact"):
        catalog.add_verdict("run", TARGETID, "weird", user="vera")
    with pytest.raises(ValueError, match="user is ''"):
        catalog.add_verdict("run", TARGETID, "anomaly", user="")
    with pytest.raises(ValueError, match="64-bit"):
        catalog.add_verdict("run", 2**63, "anomaly", user="vera")


@pytest.mark.parametrize("statement", ["UPDATE verdicts SET label = 'regular'", "DELETE FROM verdicts"])
def test_the_database_itself_refuses_changes(catalog, statement):
    catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    database = sqlite3.connect(settings().home / "catalog.db")
    try:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)
    finally:
        database.close()
    assert catalog.verdicts()["label"].tolist() == ["anomaly"]


# one process imports, twenty forked ones open the catalog at the same moment (it is not there yet) and write
WRITERS = """
import os, sys
from astrolab.stores.catalog import open_catalog
children = []
for writer in range(20):
    pid = os.fork()
    if pid == 0:
        with open_catalog(sys.argv[1]) as catalog:
            for i in range(50):
                targetid = 2**53 + 1 + 2 * (50 * writer + i)
                catalog.add_verdict("run", targetid, "anomaly", user=f"user{writer}", key=f"{writer}-{i}")
        os._exit(0)
    children.append(pid)
sys.exit(max(os.waitpid(pid, 0)[1] for pid in children) != 0)
"""


def test_twenty_processes_write_at_once(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.db'}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", WRITERS, url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with open_catalog(url) as catalog:
        table = catalog.verdicts()
    assert len(table) == 1000
    assert sorted(table["targetid"]) == [2**53 + 1 + 2 * i for i in range(1000)]
    assert table["key"].is_unique
    assert table["is_current"].all()


def test_a_locked_database_says_so(catalog, monkeypatch):
    monkeypatch.setattr(catalog_module, "BUSY_TIMEOUT", 0.1)
    with open_catalog() as impatient:
        holder = sqlite3.connect(settings().home / "catalog.db", isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(CatalogError, match=r"was not written: another program locked it for 0 s; try again"):
                impatient.add_verdict("run", TARGETID, "anomaly", user="vera")
            assert len(impatient.verdicts()) == 0  # reading goes on
        finally:
            holder.close()
        impatient.add_verdict("run", TARGETID, "anomaly", user="vera")


def test_a_read_only_database_says_so(catalog):
    path = settings().home / "catalog.db"
    with pytest.raises(CatalogError, match=r"cannot be written .*set ASTROLAB_HOME"):
        open_catalog(f"sqlite:///file:{path}?mode=ro&uri=true").add_verdict("run", TARGETID, "anomaly", user="vera")


def test_a_home_that_cannot_be_made_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ASTROLAB_HOME", str(tmp_path / "file" / "home"))
    settings.cache_clear()
    with pytest.raises(CatalogError, match=r"cannot be made \(Not a directory\); set ASTROLAB_HOME"):
        open_catalog()


def test_a_file_that_is_no_database_says_so(tmp_path):
    path = tmp_path / "catalog.db"
    path.write_text("not a database" * 100)
    with pytest.raises(CatalogError, match="file is not a database"):
        open_catalog(f"sqlite:///{path}")
    with pytest.raises(CatalogError, match="unable to open"):
        open_catalog(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")


def test_an_url_that_cannot_be_says_so():
    with pytest.raises(CatalogError, match="in memory and keeps nothing"):
        open_catalog("sqlite://")
    with pytest.raises(ValueError, match="is not a database URL"):
        open_catalog("catalog.db")


def test_the_setting_chooses_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROLAB_CATALOG_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    settings.cache_clear()
    with open_catalog() as catalog:
        catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT targetid FROM verdicts")).scalar() == TARGETID
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
