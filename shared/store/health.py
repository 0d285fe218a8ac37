"""What operators look at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.domain.models import RunId, TenantId
from shared.store.db import Cursor, one
from shared.store.queries import load
from shared.store.recovery import ASKED_IN_VAIN

_SQL = load("health")


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A tenant's queue in a pool: ready steps, the age of the oldest in seconds, steps that run."""

    tenant: TenantId
    pool: str
    depth: int
    oldest_age_seconds: float
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweepers:
    """How many sweepers are alive, and when one was heard of last; ``None`` if none has stopped unasked."""

    live: int
    last_seen_utc: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A row that the verb of the sweeper fails on, and when it is tried again."""

    tenant: TenantId
    verb: str
    run_id: RunId
    step_no: int | None
    reason: str
    tries: int
    first_utc: datetime
    next_utc: datetime


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


def live_sweepers(cur: Cursor) -> Sweepers:
    """Tell whether anything recovers what is lost."""
    cur.execute(_SQL["live_sweepers"])
    row = one(cur.fetchone())
    return Sweepers(live=int(row[0]), last_seen_utc=row[1])


def set_aside(cur: Cursor, tenant: TenantId | None, *, limit: int) -> list[Aside]:
    """List the rows of a tenant, or of all, that are set aside."""
    cur.execute(_SQL["set_aside"], {"tenant": tenant, "asked_in_vain": ASKED_IN_VAIN, "max_rows": limit})
    return [
        Aside(
            tenant=row[0],
            verb=row[1],
            run_id=RunId(UUID(row[2])),
            step_no=row[3] if row[3] >= 0 else None,
            reason=row[4],
            tries=row[5],
            first_utc=row[6],
            next_utc=row[7],
        )
        for row in cur.fetchall()
    ]
