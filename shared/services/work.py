"""The verbs of a worker, each one transaction and one round trip."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.models import Change, Progress, RunId, TenantId, Undecided, WorkerId
from shared.store import work as store
from shared.store.db import Database
from shared.store.work import Handoff, Held, Renewal, Report

__all__ = ["Handoff", "Held", "Renewal", "Report", "decide", "renew", "settle", "undecided"]


def settle(db: Database, tenant: TenantId, reports: Sequence[Report]) -> dict[RunId, Progress]:
    """Claim queued steps for an attempt each, and take note of how attempts ended; maybe runs end.

    What waited for the ended ones is settled with them, and some of what that unlocks may be taken at once
    (``handoff``). An ending is guarded by its attempt: when the lease was lost and the step taken away,
    nothing changes and the attempt is not among the ``settled``. It may be repeated when the commit's fate is
    unknown. Of several runs, all in one transaction, those are left out that another transaction is at.
    """
    with db.statement(tenant) as cur:
        return store.settle(cur, tenant, reports)


def undecided(db: Database, tenant: TenantId, run_id: RunId) -> list[Undecided]:
    """Read the steps of a run that wait for their ``when``, with all that it may look at."""
    with db.statement(tenant) as cur:
        return store.list_undecided(cur, tenant, run_id)


def decide(
    db: Database,
    tenant: TenantId,
    run_id: RunId,
    *,
    unlock: Sequence[int],
    skip: Sequence[int],
    worker_id: WorkerId,
    handoff_pools: frozenset[str],
    lease_ms: int,
) -> Change:
    """Unlock or skip undecided steps; those that somebody decided before stay as they are."""
    handoff = Handoff(pools=handoff_pools, worker_id=worker_id, lease_ms=lease_ms)
    with db.statement(tenant) as cur:
        return store.decide(cur, tenant, run_id, unlock=unlock, skip=skip, handoff=handoff)


def renew(db: Database, held: Sequence[Held], *, lease_ms: int) -> list[Renewal]:
    """Renew leases in one statement, and learn which were taken away and which runs are being cancelled."""
    with db.statement(None) as cur:
        return store.renew(cur, held, lease_ms=lease_ms)
