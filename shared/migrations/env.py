"""Alembic's entry: run the migrations on the connection that ``shared.migrations.upgrade`` opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

_LOCK = 0x0C4  # Any constant: whoever migrates this database takes the same one.


def _run() -> None:
    connection = context.config.attributes["connection"]
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
    connection.execute(text("SET LOCAL statement_timeout = '10min'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS orch"))
    context.configure(connection=connection, version_table_schema="orch")
    with context.begin_transaction():
        context.run_migrations()


_run()
