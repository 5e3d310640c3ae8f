"""Bring the schema of a catalog to today's, its rows kept; refuse one that is newer."""

from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from astrolab.stores.catalog.connection import CatalogError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7_340_023_311  # any number of our own: PostgreSQL locks it while one process upgrades


def upgrade_schema(engine, name):
    """Apply the migrations that a catalog lacks, all of them in one transaction.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        Whose transactions are a writer's.
    name : str
        The catalog's address, for the message.

    Raises
    ------
    CatalogError
        If the schema is of a newer version.
    """
    script = ScriptDirectory(_FOLDER, version_locations=[_FOLDER])
    newest = script.get_current_head()
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found == newest:
        return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        # another process may have upgraded it meanwhile
        found = MigrationContext.configure(connection).get_current_revision()
        if found not in {None, *(step.revision for step in script.walk_revisions())}:
            raise CatalogError(
                f"the catalog {name} has schema {found!r}, and this AstroLab knows them up to {newest!r}, expected no "
                "newer one; install the AstroLab that made it: pip install -U astrolab-research"
            )
        steps = {"fn": lambda revision, _: script._upgrade_revs(newest, revision)}
        context = MigrationContext.configure(connection, opts=steps)
        with Operations.context(context):
            context.run_migrations()
