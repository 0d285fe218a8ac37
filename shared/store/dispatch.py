"""Fair dispatch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from shared.domain.models import RunId, TenantId
from shared.store.db import Cursor
from shared.store.queries import load
from shared.store.recovery import Backlog, Doorbell

_SQL = load("dispatch")


@dataclass(frozen=True, slots=True)
class Use:
    """What a tenant's messages have had of a pool's slots, until these became free."""

    messages: int
    """How many of them there were, of those that a pick sent."""
    used_ms: float

    def __add__(self, other: Use) -> Use:
        return Use(self.messages + other.messages, self.used_ms + other.used_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """Messages to send now, and what is to be picked from again soon."""

    bells: list[Doorbell]
    again: list[Backlog]


def pick(cur: Cursor, pool: str, ready: Collection[TenantId], used: Mapping[TenantId, Use]) -> Picked:
    """Pick ready steps of a pool and mark them as sent; the tenants ``ready`` have just got some."""
    cur.execute(
        _SQL["pick"],
        {
            "pool": pool,
            "ready": list(ready),
            "used_by": list(used),
            "messages": [use.messages for use in used.values()],
            "used_ms": [use.used_ms for use in used.values()],
        },
    )
    rows = cur.fetchall()
    return Picked(
        bells=[Doorbell(row[0], RunId(UUID(row[1])), row[2], pool) for row in rows if row[2] is not None],
        again=[Backlog(row[0], row[3]) for row in rows if row[2] is None],
    )


def admit(cur: Cursor, tenant: TenantId, key: str) -> list[str]:
    """Give the free places of a key to those who have waited for longest; give the pools with ready steps."""
    cur.execute(_SQL["admit"], {"tenant": tenant, "key": key})
    return [row[0] for row in cur.fetchall()]
