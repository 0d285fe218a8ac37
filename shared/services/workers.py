"""Who is in the fleet."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.models import WorkerId
from shared.store import workers as store
from shared.store.db import Database


def register(db: Database, worker_id: WorkerId, *, pools: Sequence[str], slots: int) -> None:
    """Add a worker, or tell that it is alive; unheard of for 30 seconds, it no longer counts."""
    with db.statement(None) as cur:
        store.register(cur, worker_id, pools=pools, slots=slots)


def deregister(db: Database, worker_id: WorkerId) -> None:
    """Remove a worker that stops."""
    with db.statement(None) as cur:
        store.deregister(cur, worker_id)


def forget_dead(db: Database) -> None:
    """Remove workers that have not been heard of for an hour."""
    with db.statement(None) as cur:
        store.forget_dead(cur)
