"""The events of a run."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.models import RunId, Sha256, TenantId
from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: its exact line (canonical JSON) and the head of the hash chain after it."""

    seq: int
    line: str
    hash: Sha256


def list_events(cur: Cursor, tenant: TenantId, run_id: RunId) -> list[Event]:
    """Read a run's events in order."""
    cur.execute(_SQL["list_events"], {"tenant": tenant, "run_id": str(run_id)})
    return [Event(seq=row[0], line=row[1], hash=row[2]) for row in cur.fetchall()]
