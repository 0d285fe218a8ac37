"""Choose fairly what is sent to the workers next."""

from __future__ import annotations

from shared.domain.models import TenantId
from shared.store import dispatch as store
from shared.store.db import Database
from shared.store.recovery import Doorbell


def pick(db: Database, pool: str, tenant: TenantId | None) -> list[Doorbell]:
    """Pick ready steps of a pool and mark them as sent; the caller sends them.

    The tenant with the smallest virtual time comes first, its oldest step first,
    while no more than two messages a slot are out. ``tenant`` has just got ready
    steps; name it, or it is not looked at until the sweeper does.
    """
    with db.statement(tenant) as cur:
        return store.pick(cur, pool, tenant)
