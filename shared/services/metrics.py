"""What operators count: totals of what has ended, how long it took, who works."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.domain.models import TenantId
from shared.store import incidents
from shared.store import metrics as store
from shared.store.db import Cursor, Database
from shared.store.metrics import Total

__all__ = ["Measures", "Total", "catch_up", "measure"]

BATCH = 5_000
"""Events of one transaction: a fraction of a second, for which another scrape may have to wait."""

MAX_TENANTS_WITH_HISTOGRAMS = 100
"""A tenant's histograms are up to 8 kB of a page. With more tenants than this, all of them share theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What there is to tell at one moment. ``None`` for a tenant: all of them together."""

    bounds: Sequence[float]
    """Upper bounds of the buckets of all histograms, in seconds; one bucket more has no bound."""
    totals: Sequence[Total]
    histograms: Sequence[Total]
    workers: Mapping[str, int]
    incidents: Mapping[tuple[str, str], int]
    """How often what went wrong, by component and kind; of the installation, whoever asks."""


def catch_up(
    db: Database,
    tenant: TenantId | None,
    *,
    within_seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Count what has happened since it was counted last; tell whether that was all.

    ``None`` counts for all tenants, and needs a database in the service role. When the
    time is over the rest waits for the next who counts: totals are late, then, and never wrong.
    """
    until = time.monotonic() + within_seconds
    while not stopped():
        with db.statement(tenant) as cur:
            read = _count(cur, tenant)
        if read < BATCH:
            return True
        if time.monotonic() > until:
            break
    return False


def measure(db: Database, tenant: TenantId | None) -> Measures:
    """Read the measures of a tenant; ``None`` reads those of all: that needs the service role."""
    with db.transaction(tenant) as cur:
        bounds = store.duration_bounds(cur)
        if tenant is None and store.tenants_counted(cur) > MAX_TENANTS_WITH_HISTOGRAMS:
            totals, histograms = store.totals_without_buckets(cur), store.totals_of_all_together(cur)
        else:
            totals = histograms = store.totals(cur, tenant)
        return Measures(
            bounds=bounds,
            totals=totals,
            histograms=histograms,
            workers=store.workers_by_pool(cur),
            incidents=incidents.counts(cur),
        )


def _count(cur: Cursor, tenant: TenantId | None) -> int:
    if tenant is None:
        return store.count_of_all(cur, limit=BATCH)
    return store.count_of_tenant(cur, tenant, limit=BATCH)
