"""Read events: a run's, or a tenant's as they come."""

from __future__ import annotations

from shared.domain.event_stream import Cursor
from shared.domain.models import RunId, TenantId
from shared.store import events as store
from shared.store.db import Database
from shared.store.events import Event, EventPage

__all__ = ["Event", "EventPage", "list_all", "present", "read_after"]


def list_all(db: Database, tenant: TenantId, run_id: RunId) -> list[Event]:
    """Read all events of a run in order; none for a run that the tenant does not own."""
    with db.statement(tenant) as cur:
        return store.list_events(cur, tenant, run_id)


def read_after(
    db: Database, tenant: TenantId, after: Cursor, *, limit: int, run_id: RunId | None = None, seq: int = 0
) -> EventPage:
    """Read at most ``limit`` events behind ``after``: all of the tenant's, or those of one run.

    Who knows that none of the run's up to ``seq`` lie behind it saves reading them.

    Whoever goes on from the end of each page gets every event once, those of a run in the order of
    their ``seq``, whatever commits late: an event is given only when no transaction that is older than
    its own is under way.
    """
    with db.statement(tenant) as cur:
        if run_id is None:
            return store.read_after(cur, tenant, after, limit=limit)
        return store.read_run_after(cur, tenant, run_id, after, seq=seq, limit=limit)


def present(db: Database, tenant: TenantId) -> Cursor:
    """Give the place from which on a reader gets every event that is committed from now on."""
    with db.statement(tenant) as cur:
        return store.present(cur, tenant)
