"""Keys that bound how many steps run at a time; what was lost or given back is the next in line."""

from shared.migrations.sql import run_sql_beside

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    run_sql_beside(__file__)
