"""Run a migration's SQL file as it stands."""

from __future__ import annotations

from pathlib import Path

from alembic import op


def run_sql_beside(module_file: str) -> None:
    """Execute the ``.sql`` file of the same name as the migration module.

    The text goes to the server unchanged: neither ``:0`` nor ``%`` in it is taken for a parameter.
    """
    statements = Path(module_file).with_suffix(".sql").read_text(encoding="utf-8")
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
