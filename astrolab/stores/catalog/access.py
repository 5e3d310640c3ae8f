"""The catalog: store what people say, and read it again."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pandas as pd
import sqlalchemy as sa

from astrolab.settings import settings
from astrolab.stores.catalog.connection import (
    CatalogError,
    GroupCommit,
    default_url,
    explained,
    make_engine,
    must_exist,
)
from astrolab.stores.catalog.events import insert, log, store_event, store_import
from astrolab.stores.catalog.tables import AUDIT, RANKINGS, RUNS, USERS, VERDICTS
from astrolab.stores.catalog.upgrade import upgrade_schema
from astrolab.stores.catalog.verdicts import check_verdict

_KEPT_IN_UNDO = ("run_id", "targetid", "survey", "program", "user", "model_version", "imported_by")


def open_catalog(url=None):
    """Open the catalog of verdicts, creating it where there is none, and upgrading an older one with its rows kept.

    Parameters
    ----------
    url : str, optional
        SQLAlchemy URL, such as ``sqlite:////data/catalog.db`` or ``postgresql://vetting@host/catalog``; by default
        ``ASTROLAB_CATALOG_URL``, and without that SQLite in ``catalog.db`` of ``ASTROLAB_HOME``.

    Returns
    -------
    Catalog
        Also a context manager.

    Raises
    ------
    CatalogError
        If the database is unreachable, read-only, not a database, of a newer schema, or lives in memory alone.
    ValueError
        If `url` is not a SQLAlchemy URL of SQLite or PostgreSQL.

    Examples
    --------
    >>> import astrolab as al
    >>> with al.open_catalog() as catalog:
    ...     verdict = catalog.add_verdict("run-1", 39627652591521181, "anomaly", user="vera", comment="BAL")
    >>> verdict.label
    'anomaly'
    """
    try:
        parsed = sa.make_url(url or settings().catalog_url or default_url())
    except sa.exc.ArgumentError as error:
        raise ValueError(f"{url!r} is not a database URL, expected one such as sqlite:////data/catalog.db.") from error
    return Catalog(parsed)


class Catalog:
    """An open catalog; `open_catalog` makes one. Threads may share it.

    A call that fails raises `CatalogError` and has stored nothing; once the database answers again, so does the next
    call, without opening the catalog anew.

    Parameters
    ----------
    url : sqlalchemy.URL
        Where it is.
    """

    def __init__(self, url):
        self.name = url.render_as_string(hide_password=True)
        engine = make_engine(url)
        try:
            with explained(self.name, "opened"):
                upgrade_schema(engine.execution_options(is_writer=True), self.name)
        except CatalogError:
            engine.dispose()
            raise
        self._engine = must_exist(engine)
        self._writer = GroupCommit(self._engine.execution_options(is_writer=True))

    def add_verdict(
        self,
        run_id,
        targetid,
        label="",
        *,
        user,
        survey="",
        program="",
        quality=None,
        flags="",
        spectype="",
        redshift=None,
        comment="",
        seconds_spent=None,
        model_version="",
        key=None,
        is_repeat=False,
        is_audit=False,
        is_adjudication=False,
    ):
        """Store what a person said of an object, with its audit entry, in one transaction.

        Parameters
        ----------
        run_id : str
            The run that ranked the object.
        targetid : int
            The survey's id, exact: never a float.
        label : str, optional
            One of ``"anomaly"``, ``"regular"``, ``"unsure"``, ``"artefact"``; it may be empty where a
            quality or the like is given.
        user : str
            Who said it.
        survey, program, spectype, comment, model_version : str, optional
            The object's survey and program; its class as inspected; free text; the model that ranked the object. Up to
            20,000 characters each, stored as typed.
        quality : int, optional
            DESI's scale, 0 to 4.
        flags : str or iterable of str, optional
            Some of R (bad redshift), C (bad class), S (bad spectrum), and artefact or astrophysics.
        redshift : float, optional
            As inspected.
        seconds_spent : float, optional
            How long the object was looked at.
        key : str, optional
            Idempotency key of this event: sent twice, it is stored once.
        is_repeat, is_audit, is_adjudication : bool, optional
            Marks of the service, see `Verdict`.

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
        row = {name: value for name, value in locals().items() if name not in ("self", "key")}
        row = check_verdict(row) | {"undoes": None, "imported_by": ""}
        action = "adjudicate" if is_adjudication else "verdict"
        return self._write(lambda connection: store_event(connection, row, key or uuid4().hex, action, user))

    def undo(self, verdict_id, *, user, key=None):
        """Take a verdict back by a new event; the verdict itself stays in the history.

        Parameters
        ----------
        verdict_id : int
            `Verdict.id` of one's own verdict, or of one that one imported.
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

        def store(connection):
            row = connection.execute(sa.select(VERDICTS).where(VERDICTS.c.id == verdict_id)).one_or_none()
            if row is None or row.undoes is not None:
                raise ValueError(f"there is no verdict {verdict_id} to undo, expected the id of one.")
            if (row.imported_by or row.user) != user:
                raise ValueError(f"verdict {verdict_id} is by {row.user!r}, and {user!r} can undo only their own.")
            event = {name: getattr(row, name) for name in _KEPT_IN_UNDO}
            event |= {"undoes": row.id, "quality": None, "redshift": None}
            event |= dict.fromkeys(("label", "comment", "flags", "spectype"), "")
            return store_event(connection, event, key or uuid4().hex, "undo", user)

        return self._write(store)

    def import_verdicts(self, rows, *, imported_by, source=""):
        """Store verdicts that were made elsewhere: all of them or none, each once however often they are sent.

        Parameters
        ----------
        rows : list of dict
            The arguments of `add_verdict`, with a `key` each.
        imported_by : str
            Who brings them in.
        source : str, optional
            Where from; kept in the audit log, in an entry for all of them.

        Returns
        -------
        int
            How many were not there before.

        Raises
        ------
        TypeError, ValueError
            If one is not a verdict.
        CatalogError
            If they could not be stored.
        """
        texts = dict.fromkeys(("survey", "program", "spectype", "comment", "model_version", "imported_row"), "")
        now = texts | {"imported_by": imported_by, "undoes": None}
        rows = [check_verdict(now | row) for row in rows]

        return self._write(lambda connection: store_import(connection, rows, imported_by, source))

    def verdicts(self, run_id=None, user=None, targetid=None):
        """Return every event, the oldest first.

        Parameters
        ----------
        run_id, user, targetid : str, str, int, optional
            Only those of one run, one user, one object.

        Returns
        -------
        pandas.DataFrame
            One row an event: the attributes of `Verdict` (targetid int64, exact), ``is_undone``, and ``is_current``:
            the last verdict, not taken back, of its user on its object in its run.

        Raises
        ------
        CatalogError
            If the database cannot be read.
        """
        query = sa.select(VERDICTS).order_by(VERDICTS.c.id)
        for name, value in (("run_id", run_id), ("user", user), ("targetid", targetid)):
            if value is not None:
                query = query.where(VERDICTS.c[name] == value)
        table = self._read_table(query, VERDICTS)
        table = table.astype({"id": "int64", "targetid": "int64", "undoes": "Int64", "quality": "Int64"})
        table = table.astype(dict.fromkeys(("redshift", "seconds_spent"), "float64"))
        table = table.astype(dict.fromkeys(("is_repeat", "is_audit", "is_adjudication"), "bool"))
        is_undone = table["id"].isin(table["undoes"].dropna())
        standing = table["undoes"].isna() & ~is_undone
        last = table[standing].groupby(["run_id", "survey", "targetid", "user", "imported_by"])["id"].max()
        return table.assign(is_undone=is_undone, is_current=table["id"].isin(last))

    def offer_run(self, run_id, objects, *, seed, audit_share, repeat_share, model_version="", user=""):
        """Store which objects a run offers for vetting, and how the queues and the audit sample are drawn; once.

        Parameters
        ----------
        run_id : str
            The run.
        objects : pandas.DataFrame
            Columns of the table ``rankings`` without ``run_id``.
        seed, audit_share, repeat_share : int, float, float
            Of the queues.
        model_version, user : str, optional
            The model that ranked them; who offers them.

        Returns
        -------
        dict
            The run as it is stored: what an earlier call stored stays.

        Raises
        ------
        CatalogError
            If the database cannot be written.
        """
        row = {"run_id": run_id, "model_version": model_version, "n_objects": len(objects), "seed": seed}
        row |= {"audit_share": audit_share, "repeat_share": repeat_share}

        def store(connection):
            time = datetime.now(UTC)
            statement = insert(connection, RUNS).values(row | {"time": time}).on_conflict_do_nothing()
            if connection.execute(statement.returning(RUNS.c.run_id)).first() is not None:
                records = objects.astype(object).where(objects.notna(), None).to_dict("records")
                if records:
                    connection.execute(sa.insert(RANKINGS), [{"run_id": run_id} | record for record in records])
                log(connection, user, "offer", time, run_id, details={"n_objects": len(objects)})
            return connection.execute(sa.select(RUNS).where(RUNS.c.run_id == run_id)).one()._asdict()

        return self._find(RUNS, RUNS.c.run_id == run_id) or self._write(store)

    def offered(self, run_id):
        """Return the objects that a run offers for vetting, by rank.

        Parameters
        ----------
        run_id : str
            The run.

        Returns
        -------
        pandas.DataFrame
            targetid, survey, program, rank, score, audit_order (``Int64``, missing outside the audit sample) and
            inclusion_probability.
        """
        query = sa.select(RANKINGS).where(RANKINGS.c.run_id == run_id).order_by(RANKINGS.c.rank, RANKINGS.c.targetid)
        table = self._read_table(query, RANKINGS).drop(columns="run_id")
        kinds = {"targetid": "int64", "rank": "int64", "score": "float64", "audit_order": "Int64"}
        return table.astype(kinds | {"inclusion_probability": "float64"})

    def role_of(self, user):
        """Return a user's role as `set_role` stored it, or None."""
        return (self._find(USERS, USERS.c.name == user) or {}).get("role")

    def set_role(self, user, role, *, by):
        """Give a user a role; the audit log keeps every change.

        Parameters
        ----------
        user, role : str
            Who, and which role; the service knows the roles.
        by : str
            Who gives it.
        """

        def store(connection):
            time = datetime.now(UTC)
            row = insert(connection, USERS).values(name=user, role=role, time=time)
            row = row.on_conflict_do_update(index_elements=["name"], set_={"role": role, "time": time})
            connection.execute(row)
            log(connection, by, "role", time, details={"name": user, "role": role})

        self._write(store)

    def add_note(self, run_id, action, details, *, user):
        """Write what a person did into the audit log, where no verdict says it.

        Parameters
        ----------
        run_id, action, user : str
            In which run, what in a word, and who.
        details : dict
            Stored as JSON.
        """
        self._write(lambda connection: log(connection, user, action, datetime.now(UTC), run_id, details=details))

    def last_note(self, run_id, action, *, user):
        """Return the details of a person's last note of that action, or None."""
        notes = sa.select(AUDIT.c.details).filter_by(run_id=run_id, action=action, user=user)
        with explained(self.name, "read"), self._engine.connect() as connection:
            details = connection.execute(notes.order_by(AUDIT.c.id.desc()).limit(1)).scalar()
        return None if details is None else json.loads(details)

    def audit_log(self, run_id=None):
        """Return who did what and when, the oldest first.

        Parameters
        ----------
        run_id : str, optional
            Only of one run.

        Returns
        -------
        pandas.DataFrame
            id, time (UTC), user, action, run_id, verdict_id, details (JSON).
        """
        query = sa.select(AUDIT).order_by(AUDIT.c.id)
        if run_id is not None:
            query = query.where(AUDIT.c.run_id == run_id)
        return self._read_table(query, AUDIT).astype({"id": "int64", "verdict_id": "Int64"})

    def close(self):
        """Let go of the database; what is stored stays."""
        self._engine.dispose()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _write(self, work):
        with explained(self.name, "written"):
            return self._writer.write(work)

    def _find(self, table, condition):
        with explained(self.name, "read"), self._engine.connect() as connection:
            row = connection.execute(sa.select(table).where(condition)).one_or_none()
        return None if row is None else row._asdict()

    def _read_table(self, query, columns):
        with explained(self.name, "read"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        names = columns.columns.keys()
        values = zip(*rows, strict=True) if rows else [[]] * len(names)
        table = pd.DataFrame(dict(zip(names, map(list, values), strict=True)), dtype=object)
        if "time" in table:
            table["time"] = pd.to_datetime(table["time"], utc=True)
        return table
