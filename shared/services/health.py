"""What operators ask: is it up, how long are the queues, how old is what waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from shared.domain.models import TenantId
from shared.store import health as store
from shared.store.db import Database
from shared.store.health import Aside, Queue, Sweepers

__all__ = ["Aside", "Queue", "QueueCounts", "Sweepers", "live_sweepers", "live_workers", "set_aside"]

LONG_QUEUES: Final = 10_000
"""So many steps take some milliseconds to count."""
REMEMBERED_SECONDS: Final = 1.0
SHOWN_ASIDE: Final = 100


class QueueCounts:
    """Counts queues by their index, exactly; what is long is counted at most once a second.

    So those who ask, however many and however often, cost PostgreSQL a few percent of a
    core at most. Short queues are counted for each who asks.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._long: dict[TenantId | None, tuple[float, Sequence[Queue]]] = {}

    def of(self, db: Database, tenant: TenantId | None) -> Sequence[Queue]:
        """Measure the queues of a tenant; ``None`` measures all, and needs a database in the service role."""
        counted_at, remembered = self._long.get(tenant, (float("-inf"), ()))
        if self._now() - counted_at < REMEMBERED_SECONDS:
            return remembered
        with db.statement(tenant) as cur:
            queues = store.queues(cur, tenant)
        self._remember(tenant, queues)
        return queues

    def _remember(self, tenant: TenantId | None, queues: Sequence[Queue]) -> None:
        now = self._now()
        fresh = {of: kept for of, kept in self._long.items() if now - kept[0] < REMEMBERED_SECONDS}
        if sum(queue.depth for queue in queues) >= LONG_QUEUES:
            fresh[tenant] = (now, queues)
        self._long = fresh


def live_workers(db: Database) -> int:
    """Count the workers that were heard of lately."""
    with db.statement(None) as cur:
        return store.live_workers(cur)


def live_sweepers(db: Database, tenant: TenantId | None) -> Sweepers:
    """Tell whether anything recovers what is lost."""
    with db.statement(tenant) as cur:
        return store.live_sweepers(cur)


def set_aside(db: Database, tenant: TenantId | None) -> list[Aside]:
    """List rows that the sweeper fails on; ``None`` lists those of all, and needs the service role."""
    with db.statement(tenant) as cur:
        return store.set_aside(cur, tenant, limit=SHOWN_ASIDE)
