"""What the sweeper asks of the ledger, in small batches."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.domain.models import RunId, TenantId
from shared.store.db import Cursor, Row, one
from shared.store.queries import load

_SQL = load("recovery")


@dataclass(frozen=True, slots=True)
class Backlog:
    """A tenant has ready steps in a pool that no message is out for."""

    tenant: TenantId
    pool: str


@dataclass(frozen=True, slots=True)
class Doorbell:
    """One message to send: this step may be ready."""

    tenant: TenantId
    run_id: RunId
    step_no: int
    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """What a rescue left to do: dispatch these, evaluate ``when`` in those runs."""

    backlogs: frozenset[Backlog]
    undecided: frozenset[tuple[TenantId, RunId]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A row that a verb failed on. A ``step_no`` of -1 is the run as a whole; for ``count`` it is ``seq``."""

    verb: str
    tenant: TenantId
    run_id: RunId
    step_no: int
    reason: str


ASKED_IN_VAIN = 3
"""So often may a decision be asked for before anybody is told: messages get lost, and workers are busy."""


def wake(cur: Cursor, *, limit: int) -> frozenset[Backlog]:
    """Queue at most ``limit`` retries that are due."""
    cur.execute(_SQL["wake"], {"max_rows": limit})
    return frozenset(Backlog(row[0], row[1]) for row in cur.fetchall())


def rescue(cur: Cursor, *, limit: int, max_lost: int) -> Rescued:
    """Take at most ``limit`` steps away from attempts whose lease ran out."""
    cur.execute(_SQL["rescue"], {"max_rows": limit, "max_lost": max_lost})
    rows = cur.fetchall()
    return Rescued(
        backlogs=frozenset(Backlog(row[0], row[1]) for row in rows if not row[3]),
        undecided=frozenset((row[0], RunId(UUID(row[2]))) for row in rows if row[3]),
    )


def resend(cur: Cursor, pool: str, *, older_than_ms: int, limit: int) -> list[Doorbell]:
    """Mark as sent again what was sent longer ago than that, and is still unclaimed."""
    cur.execute(_SQL["resend"], {"pool": pool, "older_than_ms": older_than_ms, "max_rows": limit})
    return doorbells(pool, cur.fetchall())


def count_sent(cur: Cursor, pool: str) -> int:
    """Count the messages of a pool that are out by the ledger."""
    cur.execute(_SQL["count_sent"], {"pool": pool})
    return int(one(cur.fetchone())[0])


def ask_undecided(cur: Cursor, *, older_than_ms: int, limit: int) -> list[tuple[TenantId, RunId]]:
    """List runs in which a step has waited longer for its ``when``, and note that they are asked."""
    cur.execute(_SQL["ask_undecided"], {"older_than_ms": older_than_ms, "max_rows": limit})
    return [(row[0], RunId(UUID(row[1]))) for row in cur.fetchall()]


def backlogs(cur: Cursor) -> frozenset[Backlog]:
    """List every tenant and pool with ready steps that dispatch does not know of."""
    cur.execute(_SQL["backlogs"])
    return frozenset(Backlog(row[0], row[1]) for row in cur.fetchall())


def let_go(cur: Cursor) -> frozenset[Backlog]:
    """List every tenant and pool that is out of line although its limit has room again."""
    cur.execute(_SQL["let_go"])
    return frozenset(Backlog(row[0], row[1]) for row in cur.fetchall())


def keys_with_room(cur: Cursor, *, limit: int) -> list[tuple[TenantId, str]]:
    """List concurrency keys with a free place that a step waits for."""
    cur.execute(_SQL["keys_with_room"], {"max_rows": limit})
    return [(row[0], row[1]) for row in cur.fetchall()]


def next_due_ms(cur: Cursor) -> int | None:
    """Tell in how many milliseconds the next retry is due; ``None`` without one."""
    cur.execute(_SQL["next_due_ms"])
    row = cur.fetchone()
    return None if row is None else max(0, int(row[0]))


def tell_aside(cur: Cursor) -> list[SetAside]:
    """Give the rows that were set aside and not told of yet."""
    cur.execute(_SQL["tell_aside"], {"asked_in_vain": ASKED_IN_VAIN})
    return [
        SetAside(verb=row[0], tenant=row[1], run_id=RunId(UUID(row[2])), step_no=row[3], reason=row[4])
        for row in cur.fetchall()
    ]


def forget_aside(cur: Cursor) -> None:
    """Remove what was set aside and has not been met again for ten minutes."""
    cur.execute(_SQL["forget_aside"])


def doorbells(pool: str, rows: list[Row]) -> list[Doorbell]:
    """Turn (tenant, run_id, step_no) rows into messages of one pool."""
    return [Doorbell(row[0], RunId(UUID(row[1])), row[2], pool) for row in rows]
