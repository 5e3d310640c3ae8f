"""Write one event into an open transaction: a verdict or an undo, always with its audit entry."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from astrolab.stores.catalog.tables import AUDIT, VERDICTS
from astrolab.stores.catalog.verdicts import Verdict

# what must be the same where a key is
_SAID = ("run_id", "targetid", "survey", "user", "label", "comment", "undoes")
_SAID += ("quality", "flags", "spectype", "redshift")
_CHUNK = 500  # keys in one query
_DIALECTS = {"sqlite": sqlite, "postgresql": postgresql}
# statements are made once: to build one costs more than to run it
_NEW_ENTRY = sa.insert(AUDIT)
_OF_KEY = sa.select(VERDICTS).where(VERDICTS.c.key == sa.bindparam("wanted"))


def store_event(connection, row, key, action, user):
    """Insert a verdict or an undo and its audit entry, unless its key is there; return the `Verdict` that is."""
    stored = _with_key(connection, row, key)
    if stored is None:
        time = datetime.now(UTC)
        if row["undoes"] is not None:
            _refuse_second_undo(connection, row["undoes"])
        # on PostgreSQL another process can have stored the same one since
        statement = _new_verdict(connection.dialect.name)
        stored = connection.execute(statement, row | {"key": key, "time": time}).one_or_none()
        if stored is None:
            stored = _with_key(connection, row, key)
            if stored is None:
                raise ValueError(f"verdict {row['undoes']} is undone already.")
        else:
            details = {} if row["undoes"] is None else {"undoes": row["undoes"]}
            log(connection, user, action, time, row["run_id"], stored.id, details)
    return Verdict(**{field.name: getattr(stored, field.name) for field in fields(Verdict)})


def store_import(connection, rows, imported_by, source):
    """Insert those of some verdicts whose keys are not there, with one audit entry; return how many."""
    keys = [row["key"] for row in rows]
    known = set()
    for start in range(0, len(keys), _CHUNK):
        query = sa.select(VERDICTS.c.key).where(VERDICTS.c.key.in_(keys[start : start + _CHUNK]))
        known |= set(connection.execute(query).scalars())
    time = datetime.now(UTC)
    new = {row["key"]: row | {"time": time} for row in rows if row["key"] not in known}
    if new:
        connection.execute(sa.insert(VERDICTS), list(new.values()))
        details = {"n_verdicts": len(new), "source": source}
        log(connection, imported_by, "import", time, rows[0]["run_id"], details=details)
    return len(new)


def log(connection, user, action, time, run_id="", verdict_id=None, details=None):
    """Write an audit entry: who did what, when, and on which run and verdict."""
    entry = {"user": user, "action": action, "time": time, "run_id": run_id, "verdict_id": verdict_id}
    connection.execute(_NEW_ENTRY, entry | {"details": json.dumps(details or {})})


def _with_key(connection, row, key):
    stored = connection.execute(_OF_KEY, {"wanted": key}).one_or_none()
    if stored is not None and any(getattr(stored, name) != row[name] for name in _SAID):
        raise ValueError(f"key {key!r} already stands for verdict {stored.id}, expected a new key.")
    return stored


def _refuse_second_undo(connection, verdict_id):
    if connection.execute(sa.select(VERDICTS.c.id).where(VERDICTS.c.undoes == verdict_id)).first():
        raise ValueError(f"verdict {verdict_id} is undone already.")


def insert(connection, table):
    """Return an INSERT that can say what to do on a conflict."""
    return _DIALECTS[connection.dialect.name].insert(table)


@cache
def _new_verdict(dialect):
    return _DIALECTS[dialect].insert(VERDICTS).on_conflict_do_nothing().returning(VERDICTS)
