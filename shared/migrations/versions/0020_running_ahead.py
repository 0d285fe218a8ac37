"""Steps without effects are run in a row, and settled in one transaction."""

from shared.migrations.sql import run_sql_beside

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    run_sql_beside(__file__)
