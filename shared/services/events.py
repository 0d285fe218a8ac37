"""Read a run's events."""

from __future__ import annotations

from shared.domain.models import RunId, TenantId
from shared.store import events as store
from shared.store.db import Database
from shared.store.events import Event

__all__ = ["Event", "list_all"]


def list_all(db: Database, tenant: TenantId, run_id: RunId) -> list[Event]:
    """Read all events of a run in order; none for a run that the tenant does not own."""
    with db.statement(tenant) as cur:
        return store.list_events(cur, tenant, run_id)
