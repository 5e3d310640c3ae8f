"""What a full verdict says; runs, rankings, users and the audit log; append-only in every database."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

_BIGINT = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_KEYS = {
    "verdicts": [["id"], ["key"], ["undoes"]],
    "audit": [["id"]],
    "runs": [["run_id"]],
    "rankings": [["run_id", "targetid", "survey"]],
}


def upgrade():
    """Add columns to the verdicts that are there, the other tables, and the triggers."""
    for column in _verdict_columns():
        op.add_column("verdicts", column)
    op.create_index("verdicts_of_user", "verdicts", ["run_id", "user"])
    _create_tables()
    make_triggers = {"sqlite": _sqlite_triggers, "postgresql": _postgresql_triggers}
    for statement in make_triggers[op.get_bind().dialect.name]():
        op.execute(statement)


def _verdict_columns():
    yield sa.Column("program", sa.Text, nullable=False, server_default="")
    yield sa.Column("quality", sa.SmallInteger)
    yield sa.Column("flags", sa.Text, nullable=False, server_default="")
    yield sa.Column("spectype", sa.Text, nullable=False, server_default="")
    yield sa.Column("redshift", sa.Double)
    yield sa.Column("seconds_spent", sa.Double)
    for name in ("is_repeat", "is_audit", "is_adjudication"):
        yield sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
    for name in ("imported_by", "imported_row"):
        yield sa.Column(name, sa.Text, nullable=False, server_default="")


def _create_tables():
    time = sa.DateTime(timezone=True)
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("time", time, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("n_objects", sa.BigInteger, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("audit_share", sa.Double, nullable=False),
        sa.Column("repeat_share", sa.Double, nullable=False),
    )
    op.create_table(
        "rankings",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("targetid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("survey", sa.Text, primary_key=True),
        sa.Column("program", sa.Text, nullable=False),
        sa.Column("rank", sa.BigInteger, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("audit_order", sa.BigInteger),
        sa.Column("inclusion_probability", sa.Double, nullable=False),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("time", time, nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("id", _BIGINT, primary_key=True, autoincrement=True),
        sa.Column("time", time, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("verdict_id", _BIGINT, sa.ForeignKey("verdicts.id")),
        sa.Column("details", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_of_run", "audit", ["run_id"])


def _sqlite_triggers():
    for table, keys in _KEYS.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, '{table} are append-only'); END"
        for event in ("UPDATE", "DELETE"):
            yield f"CREATE TRIGGER IF NOT EXISTS {table}_no_{event.lower()} BEFORE {event} ON {table} {refuse}"
        for key in keys:  # INSERT OR REPLACE deletes without a trigger
            same = " AND ".join(f"{name} = NEW.{name}" for name in key)
            there = f"EXISTS (SELECT 1 FROM {table} WHERE {same})"  # noqa: S608 names of our own
            yield f"CREATE TRIGGER {table}_no_replace_{key[0]} BEFORE INSERT ON {table} WHEN {there} {refuse}"


def _postgresql_triggers():
    yield (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% are append-only', TG_TABLE_NAME; END $$"
    )
    for table in _KEYS:
        yield (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
