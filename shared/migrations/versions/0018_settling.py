"""One transition settles all that a worker process has to tell of a run, and takes its next steps."""

from shared.migrations.sql import run_sql_beside

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    run_sql_beside(__file__)
