"""What goes wrong in any process, where all can see it."""

from __future__ import annotations

from shared.messaging.complaint import Tally
from shared.store import incidents as store
from shared.store.db import Database
from shared.store.incidents import Incident

__all__ = ["Incident", "list_all", "report"]


def report(db: Database, component: str, tally: Tally) -> None:
    """Add to the ledger what this process has complained of since the last time; raises StoreUnavailable.

    What could not be added is kept for the next time, except that an answer may be lost on
    its way after the commit: then it counts twice.
    """
    noted = tally.take()
    if not noted:
        return
    try:
        with db.statement(None) as cur:
            store.add(cur, component, noted)
    except BaseException:
        for kind, one in noted.items():
            tally.add(kind, one)
        raise


def list_all(db: Database) -> list[Incident]:
    """List all incidents; needs the service role."""
    with db.statement(None) as cur:
        return store.list_all(cur)
