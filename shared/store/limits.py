"""What a tenant may have, in the ledger."""

from __future__ import annotations

from shared.domain.models import TenantId, TenantLimits
from shared.store.db import Cursor, one
from shared.store.queries import load

_SQL = load("limits")


def get_limits(cur: Cursor, tenant: TenantId) -> TenantLimits:
    """Read the limits of a tenant; the defaults when nobody has set any."""
    cur.execute(_SQL["get_limits"], {"tenant": tenant})
    row = cur.fetchone()
    if row is None:
        return TenantLimits()
    return TenantLimits(weight=row[0], max_running_steps=row[1], max_queued_steps=row[2])


def set_limits(cur: Cursor, tenant: TenantId, limits: TenantLimits) -> None:
    """Set all limits of a tenant."""
    cur.execute(
        _SQL["set_limits"],
        {
            "tenant": tenant,
            "weight": limits.weight,
            "max_running_steps": limits.max_running_steps,
            "max_queued_steps": limits.max_queued_steps,
        },
    )


def lock_queue_limit(cur: Cursor, tenant: TenantId) -> int | None:
    """Read how many queued steps a tenant may have; whoever asks next waits for this transaction's end.

    So two starts never count the same room. A tenant without limits has no row and no lock.
    """
    cur.execute(_SQL["lock_queue_limit"], {"tenant": tenant})
    row = cur.fetchone()
    return None if row is None else row[0]


def count_first_steps(cur: Cursor, tenant: TenantId, dag_version_id: int) -> int:
    """Count the steps that a start of this version queues at once."""
    cur.execute(_SQL["count_first_steps"], {"tenant": tenant, "dag_version_id": dag_version_id})
    return int(one(cur.fetchone())[0])


def count_queued(cur: Cursor, tenant: TenantId, *, at_most: int) -> int:
    """Count a tenant's queued steps, sent or not; no further than a little over ``at_most``."""
    cur.execute(_SQL["count_queued"], {"tenant": tenant, "max_rows": at_most})
    return int(one(cur.fetchone())[0])
