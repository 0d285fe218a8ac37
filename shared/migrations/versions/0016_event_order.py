"""The events of a run keep the order of their seq for readers of all events."""

from shared.migrations.sql import run_sql_beside

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    run_sql_beside(__file__)
