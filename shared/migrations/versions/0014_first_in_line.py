"""A step that its worker has lost or given back is the next one of its tenant."""

from shared.migrations.sql import run_sql_beside

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_beside(__file__)
