"""Tenants share a pool by the time of its slots."""

from shared.migrations.sql import run_sql_beside

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    run_sql_beside(__file__)
