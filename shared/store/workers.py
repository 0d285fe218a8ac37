"""The fleet."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.models import WorkerId
from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("workers")


def register(
    cur: Cursor, worker_id: WorkerId, *, pools: Sequence[str], slots: int, heartbeat_ms: int
) -> None:
    """Add a worker, or tell that it is alive."""
    cur.execute(
        _SQL["register"],
        {"worker_id": worker_id, "pools": list(pools), "slots": slots, "heartbeat_ms": heartbeat_ms},
    )


def share(cur: Cursor, worker_id: WorkerId) -> float:
    """Tell which share a worker has in the slots of those that serve its pools; 0 if it is not known."""
    cur.execute(_SQL["share"], {"worker_id": worker_id})
    row = cur.fetchone()
    return 0.0 if row is None else min(1.0, float(row[0]))


def deregister(cur: Cursor, worker_id: WorkerId) -> None:
    """Remove a worker that stops."""
    cur.execute(_SQL["deregister"], {"worker_id": worker_id})


def forget_dead(cur: Cursor) -> None:
    """Remove workers that have not been heard of for an hour."""
    cur.execute(_SQL["forget_dead"])


def register_sweeper(cur: Cursor, sweeper_id: str, *, heartbeat_ms: int) -> None:
    """Add a sweeper, or tell that it is alive."""
    cur.execute(_SQL["register_sweeper"], {"sweeper_id": sweeper_id, "heartbeat_ms": heartbeat_ms})


def deregister_sweeper(cur: Cursor, sweeper_id: str) -> None:
    """Remove a sweeper that stops."""
    cur.execute(_SQL["deregister_sweeper"], {"sweeper_id": sweeper_id})


def forget_dead_sweepers(cur: Cursor) -> None:
    """Remove sweepers that have not been heard of for an hour."""
    cur.execute(_SQL["forget_dead_sweepers"])
