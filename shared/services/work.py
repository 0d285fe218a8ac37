"""The verbs of a worker, each one transaction and one round trip."""

from __future__ import annotations

from collections.abc import Sequence

from shared.domain.models import Change, Claim, Outcome, RunId, TenantId, Undecided, WorkerId
from shared.store import work as store
from shared.store.db import Database
from shared.store.work import Handoff, Held, Renewal

__all__ = ["Held", "Renewal", "claim", "complete", "decide", "renew", "undecided"]


def claim(
    db: Database, tenant: TenantId, run_id: RunId, step_no: int, *, worker_id: WorkerId, lease_ms: int
) -> Claim | None:
    """Take a queued step for one attempt with a lease of ``lease_ms``; ``None`` when it is not queued."""
    with db.statement(tenant) as cur:
        return store.claim(cur, tenant, run_id, step_no, worker_id=worker_id, lease_ms=lease_ms)


def complete(
    db: Database,
    claim: Claim,
    outcome: Outcome,
    *,
    worker_id: WorkerId,
    handoff_pools: frozenset[str],
    lease_ms: int,
) -> Change:
    """Take note of how the claimed attempt ended, and settle what waited for it; maybe the run ends.

    Guarded by the attempt: when the lease was lost and the step taken away, nothing
    changes and ``accepted`` is false. It may be repeated when the commit's fate is
    unknown. With ``handoff_pools``, one unlocked step of those pools is claimed in
    the same transaction.
    """
    handoff = Handoff(pools=handoff_pools, worker_id=worker_id, lease_ms=lease_ms)
    with db.statement(claim.tenant) as cur:
        return store.complete(cur, claim.tenant, claim.run_id, claim.step_no, claim.attempt, outcome, handoff)


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
