"""Choose fairly what is sent to the workers next."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from shared.domain.models import TenantId
from shared.store import dispatch as store
from shared.store.db import Database
from shared.store.dispatch import Picked, Use
from shared.store.recovery import Doorbell

__all__ = ["Picked", "Use", "admit", "pick", "settle_and_pick"]


def pick(db: Database, pool: str, tenant: TenantId | None) -> list[Doorbell]:
    """Pick ready steps of a pool and mark them as sent; the caller sends them.

    The tenant with the smallest virtual time comes first, its oldest step first,
    while no more than two messages a slot are out. ``tenant`` has just got ready
    steps; name it, or it is not looked at until the sweeper does.
    """
    return settle_and_pick(db, pool, ready=() if tenant is None else (tenant,), used={}).bells


def settle_and_pick(
    db: Database, pool: str, *, ready: Collection[TenantId], used: Mapping[TenantId, Use]
) -> Picked:
    """Charge tenants with the slot time that they have had, then pick as :func:`pick` does."""
    # The function looks at all tenants with rights of its own, whichever role calls it.
    with db.statement(None) as cur:
        return store.pick(cur, pool, ready, used)


def admit(db: Database, tenant: TenantId, key: str) -> list[str]:
    """Give the free places of a concurrency key to those who have waited for longest.

    Gives the pools in which the tenant has ready steps now; the caller has them picked from.
    """
    with db.statement(tenant) as cur:
        return store.admit(cur, tenant, key)
