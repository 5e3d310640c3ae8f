"""The catalog never loses, doubles, changes or garbles what a person said."""

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from astrolab.settings import settings
from astrolab.stores.catalog import CatalogError, open_catalog
from astrolab.stores.catalog import connection as connection_module
from astrolab.stores.catalog.tables import METADATA

TARGETID = 2**53 + 1


@pytest.fixture
def catalog(catalog_url):
    with open_catalog(catalog_url) as catalog:
        yield catalog


def execute(url, *statements):
    """Do what somebody with another program could do."""
    url = sa.make_url(url)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        return [connection.exec_driver_sql(statement) for statement in statements]


def test_a_verdict_is_stored_exactly(catalog, catalog_url):
    comment = "=cmd|' /C calc'!A0 <script>alert(1)</script> \u202e é 星\n" + "x" * 10_000
    verdict = catalog.add_verdict(
        "run", np.int64(TARGETID), "anomaly", user="vera", survey="main", comment=comment, model_version="abc"
    )
    assert abs(verdict.time - datetime.now(UTC)) < timedelta(minutes=1)
    with open_catalog(catalog_url) as again:
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


@pytest.mark.parametrize("table", ["verdicts", "audit", "runs", "rankings"])
def test_the_database_itself_refuses_changes(catalog, catalog_url, table):
    catalog.add_verdict("run", TARGETID, "anomaly", user="vera", key="k")
    objects = pd.DataFrame({"targetid": [5], "survey": "", "program": "", "rank": 1, "score": 1.0, "audit_order": [1]})
    objects = objects.assign(inclusion_probability=1.0)
    catalog.offer_run("run", objects, seed=0, audit_share=0.1, repeat_share=0.1)
    statements = [f"UPDATE {table} SET run_id = 'x'", f"DELETE FROM {table}"]
    if catalog_url.startswith("postgresql"):
        statements.append(f"TRUNCATE {table} CASCADE")
    else:
        statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            execute(catalog_url, statement)
    assert catalog.verdicts()["label"].tolist() == ["anomaly"]
    assert catalog.audit_log()["action"].tolist() == ["verdict", "offer"]


def test_a_full_verdict_is_stored(catalog):
    said = {"program": "dark", "quality": 4, "flags": ["S", "R", "astrophysics"], "spectype": "QSO", "redshift": 2.5}
    stored = catalog.add_verdict("run", TARGETID, user="vera", seconds_spent=3.5, is_audit=True, **said)
    (row,) = catalog.verdicts().to_dict("records")
    for name, value in (said | {"flags": "R S astrophysics", "label": "", "seconds_spent": 3.5}).items():
        assert row[name] == value == getattr(stored, name)
    assert (row["is_audit"], row["is_repeat"], row["imported_by"]) == (True, False, "")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({}, "label is ''"),
        ({"quality": 5}, "quality is 5, expected a whole number from 0"),
        ({"quality": 2.5}, "quality is 2.5"),
        ({"quality": True}, "quality is True"),
        ({"label": "regular", "flags": "R X"}, "flags hold 'X', expected some of: R, C, S, artefact, astrophysics"),
        ({"label": "regular", "flags": "artefact astrophysics"}, "at most one of the two"),
        ({"label": "regular", "redshift": float("nan")}, "redshift is nan, expected a finite number"),
        ({"label": "regular", "redshift": -1}, "redshift is -1"),
        ({"label": "regular", "seconds_spent": -3}, "seconds_spent is -3"),
        ({"label": "regular", "comment": "x" * 20_001}, "comment has 20,001 characters, expected at most 20,000"),
        ({"label": "regular", "comment": "a\0b"}, "NUL character"),
        ({"label": "regular", "comment": "\ud800"}, "half a surrogate pair"),
    ],
    ids=str,
)
def test_what_cannot_be_said_is_refused(catalog, said, sentence):
    with pytest.raises(ValueError, match=sentence):
        catalog.add_verdict("run", TARGETID, user="vera", **said)
    assert len(catalog.verdicts()) == len(catalog.audit_log()) == 0


def test_verdict_and_audit_entry_are_one_transaction(catalog, catalog_url):
    first = catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    event = catalog.undo(first.id, user="vera")
    log = catalog.audit_log("run")
    assert log["action"].tolist() == ["verdict", "undo"]
    assert log["verdict_id"].tolist() == [first.id, event.id]
    assert log["time"].tolist() == [first.time, event.time]
    execute(catalog_url, "ALTER TABLE audit RENAME TO hidden")
    with pytest.raises(CatalogError, match="was not written"):
        catalog.add_verdict("run", TARGETID, "regular", user="vera")
    execute(catalog_url, "ALTER TABLE hidden RENAME TO audit")
    assert len(catalog.verdicts()) == 2
    catalog.add_verdict("run", TARGETID, "regular", user="vera")  # and on it goes


def test_threads_and_servers_store_each_click_once(catalog, catalog_url):
    """Every click is sent twice, to two servers at the same moment."""
    with open_catalog(catalog_url) as other, ThreadPoolExecutor(20) as pool:

        def click(number):
            store = (catalog if number % 2 else other).add_verdict
            return store("run", TARGETID + number // 2, "anomaly", user="vera", key=f"click {number // 2}").id

        ids = list(pool.map(click, range(200)))
    assert ids[::2] == ids[1::2]
    assert sorted(catalog.verdicts()["targetid"]) == [TARGETID + i for i in range(100)]
    assert catalog.audit_log()["verdict_id"].is_unique


def test_one_bad_write_spoils_no_other_of_its_group(catalog):
    def click(number):
        try:
            return catalog.add_verdict("run", number, "anomaly", user="vera", key=f"{number // 2}").targetid
        except ValueError:
            return None

    with ThreadPoolExecutor(20) as pool:
        stored = [targetid for targetid in pool.map(click, range(100)) if targetid is not None]
    assert sorted(stored) == sorted(catalog.verdicts()["targetid"])
    assert len(stored) == 50  # each key once; the other number with it is refused


def test_imports_are_all_or_nothing_and_once(catalog):
    rows = [{"run_id": "run", "targetid": i, "user": "desi", "quality": 3, "key": f"k{i}"} for i in range(1200)]
    assert catalog.import_verdicts(rows, imported_by="lea", source="vi.csv") == 1200
    assert catalog.import_verdicts(rows, imported_by="lea") == 0
    with pytest.raises(ValueError, match="quality is 9"):
        catalog.import_verdicts([*rows, rows[0] | {"key": "new", "quality": 9}], imported_by="lea")
    catalog.add_verdict("run", 5, "regular", user="desi")  # one's own word and an imported one stand side by side
    table = catalog.verdicts(targetid=5)
    assert table["is_current"].tolist() == [True, True]
    assert table["imported_by"].tolist() == ["lea", ""]
    assert json.loads(catalog.audit_log()["details"][0]) == {"n_verdicts": 1200, "source": "vi.csv"}
    with pytest.raises(ValueError, match="can undo only their own"):
        catalog.undo(int(table["id"].iloc[0]), user="desi")
    catalog.undo(int(table["id"].iloc[0]), user="lea")


def test_roles_are_kept_and_logged(catalog):
    assert catalog.role_of("vera") is None
    catalog.set_role("vera", "vetter", by="ada")
    catalog.set_role("vera", "lead", by="ada")
    assert catalog.role_of("vera") == "lead"
    assert catalog.audit_log()["details"].str.contains('"lead"').tolist() == [False, True]


# --- the schema

# what AstroLab made before its catalogs had a version
UNVERSIONED = """
CREATE TABLE verdicts (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, time DATETIME NOT NULL, run_id TEXT NOT NULL,
 targetid BIGINT NOT NULL, survey TEXT NOT NULL, user TEXT NOT NULL, label TEXT NOT NULL, comment TEXT NOT NULL,
 undoes INTEGER, key TEXT NOT NULL, model_version TEXT NOT NULL, UNIQUE (undoes), FOREIGN KEY(undoes) REFERENCES
 verdicts (id), UNIQUE (key));
CREATE INDEX verdicts_of_run ON verdicts (run_id, targetid);
CREATE TRIGGER verdicts_no_update BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;
CREATE TRIGGER verdicts_no_delete BEFORE DELETE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END;
INSERT INTO verdicts VALUES (1, '2026-01-02 03:04:05.000006', 'run', 9007199254740993, 'main', 'vera', 'anomaly',
 'é', NULL, 'k1', 'm');
INSERT INTO verdicts VALUES (2, '2026-01-02 03:04:06.000006', 'run', 9007199254740993, 'main', 'vera', '', '', 1, 'k2',
 'm');
"""


def test_an_unversioned_catalog_is_upgraded_with_its_rows(tmp_path):
    database = sqlite3.connect(tmp_path / "old.db")
    database.executescript(UNVERSIONED)
    database.close()
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with open_catalog(url) as catalog:
        table = catalog.verdicts()
        assert table["targetid"].tolist() == [TARGETID] * 2
        assert table["is_undone"].tolist() == [True, False]
        assert table["comment"].tolist() == ["é", ""]
        assert table["time"][0] == datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
        assert catalog.add_verdict("run", TARGETID, quality=4, user="vera").id == 3
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        execute(url, "DELETE FROM verdicts")


def test_the_migrations_make_the_tables_that_are_declared(catalog, catalog_url):
    url = sa.make_url(catalog_url)
    engine = sa.create_engine(url.set(drivername=url.drivername.replace("postgresql", "postgresql+psycopg")))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def test_a_newer_schema_is_refused(catalog, catalog_url):
    catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    execute(catalog_url, "UPDATE alembic_version SET version_num = '99'")
    with pytest.raises(CatalogError, match=r"has schema '99', and this AstroLab knows them up to '2'.*pip install -U"):
        open_catalog(catalog_url)


# one process imports, twenty forked ones open the catalog at the same moment (it is not there yet) and write
WRITERS = """
import os, sys
from astrolab.stores.catalog import open_catalog
children = []
for writer in range(20):
    pid = os.fork()
    if pid == 0:
        with open_catalog(sys.argv[1]) as catalog:
            for i in range(20):
                targetid = 2**53 + 1 + 2 * (20 * writer + i)
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
    assert len(table) == 400
    assert sorted(table["targetid"]) == [2**53 + 1 + 2 * i for i in range(400)]
    assert table["key"].is_unique
    assert table["is_current"].all()


def test_a_locked_database_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.1)
    with open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}") as impatient:
        holder = sqlite3.connect(tmp_path / "catalog.db", isolation_level=None)
        try:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(CatalogError, match=r"was not written: another program locked it for 0 s; try again"):
                impatient.add_verdict("run", TARGETID, "anomaly", user="vera")
            assert len(impatient.verdicts()) == 0  # reading goes on
        finally:
            holder.close()
        impatient.add_verdict("run", TARGETID, "anomaly", user="vera")


def test_a_read_only_database_says_so(tmp_path):
    path = tmp_path / "catalog.db"
    open_catalog(f"sqlite:///{path}").close()
    with pytest.raises(CatalogError, match=r"cannot be written .*set ASTROLAB_HOME"):
        open_catalog(f"sqlite:///file:{path}?mode=ro&uri=true").add_verdict("run", TARGETID, "anomaly", user="vera")


def test_a_database_file_that_vanished_comes_back_without_a_restart(tmp_path):
    path, away = tmp_path / "catalog.db", tmp_path / "away.db"
    with open_catalog(f"sqlite:///{path}") as catalog:
        catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
        path.rename(away)
        for call in (catalog.verdicts, lambda: catalog.add_verdict("run", TARGETID, "regular", user="vera")):
            with pytest.raises(CatalogError, match="unable to open"):
                call()
        assert not path.exists()  # no empty one in its place
        away.rename(path)
        catalog.add_verdict("run", TARGETID, "unsure", user="vera")
        assert catalog.verdicts()["label"].tolist() == ["anomaly", "unsure"]


def test_a_server_that_stops_comes_back_without_a_restart(postgresql_server):
    url = postgresql_server.new_database()
    with open_catalog(url) as catalog:
        catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
        postgresql_server.stop()
        try:
            for call in (catalog.verdicts, lambda: catalog.add_verdict("run", TARGETID, "regular", user="vera")):
                with pytest.raises(CatalogError, match="set ASTROLAB_CATALOG_URL to a database that answers"):
                    call()
        finally:
            postgresql_server.start()
        catalog.add_verdict("run", TARGETID, "unsure", user="vera")
        assert catalog.verdicts()["label"].tolist() == ["anomaly", "unsure"]
        name = sa.make_url(url).database
        execute(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with open_catalog(url) as reader, pytest.raises(CatalogError, match=r"cannot be written .*read-only"):
            reader.add_verdict("run", TARGETID, "regular", user="vera")


def test_a_password_in_the_url_is_not_told(tmp_path):
    with pytest.raises(CatalogError) as raised:
        open_catalog(f"postgresql://vera:hunter2@/catalog?host={tmp_path}")
    assert "hunter2" not in str(raised.value)


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
    with pytest.raises(ValueError, match="'mysql' is no database of the catalog"):
        open_catalog("mysql://host/catalog")


def test_the_setting_chooses_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("ASTROLAB_CATALOG_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    settings.cache_clear()
    with open_catalog() as catalog:
        catalog.add_verdict("run", TARGETID, "anomaly", user="vera")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'elsewhere.db'}", poolclass=sa.NullPool)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT targetid FROM verdicts")).scalar() == TARGETID
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
