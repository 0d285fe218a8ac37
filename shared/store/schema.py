"""The schema itself."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import psycopg2.errors

from shared.store.db import Cursor, one
from shared.store.queries import load

_SQL = load("schema")
_MIGRATIONS: Final = Path(__file__).parents[1] / "migrations" / "versions"


def newest() -> str:
    """Tell the number of the newest migration that this release has, and so needs."""
    return max(file.name[:4] for file in _MIGRATIONS.glob("[0-9]*.sql"))


def revision(cur: Cursor) -> str | None:
    """Tell which migration was the last to run; ``None`` when it was too early a one to let us ask."""
    try:
        cur.execute(_SQL["revision"])
    except (
        psycopg2.errors.InsufficientPrivilege,
        psycopg2.errors.UndefinedTable,
        psycopg2.errors.InvalidSchemaName,
    ):
        return None
    return str(one(cur.fetchone())[0])
