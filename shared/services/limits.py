"""Read and set what a tenant may have."""

from __future__ import annotations

from shared.domain.models import TenantId, TenantLimits
from shared.store import limits as store
from shared.store.db import Transactions


def get(db: Transactions, tenant: TenantId) -> TenantLimits:
    """Read the limits of a tenant; the defaults when nobody has set any."""
    with db.statement(tenant) as cur:
        return store.get_limits(cur, tenant)


def put(db: Transactions, tenant: TenantId, limits: TenantLimits) -> None:
    """Set all limits of a tenant. A lower one takes effect as steps end; none is stopped for it."""
    with db.statement(tenant) as cur:
        store.set_limits(cur, tenant, limits)
