"""What operators ask: is it up, how long are the queues, how old is what waits."""

from __future__ import annotations

from shared.domain.models import TenantId
from shared.store import health as store
from shared.store.db import Database
from shared.store.health import Queue

__all__ = ["Queue", "live_workers", "queues"]


def live_workers(db: Database) -> int:
    """Count the workers heard of in the last 30 seconds."""
    with db.statement(None) as cur:
        return store.live_workers(cur)


def queues(db: Database, tenant: TenantId | None) -> list[Queue]:
    """Measure the queues of a tenant; ``None`` measures all, and needs a database in the service role."""
    with db.statement(tenant) as cur:
        return store.queues(cur, tenant)
