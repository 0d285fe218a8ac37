"""Tell why a step is where it is."""

from __future__ import annotations

from shared.domain import explanation
from shared.domain.explanation import COUNTED, SHOWN, Facts, Reason
from shared.domain.models import RunId, StepId, TenantId
from shared.domain.states import StepStatus
from shared.services.steps import absent
from shared.store import explain as store
from shared.store import limits
from shared.store.db import Cursor, Database

__all__ = ["Reason", "explain"]


def explain(
    db: Database, tenant: TenantId, run_id: RunId, step_id: StepId
) -> tuple[StepStatus, list[Reason]]:
    """Read, as of one moment, all that keeps a step where it is, at a bounded cost.

    Raises :class:`RunNotFound` or :class:`StepNotFound`.
    """
    with db.snapshot(tenant) as cur:
        facts = store.get_facts(cur, tenant, run_id, step_id)
        if facts is None:
            raise absent(cur, tenant, run_id, step_id)
        return facts.status, _reasons(cur, tenant, run_id, facts)


def _reasons(cur: Cursor, tenant: TenantId, run_id: RunId, facts: Facts) -> list[Reason]:
    match facts.status:
        case StepStatus.PENDING:
            before = store.open_predecessors(cur, tenant, run_id, facts.step_no, limit=SHOWN)
            return explanation.of_pending(facts, before, store.listeners(cur, None))
        case StepStatus.QUEUED:
            if facts.key is not None and facts.waits_for_place:
                ahead = store.count_in_line(cur, tenant, run_id, facts, at_most=COUNTED + 1)
                placed = store.placed_steps(cur, tenant, facts.key, limit=max(facts.places or 0, SHOWN))
                return explanation.of_queued(facts, ahead, store.listeners(cur, facts.pool), None, placed)
            ahead = store.count_ahead(cur, tenant, run_id, facts, at_most=COUNTED + 1)
            most = limits.get_limits(cur, tenant).max_running_steps
            shown = 0 if most is None else min(max(most, SHOWN), COUNTED)
            active = store.active_steps(cur, tenant, limit=shown) if shown else []
            return explanation.of_queued(facts, ahead, store.listeners(cur, facts.pool), most, active)
        case StepStatus.RETRYING:
            return explanation.of_retrying(facts)
        case StepStatus.RUNNING:
            return explanation.of_running(facts)
        case _:
            return explanation.of_finished(facts)
