"""What is counted."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.models import TenantId
from shared.store.db import Cursor, one
from shared.store.queries import load

_SQL = load("metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """How much of one kind ended: in one bucket of a tenant's histogram, or ``None`` for all of either."""

    tenant: TenantId | None
    metric: str
    status: str
    bucket: int | None
    count: int
    sum_seconds: float


def count_of_tenant(cur: Cursor, tenant: TenantId, *, limit: int) -> int:
    """Add at most ``limit`` events of a tenant to its totals; tell how many there were."""
    cur.execute(_SQL["count_of_tenant"], {"tenant": tenant, "max_rows": limit})
    return int(one(cur.fetchone())[0])


def count_of_all(cur: Cursor, *, limit: int) -> int:
    """Add at most ``limit`` events of all tenants to their totals; tell how many there were."""
    cur.execute(_SQL["count_of_all"], {"max_rows": limit})
    return int(one(cur.fetchone())[0])


def tenants_counted(cur: Cursor) -> int:
    """Tell how many tenants have totals."""
    cur.execute(_SQL["tenants_counted"])
    return int(one(cur.fetchone())[0])


def totals(cur: Cursor, tenant: TenantId | None) -> list[Total]:
    """Read the totals of a tenant, or of each."""
    cur.execute(_SQL["totals"], {"tenant": tenant})
    return [_total(row[0], row[1], row[2], row[3], row[4], row[5]) for row in cur.fetchall()]


def totals_without_buckets(cur: Cursor) -> list[Total]:
    """Read the totals of each tenant, without its histograms."""
    cur.execute(_SQL["totals_without_buckets"])
    return [_total(row[0], row[1], row[2], None, row[3], row[4]) for row in cur.fetchall()]


def totals_of_all_together(cur: Cursor) -> list[Total]:
    """Read the histograms of all tenants, added up."""
    cur.execute(_SQL["totals_of_all_together"])
    return [_total(None, row[0], row[1], row[2], row[3], row[4]) for row in cur.fetchall()]


def duration_bounds(cur: Cursor) -> list[float]:
    """Read the upper bounds of the buckets, in seconds."""
    cur.execute(_SQL["duration_bounds"])
    return [float(bound) for bound in one(cur.fetchone())[0]]


def workers_by_pool(cur: Cursor) -> dict[str, int]:
    """Count the live workers of each pool that has any."""
    cur.execute(_SQL["workers_by_pool"])
    return {row[0]: int(row[1]) for row in cur.fetchall()}


def _total(
    tenant: TenantId | None, metric: str, status: str, bucket: int | None, count: int, sum_ms: int
) -> Total:
    return Total(
        tenant=tenant, metric=metric, status=status, bucket=bucket, count=count, sum_seconds=sum_ms / 1000
    )
