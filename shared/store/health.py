"""What operators look at."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.models import TenantId
from shared.store.db import Cursor, one
from shared.store.queries import load

_SQL = load("health")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A tenant's queue in a pool: ready steps, the age of the oldest in seconds, steps that run."""

    tenant: TenantId
    pool: str
    depth: int
    oldest_age_seconds: float
    running: int


def live_workers(cur: Cursor) -> int:
    """Count the workers that were heard of lately."""
    cur.execute(_SQL["live_workers"])
    return int(one(cur.fetchone())[0])


def queues(cur: Cursor, tenant: TenantId | None) -> list[Queue]:
    """Measure the queues of one tenant, or of all."""
    cur.execute(_SQL["queues"], {"tenant": tenant})
    return [
        Queue(tenant=row[0], pool=row[1], depth=int(row[2]), oldest_age_seconds=row[3], running=int(row[4]))
        for row in cur.fetchall()
    ]
