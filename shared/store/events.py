"""Events: those of a run, and those of a tenant in the order in which they may be streamed."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.event_stream import START, Cursor, StreamedEvent
from shared.domain.models import RunId, Sha256, TenantId
from shared.store.db import Cursor as DbCursor
from shared.store.db import Row
from shared.store.queries import load

_SQL = load("events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event: its exact line (canonical JSON) and the head of the hash chain after it."""

    seq: int
    line: str
    hash: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in the order of their cursors.

    ``end``: where to read on from, never a place that no event has: after a crash PostgreSQL gives the ids of
    transactions once more that it had not yet written down. ``whole``: there was no other event
    that readers may have. ``held_back``: there are events already that must wait for an older transaction.
    """

    events: list[StreamedEvent]
    end: Cursor
    whole: bool
    held_back: bool


def list_events(cur: DbCursor, tenant: TenantId, run_id: RunId) -> list[Event]:
    """Read a run's events in order."""
    cur.execute(_SQL["list_events"], {"tenant": tenant, "run_id": str(run_id)})
    return [Event(seq=row[0], line=row[1], hash=row[2]) for row in cur.fetchall()]


def read_after(cur: DbCursor, tenant: TenantId, after: Cursor, *, limit: int) -> EventPage:
    """Read a tenant's events behind ``after``."""
    cur.execute(_SQL["read_after"], _behind(tenant, after, limit))
    return _page(cur.fetchall(), after, limit)


def read_run_after(
    cur: DbCursor, tenant: TenantId, run_id: RunId, after: Cursor, *, seq: int, limit: int
) -> EventPage:
    """Read the events of one run behind ``after``; ``held_back`` tells nothing here.

    No event up to ``seq`` lies behind it; 0, if nothing is known of that.
    """
    wanted = {**_behind(tenant, after, limit), "run_id": str(run_id), "seq": seq}
    cur.execute(_SQL["read_run_after"], wanted)
    return _page(cur.fetchall(), after, limit)


def present(cur: DbCursor, tenant: TenantId) -> Cursor:
    """Give the place of the tenant's last event that readers may have."""
    cur.execute(_SQL["present"], {"tenant": tenant})
    row = cur.fetchone()
    return START if row is None else Cursor(row[0], row[1])


def _behind(tenant: TenantId, after: Cursor, limit: int) -> dict[str, object]:
    return {"tenant": tenant, "xid": str(after.xid), "event_id": after.event_id, "max_rows": limit}


def _page(rows: list[Row], after: Cursor, limit: int) -> EventPage:
    events = [StreamedEvent(Cursor(row[0], row[1]), row[2]) for row in rows if row[2] is not None]
    end = events[-1].cursor if events else after
    held_back = any(row[3] for row in rows)
    return EventPage(events=events, end=end, whole=len(events) < limit, held_back=held_back)
