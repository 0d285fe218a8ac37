"""The schema of the ledger: numbered migrations, plain SQL run by Alembic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from shared.errors import StoreUnavailable


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """Connect by a libpq URL, which may name a socket folder; SQLAlchemy's own URLs are not needed."""
    engine = create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(url, application_name="orch-migrate", connect_timeout=5),
        poolclass=NullPool,
    )
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise StoreUnavailable("PostgreSQL is out of reach") from error
    try:
        yield connection
    finally:
        connection.close()
        engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def upgrade(url: str, *, revision: str = "head") -> None:
    """Bring the database at ``url`` to the newest schema, or to that of a revision.

    Its role must be one that may create schemas and roles.
    Safe to call from several processes at once: an advisory lock lets one through. A schema of
    a newer release stays as it is: it serves this one, too.
    """
    config = _config()
    with _connected(url) as connection, connection.begin():
        if _is_beyond(_current(connection), _head()):
            return
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def check(url: str) -> list[str]:
    """Say what keeps the database at ``url`` from serving this release; an empty list when nothing does."""
    with _connected(url) as connection:
        current = _current(connection)
    head = _head()
    if current == head or _is_beyond(current, head):
        return []
    return [f"the schema is at {current or 'nothing'}, this release needs {head}: run `orch db upgrade`"]


def _current(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": "orch"})
    return context.get_current_revision()


def _head() -> str:
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _is_beyond(current: str | None, head: str) -> bool:
    """Tell whether a newer release has migrated already: revisions are numbers, and only ever add."""
    return current is not None and current > head
