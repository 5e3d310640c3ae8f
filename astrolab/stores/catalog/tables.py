"""The tables of the catalog, as its newest migration leaves them."""

from datetime import UTC

import sqlalchemy as sa

_BIGINT = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only a column named INTEGER


class UtcTime(sa.TypeDecorator):
    """An instant: stored in UTC, returned aware of it also by databases that keep no zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value, dialect):
        """Return the instant aware of UTC."""
        if value is None:
            return value
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


METADATA = sa.MetaData()

VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    sa.Column("id", _BIGINT, primary_key=True, autoincrement=True),
    sa.Column("time", UtcTime, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("targetid", sa.BigInteger, nullable=False),
    sa.Column("survey", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),  # empty in an undo, and where only a quality was given
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("undoes", _BIGINT, sa.ForeignKey("verdicts.id"), unique=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("program", sa.Text, nullable=False, server_default=""),
    sa.Column("quality", sa.SmallInteger),
    sa.Column("flags", sa.Text, nullable=False, server_default=""),
    sa.Column("spectype", sa.Text, nullable=False, server_default=""),
    sa.Column("redshift", sa.Double),
    sa.Column("seconds_spent", sa.Double),
    sa.Column("is_repeat", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_audit", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_adjudication", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("imported_by", sa.Text, nullable=False, server_default=""),
    sa.Column("imported_row", sa.Text, nullable=False, server_default=""),  # JSON, as it stood where it came from
    sa.Index("verdicts_of_run", "run_id", "targetid"),
    sa.Index("verdicts_of_user", "run_id", "user"),
    sqlite_autoincrement=True,
)

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("time", UtcTime, nullable=False),  # when it was first offered
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("n_objects", sa.BigInteger, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),  # of the queues and the audit sample
    sa.Column("audit_share", sa.Double, nullable=False),  # of a queue's slots
    sa.Column("repeat_share", sa.Double, nullable=False),
)

RANKINGS = sa.Table(
    "rankings",
    METADATA,
    sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("targetid", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("survey", sa.Text, primary_key=True),
    sa.Column("program", sa.Text, nullable=False),
    sa.Column("rank", sa.BigInteger, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("audit_order", sa.BigInteger),  # 1, 2 … in the random order of the audit sample; NULL outside it
    sa.Column("inclusion_probability", sa.Double, nullable=False),  # of getting into the audit sample
)

USERS = sa.Table(
    "users",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("time", UtcTime, nullable=False),  # of the last change; the audit log has them all
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", _BIGINT, primary_key=True, autoincrement=True),
    sa.Column("time", UtcTime, nullable=False),
    sa.Column("user", sa.Text, nullable=False),  # who did it
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("verdict_id", _BIGINT, sa.ForeignKey("verdicts.id")),
    sa.Column("details", sa.Text, nullable=False),
    sa.Index("audit_of_run", "run_id"),
    sqlite_autoincrement=True,
)
