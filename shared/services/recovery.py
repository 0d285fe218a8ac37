"""The verbs of the sweeper: idempotent, any number at once, each batch small."""

from __future__ import annotations

from shared.domain.models import RunId, TenantId
from shared.domain.states import MAX_LOST_ATTEMPTS
from shared.store import recovery as store
from shared.store.db import Database
from shared.store.recovery import Backlog, Doorbell, Rescued, SetAside

__all__ = [
    "Backlog",
    "Doorbell",
    "Rescued",
    "SetAside",
    "ask_undecided",
    "backlogs",
    "count_sent",
    "forget_aside",
    "keys_with_room",
    "let_go",
    "next_due_ms",
    "rescue",
    "resend",
    "tell_aside",
    "wake",
]


def wake(db: Database, *, limit: int) -> frozenset[Backlog]:
    """Queue retries that are due."""
    with db.statement(None) as cur:
        return store.wake(cur, limit=limit)


def rescue(db: Database, *, limit: int) -> Rescued:
    """Queue steps again whose lease ran out, or fail them after too many lost attempts."""
    with db.statement(None) as cur:
        return store.rescue(cur, limit=limit, max_lost=MAX_LOST_ATTEMPTS)


def count_sent(db: Database, pool: str) -> int:
    """Count the messages of a pool that are out by the ledger."""
    with db.statement(None) as cur:
        return store.count_sent(cur, pool)


def resend(db: Database, pool: str, *, older_than_ms: int, limit: int) -> list[Doorbell]:
    """Mark messages as sent again that have been out for longer; the caller sends them.

    Call it only when Redis holds fewer messages of the pool than the ledger counts:
    one that merely waits for a free slot must not be doubled every few seconds.
    """
    with db.statement(None) as cur:
        return store.resend(cur, pool, older_than_ms=older_than_ms, limit=limit)


def ask_undecided(db: Database, *, older_than_ms: int, limit: int) -> list[tuple[TenantId, RunId]]:
    """List runs in which a step has waited longer for its ``when``; the caller asks for its evaluation.

    A run that nothing comes of is listed ever less often.
    """
    with db.statement(None) as cur:
        return store.ask_undecided(cur, older_than_ms=older_than_ms, limit=limit)


def backlogs(db: Database) -> frozenset[Backlog]:
    """List every tenant and pool with ready steps that dispatch does not know of: announce them to it."""
    with db.statement(None) as cur:
        return store.backlogs(cur)


def let_go(db: Database) -> frozenset[Backlog]:
    """List every tenant and pool that is out of line although its limit has room: pick from there."""
    with db.statement(None) as cur:
        return store.let_go(cur)


def keys_with_room(db: Database, *, limit: int) -> list[tuple[TenantId, str]]:
    """List concurrency keys with a free place that a step waits for: nobody has given it away."""
    with db.statement(None) as cur:
        return store.keys_with_room(cur, limit=limit)


def next_due_ms(db: Database) -> int | None:
    """Tell in how many milliseconds the next retry is due; ``None`` without one."""
    with db.statement(None) as cur:
        return store.next_due_ms(cur)


def tell_aside(db: Database) -> list[SetAside]:
    """Give the rows that a verb failed on and that were not told of yet, each to one caller."""
    with db.statement(None) as cur:
        return store.tell_aside(cur)


def forget_aside(db: Database) -> None:
    """Remove what was set aside and has not been met again."""
    with db.statement(None) as cur:
        store.forget_aside(cur)
