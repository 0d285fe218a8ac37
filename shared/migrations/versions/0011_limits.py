"""What a tenant may have: its weight, and how many of its steps may wait or run."""

from shared.migrations.sql import run_sql_beside

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    run_sql_beside(__file__)
