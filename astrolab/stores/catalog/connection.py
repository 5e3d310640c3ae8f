"""Open SQLite and PostgreSQL for the catalog, group commits, and say what went wrong in one sentence."""

import sqlite3
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import sqlalchemy as sa

from astrolab.settings import settings

BUSY_TIMEOUT = 30.0  # s that a writer waits for another one
CONNECT_TIMEOUT = 10  # s that a server has to answer


class CatalogError(RuntimeError):
    """The catalog cannot be opened, read or written; what was to be stored is not stored."""


def default_url():
    """Return the address of the catalog in ``ASTROLAB_HOME``, a folder that is made where there is none."""
    home = settings().home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(
            f"the catalog's folder {home} cannot be made ({error.strerror}); "
            "set ASTROLAB_HOME to a folder that you may write, or ASTROLAB_CATALOG_URL."
        ) from error
    return sa.URL.create("sqlite", database=str(home / "catalog.db"))


def make_engine(url):
    """Make the engine of a catalog.

    Parameters
    ----------
    url : sqlalchemy.URL
        SQLite in a file, or PostgreSQL.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    CatalogError
        If the URL is of SQLite in memory.
    ValueError
        If it is of another kind of database.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    if url.get_backend_name() == "postgresql":
        wait = f"-c lock_timeout={int(BUSY_TIMEOUT * 1000)}"
        options = {"connect_timeout": CONNECT_TIMEOUT, "options": wait}
        # a connection that died with its server is noticed and replaced: no restart of ours
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=options)
    raise ValueError(f"{url.get_backend_name()!r} is no database of the catalog, expected sqlite or postgresql.")


def must_exist(engine):
    """Return an engine to the same SQLite file that never makes it anew: a file that vanished is an error.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Of a catalog that is there.

    Returns
    -------
    sqlalchemy.Engine
        The same one for other databases.
    """
    url = engine.url
    if url.get_backend_name() != "sqlite" or "uri" in url.query:
        return engine
    return _sqlite_engine(url.set(database=Path(url.database).absolute().as_uri(), query={"mode": "rw", "uri": "true"}))


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


class _Job:
    """One write that waits for its commit."""

    def __init__(self, work):
        self.work, self.result, self.error, self.is_done = work, None, None, False


class GroupCommit:
    """A writer that commits together what its threads ask for at the same time: one wait for the disk, not fifty.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Whose transactions are a writer's.
    """

    def __init__(self, engine):
        self._engine = engine
        self._waiting = deque()
        self._lock = Lock()

    def write(self, work):
        """Do some work in a transaction, and return when it is committed.

        Parameters
        ----------
        work : callable
            Takes the connection. It may be called twice: where one of those that are committed together fails, the
            others are done again, each in a savepoint of its own, so that an error of one undoes nothing of another.

        Returns
        -------
        object
            What `work` returns.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._lock:
            if not job.is_done:  # nobody who held the lock meanwhile took it along
                self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        if job.error is not None:
            raise job.error
        return job.result

    def _commit(self, jobs):
        try:
            if not self._is_done_at_once(jobs):
                with self._engine.begin() as connection:
                    for job in jobs:
                        _do(job, connection)
        except BaseException as error:
            for job in jobs:
                job.error = error  # nothing of what they did is committed
            if not isinstance(error, sa.exc.SQLAlchemyError):
                raise
        finally:
            for job in jobs:
                job.is_done = True

    def _is_done_at_once(self, jobs):
        """Return whether every job did its work without an error; then they are committed, otherwise none is."""
        with self._engine.connect() as connection, connection.begin() as transaction:
            for job in jobs:
                try:
                    job.result = job.work(connection)
                except (ValueError, sa.exc.SQLAlchemyError):
                    transaction.rollback()
                    return False
        return True


def _do(job, connection):
    try:
        with connection.begin_nested():
            job.result = job.work(connection)
    except (ValueError, sa.exc.SQLAlchemyError) as error:
        job.error = error


@contextmanager
def explained(name, done):
    """Turn a database's error into one sentence.

    Parameters
    ----------
    name : str
        The catalog's address.
    done : str
        What was to be done: ``"opened"``, ``"read"`` or ``"written"``.
    """
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        message = str(getattr(error, "orig", error))
        raise CatalogError(_sentence(name, done, " ".join(message.split()))) from error


def _sentence(name, done, message):
    if "locked" in message or "lock timeout" in message:
        return f"the catalog {name} was not {done}: another program locked it for {BUSY_TIMEOUT:.0f} s; try again."
    if "readonly" in message or "read-only" in message or "unable to open" in message:
        return (
            f"the catalog {name} cannot be {done} ({message}); "
            "set ASTROLAB_HOME to a folder that you may write, or ASTROLAB_CATALOG_URL."
        )
    return f"the catalog {name} was not {done}: {message}; set ASTROLAB_CATALOG_URL to a database that answers."
