"""Fair dispatch."""

from __future__ import annotations

from shared.domain.models import TenantId
from shared.store.db import Cursor
from shared.store.queries import load
from shared.store.recovery import Doorbell, doorbells

_SQL = load("dispatch")


def pick(cur: Cursor, pool: str, tenant: TenantId | None) -> list[Doorbell]:
    """Pick ready steps of a pool to send now and mark them as sent; ``tenant`` has just got some."""
    cur.execute(_SQL["pick"], {"pool": pool, "tenant": tenant})
    return doorbells(pool, cur.fetchall())
