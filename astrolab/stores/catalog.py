"""The catalog of people's labels: an append-only SQL table, the dearest data in the house.

SQLite by default, any SQLAlchemy URL by setting ``ASTROLAB_CATALOG_URL``. A verdict is stored when
`Catalog.add_verdict` returns, not before; nothing is ever changed or deleted: an undo is one more row.
"""

import operator
import sqlite3
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import sqlalchemy as sa

from astrolab.settings import settings

LABELS = ("anomaly", "regular", "unsure", "artefact")
BUSY_TIMEOUT = 30.0  # s that a writer waits for another one

_BIGINT = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only a column named INTEGER


class _UtcTime(sa.TypeDecorator):
    """An instant: stored in UTC, returned aware of it also by databases that keep no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value, dialect):
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


_METADATA = sa.MetaData()
_VERDICTS = sa.Table(
    "verdicts",
    _METADATA,
    sa.Column("id", _BIGINT, primary_key=True, autoincrement=True),
    sa.Column("time", _UtcTime, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("targetid", sa.BigInteger, nullable=False),
    sa.Column("survey", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),  # empty in an undo
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("undoes", _BIGINT, sa.ForeignKey("verdicts.id"), unique=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Index("verdicts_of_run", "run_id", "targetid"),
    sqlite_autoincrement=True,
)
for _event in ("UPDATE", "DELETE"):
    sa.event.listen(
        _VERDICTS,
        "after_create",
        sa.DDL(
            f"CREATE TRIGGER verdicts_no_{_event.lower()} BEFORE {_event} ON verdicts "
            "BEGIN SELECT RAISE(ABORT, 'verdicts are append-only'); END"
        ).execute_if(dialect="sqlite"),
    )


class CatalogError(RuntimeError):
    """The catalog cannot be opened, read or written; what was to be stored is not stored."""


@dataclass(frozen=True)
class Verdict:
    """One row of the catalog: what a person said of an object, or that they take it back.

    Attributes
    ----------
    id : int
        Counts up; the order of events.
    time : datetime.datetime
        UTC, by the clock of the process that stored it (the server's, not the browser's).
    run_id, targetid, survey : str, int, str
        Of which object, and in which run it was ranked.
    user : str
        Who said it.
    label : str
        One of ``LABELS``; empty in an undo.
    comment : str
        Free text, as typed.
    undoes : int or None
        The id of the verdict that this event takes back.
    key : str
        Idempotency key: a second event with the same one is not stored again.
    model_version : str
        The model that ranked the object.
    """

    id: int
    time: datetime
    run_id: str
    targetid: int
    survey: str
    user: str
    label: str
    comment: str
    undoes: int | None
    key: str
    model_version: str


def open_catalog(url=None):
    """Open the catalog of verdicts, creating it where there is none.

    Parameters
    ----------
    url : str, optional
        SQLAlchemy URL, such as ``sqlite:////data/catalog.db``; by default ``ASTROLAB_CATALOG_URL``, and without that
        SQLite in ``catalog.db`` of ``ASTROLAB_HOME``.

    Returns
    -------
    Catalog
        Also a context manager.

    Raises
    ------
    CatalogError
        If the database is unreachable, read-only, not a database, or lives in memory alone.
    ValueError
        If `url` is not a SQLAlchemy URL.

    Examples
    --------
    >>> import astrolab as al
    >>> with al.open_catalog() as catalog:
    ...     verdict = catalog.add_verdict("run-1", 39627652591521181, "anomaly", user="vera", comment="BAL")
    >>> verdict.label
    'anomaly'
    """
    try:
        parsed = sa.make_url(url or settings().catalog_url or _default_url())
    except sa.exc.ArgumentError as error:
        raise ValueError(f"{url!r} is not a database URL, expected one such as sqlite:////data/catalog.db.") from error
    return Catalog(parsed)


class Catalog:
    """An open catalog; `open_catalog` makes one.

    Parameters
    ----------
    url : sqlalchemy.URL
        Where it is.
    """

    def __init__(self, url):
        self._name = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            self._engine = _sqlite_engine(url)
        else:
            self._engine = sa.create_engine(url, pool_pre_ping=True)
        self._writer = self._engine.execution_options(is_writer=True)
        with self._explained("opened"), self._writer.begin() as connection:
            _METADATA.create_all(connection)

    def add_verdict(self, run_id, targetid, label, *, user, survey="", comment="", key=None, model_version=""):
        """Store what a person said of an object.

        Parameters
        ----------
        run_id : str
            The run that ranked the object.
        targetid : int
            The survey's id, exact: never a float.
        label : str
            One of ``"anomaly"``, ``"regular"``, ``"unsure"``, ``"artefact"``.
        user : str
            Who said it.
        survey, comment, model_version : str, optional
            The object's survey; free text; the model that ranked it.
        key : str, optional
            Idempotency key of this event: sent twice, it is stored once.

        Returns
        -------
        Verdict
            As stored and committed; the first one where `key` was there before.

        Raises
        ------
        TypeError, ValueError
            If an argument is not what it should be.
        CatalogError
            If it could not be stored.
        """
        if label not in LABELS:
            raise ValueError(f"label is {label!r}, expected one of: {', '.join(LABELS)}.")
        row = {"run_id": run_id, "targetid": _exact(targetid), "label": label, "user": user, "survey": survey}
        return self._store(row | {"comment": comment, "model_version": model_version, "undoes": None}, key)

    def undo(self, verdict_id, *, user, key=None):
        """Take a verdict back by a new event; the verdict itself stays in the history.

        Parameters
        ----------
        verdict_id : int
            `Verdict.id` of one's own verdict.
        user : str
            Who takes it back.
        key : str, optional
            Idempotency key of this event.

        Returns
        -------
        Verdict
            The new event.

        Raises
        ------
        ValueError
            If there is no such verdict, it is another user's, an undo, or undone already.
        CatalogError
            If it could not be stored.
        """
        with self._explained("read"), self._engine.connect() as connection:
            row = connection.execute(sa.select(_VERDICTS).where(_VERDICTS.c.id == verdict_id)).one_or_none()
        if row is None or row.undoes is not None:
            raise ValueError(f"there is no verdict {verdict_id} to undo, expected the id of one.")
        if row.user != user:
            raise ValueError(f"verdict {verdict_id} is by {row.user!r}, and {user!r} can undo only their own.")
        kept = {name: getattr(row, name) for name in ("run_id", "targetid", "survey", "user", "model_version")}
        return self._store(kept | {"label": "", "comment": "", "undoes": row.id}, key)

    def verdicts(self, run_id=None):
        """Return every event, the oldest first.

        Parameters
        ----------
        run_id : str, optional
            Only those of one run.

        Returns
        -------
        pandas.DataFrame
            One row an event: the attributes of `Verdict` (targetid int64, exact) and ``is_current``: the last verdict,
            not taken back, of its user on its object in its run.

        Raises
        ------
        CatalogError
            If the database cannot be read.
        """
        query = sa.select(_VERDICTS).order_by(_VERDICTS.c.id)
        if run_id is not None:
            query = query.where(_VERDICTS.c.run_id == run_id)
        with self._explained("read"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        columns = zip(*rows, strict=True) if rows else [[]] * len(_VERDICTS.columns)
        table = pd.DataFrame(dict(zip(_VERDICTS.columns.keys(), map(list, columns), strict=True)), dtype=object)
        table = table.astype({"id": "int64", "targetid": "int64", "undoes": "Int64"})
        table["time"] = pd.to_datetime(table["time"], utc=True)
        standing = table["undoes"].isna() & ~table["id"].isin(table["undoes"].dropna())
        last = table[standing].groupby(["run_id", "survey", "targetid", "user"])["id"].max()
        return table.assign(is_current=table["id"].isin(last))

    def close(self):
        """Let go of the database; what is stored stays."""
        self._engine.dispose()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _store(self, row, key):
        for name in ("run_id", "user"):
            if not isinstance(row[name], str) or not row[name]:
                raise ValueError(f"{name} is {row[name]!r}, expected a text that is not empty.")
        row["key"] = key or uuid4().hex
        with self._explained("written"), self._writer.begin() as connection:
            stored = self._with_key(connection, row)
            if stored is None:
                row["time"] = datetime.now(UTC)
                if row["undoes"] is not None:
                    self._refuse_second_undo(connection, row["undoes"])
                stored = connection.execute(sa.insert(_VERDICTS).values(row).returning(_VERDICTS)).one()
        return Verdict(**{field.name: getattr(stored, field.name) for field in fields(Verdict)})

    def _with_key(self, connection, row):
        stored = connection.execute(sa.select(_VERDICTS).where(_VERDICTS.c.key == row["key"])).one_or_none()
        same = ("run_id", "targetid", "survey", "user", "label", "comment", "undoes")
        if stored is not None and any(getattr(stored, name) != row[name] for name in same):
            raise ValueError(f"key {row['key']!r} already stands for verdict {stored.id}, expected a new key.")
        return stored

    def _refuse_second_undo(self, connection, verdict_id):
        if connection.execute(sa.select(_VERDICTS.c.id).where(_VERDICTS.c.undoes == verdict_id)).first():
            raise ValueError(f"verdict {verdict_id} is undone already.")

    @contextmanager
    def _explained(self, done):
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise CatalogError(_sentence(self._name, done, str(error.orig))) from error


def _sentence(name, done, message):
    if "locked" in message:
        return f"the catalog {name} was not {done}: another program locked it for {BUSY_TIMEOUT:.0f} s; try again."
    if "readonly" in message or "read-only" in message or "unable to open" in message:
        return (
            f"the catalog {name} cannot be {done} ({message}); "
            "set ASTROLAB_HOME to a folder that you may write, or ASTROLAB_CATALOG_URL."
        )
    return f"the catalog {name} was not {done}: {message}; set ASTROLAB_CATALOG_URL to a database that answers."


def _default_url():
    home = settings().home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(
            f"the catalog's folder {home} cannot be made ({error.strerror}); "
            "set ASTROLAB_HOME to a folder that you may write, or ASTROLAB_CATALOG_URL."
        ) from error
    return sa.URL.create("sqlite", database=str(home / "catalog.db"))


def _sqlite_engine(url):
    if url.database in (None, "", ":memory:"):
        raise CatalogError(f"{url} is SQLite in memory and keeps nothing, expected a file: sqlite:////data/catalog.db.")
    # a connection an operation: nothing stays open in a notebook, or is shared with a forked process
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"timeout": BUSY_TIMEOUT})

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection, _):
        connection.isolation_level = None  # BEGIN is ours, below
        _write_ahead(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut

    @sa.event.listens_for(engine, "begin")
    def _begin(connection):
        # a writer takes its lock first: one that read before could not get it, whatever it waited
        is_writer = connection.get_execution_options().get("is_writer", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")

    return engine


def _write_ahead(connection):
    """Turn the write-ahead log on, once in a file's life; this alone does not wait for others by itself."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _exact(targetid):
    try:
        exact = operator.index(targetid)
    except TypeError:
        exact = None
    if exact is None or isinstance(targetid, bool):
        raise TypeError(
            f"targetid is {targetid!r} ({type(targetid).__name__}), expected an integer; "
            "above 2**53 a float cannot hold a DESI TARGETID."
        )
    if not -(2**63) <= exact < 2**63:
        raise ValueError(f"targetid is {exact}, expected a 64-bit integer.")
    return exact
