"""The append-only table of verdicts, as catalogs had it before their schema had a version."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade():
    """Make the table, or adopt the one that is there, with its rows."""
    if sa.inspect(op.get_bind()).has_table("verdicts"):
        return
    op.create_table(
        "verdicts",
        sa.Column("id", _BIGINT, primary_key=True, autoincrement=True),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("targetid", sa.BigInteger, nullable=False),
        sa.Column("survey", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("undoes", _BIGINT, sa.ForeignKey("verdicts.id"), unique=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("model_version", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("verdicts_of_run", "verdicts", ["run_id", "targetid"])
