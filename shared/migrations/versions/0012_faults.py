"""What goes wrong is counted where all see it, and a row that fails keeps no other from its turn."""

from shared.migrations.sql import run_sql_beside

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    run_sql_beside(__file__)
