"""Whether this release can work on the schema as it is."""

from __future__ import annotations

from shared.errors import StoreUnavailable
from shared.store import schema as store
from shared.store.db import Database


def why_too_old(db: Database) -> str | None:
    """Say what this release lacks in the schema; ``None`` when nothing, or PostgreSQL is out of reach.

    A newer schema serves as well: migrations only add. A process that starts before PostgreSQL
    does is not to be kept from waiting for it.
    """
    try:
        with db.statement(None) as cur:
            revision = store.revision(cur)
    except StoreUnavailable:
        return None
    needed = store.newest()
    if revision is not None and revision >= needed:
        return None
    now = revision or "an earlier one"
    return f"the schema is at {now}, this release needs {needed}: run `orch db upgrade`"
