"""What a worker tells the ledger, one thing at a time: it claims a step, it completes an attempt."""

from __future__ import annotations

from shared.domain.models import Change, Claim, Ended, Outcome, RunId, TenantId, WorkerId
from shared.services import work
from shared.services.work import Handoff, Report
from shared.store.db import Database


def claim(
    db: Database, tenant: TenantId, run_id: RunId, step_no: int, *, worker_id: WorkerId, lease_ms: int
) -> Claim | None:
    """Take a queued step for one attempt; ``None`` when it is not queued."""
    handoff = Handoff(worker_id=worker_id, lease_ms=lease_ms)
    progress = work.settle(db, tenant, [Report(run_id=run_id, claims=[step_no], handoff=handoff)])[run_id]
    return progress.claims[0] if progress.claims else None


def complete(
    db: Database,
    claim: Claim,
    outcome: Outcome,
    *,
    worker_id: WorkerId,
    handoff_pools: frozenset[str],
    lease_ms: int,
) -> Change:
    """Report the end of an attempt, and take one next step where ``handoff_pools`` has its pool."""
    handoff = Handoff(
        worker_id=worker_id, lease_ms=lease_ms, pools=handoff_pools, sure=int(bool(handoff_pools))
    )
    ended = Ended(step_no=claim.step_no, attempt=claim.attempt, outcome=outcome)
    report = Report(run_id=claim.run_id, ended=[ended], handoff=handoff)
    progress = work.settle(db, claim.tenant, [report])[claim.run_id]
    return Change(
        accepted=bool(progress.settled),
        ready_pools=progress.ready_pools,
        undecided=progress.undecided,
        next=progress.claims[0] if progress.claims else None,
        run_ended=progress.run_ended,
        keys=progress.keys,
    )
