"""What clients ask for most is one call each: the start of a run, and a run with its steps."""

from shared.migrations.sql import run_sql_beside

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    run_sql_beside(__file__)
