"""Totals of what has ended, counted from the events, and the queues by their indexes."""

from shared.migrations.sql import run_sql_beside

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    run_sql_beside(__file__)
