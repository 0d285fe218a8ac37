"""Every process may read which migration the schema is at, and so refuse one that is too old."""

from shared.migrations.sql import run_sql_beside

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    run_sql_beside(__file__)
