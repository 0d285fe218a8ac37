"""Who is in the fleet: workers and sweepers, each of which says now and then that it is alive.

Who has missed three heartbeats in a row counts as gone.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.models import WorkerId
from shared.store import workers as store
from shared.store.db import Database

HEARTBEAT_MS = 3_000


def register(
    db: Database,
    worker_id: WorkerId,
    *,
    pools: Sequence[str],
    slots: int,
    heartbeat_ms: int = HEARTBEAT_MS,
) -> None:
    """Add a worker, or tell that it is alive."""
    with db.statement(None) as cur:
        store.register(cur, worker_id, pools=pools, slots=slots, heartbeat_ms=heartbeat_ms)


def share(db: Database, worker_id: WorkerId) -> float:
    """Tell which share (0 to 1) a worker has in the slots of the fleet that serve one of its pools."""
    with db.statement(None) as cur:
        return store.share(cur, worker_id)


def deregister(db: Database, worker_id: WorkerId) -> None:
    """Remove a worker that stops."""
    with db.statement(None) as cur:
        store.deregister(cur, worker_id)


def register_sweeper(db: Database, sweeper_id: str, *, heartbeat_ms: int = HEARTBEAT_MS) -> None:
    """Add a sweeper, or tell that it is alive."""
    with db.statement(None) as cur:
        store.register_sweeper(cur, sweeper_id, heartbeat_ms=heartbeat_ms)


def deregister_sweeper(db: Database, sweeper_id: str) -> None:
    """Remove a sweeper that stops."""
    with db.statement(None) as cur:
        store.deregister_sweeper(cur, sweeper_id)


def forget_dead(db: Database) -> None:
    """Remove workers and sweepers that have not been heard of for an hour."""
    # A statement each: a sweeper that is frozen here must hold no locks.
    with db.statement(None) as cur:
        store.forget_dead(cur)
    with db.statement(None) as cur:
        store.forget_dead_sweepers(cur)
