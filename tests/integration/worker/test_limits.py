"""Two workers with many slots run no more of a tenant's steps at a time than it may have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.domain.models import RunId, TenantLimits
from shared.services import limits
from tests.integration.worker.fleet import ACME, Fleet, dag, step
from tests.support.eventually import eventually


def most_at_once(fleet: Fleet, run_id: RunId) -> int:
    """Count from the ledger how many attempts overlapped at the most."""
    turns: list[tuple[object, int]] = []
    for one in fleet.steps(run_id):
        for attempt in fleet.attempts(run_id, one.step_id):
            turns += [(attempt.started_utc, 1), (attempt.ended_utc, -1)]
    running = most = 0
    for _, change in sorted(turns, key=lambda turn: (turn[0], turn[1])):
        running += change
        most = max(most, running)
    return most


@pytest.mark.parametrize("handoff_ms", ["0", "100"])
def test_a_limit_of_running_steps_holds_across_pools_and_workers(fleet: Fleet, handoff_ms: str) -> None:
    limits.put(fleet.db, ACME, TenantLimits(max_running_steps=3))
    for _ in range(2):
        fleet.worker(ORCH_HANDOFF_MS=handoff_ms)
    fleet.sweeper()
    heads = [step(f"a{n}", "sleep", ms=20) for n in range(12)]
    tails = [replace(step(f"b{n}", "sleep", ms=20), when="true" if n % 3 == 0 else None) for n in range(12)]
    made_of = [replace(one, pool="other") if n % 2 else one for n, one in enumerate([*heads, *tails])]
    run_id = fleet.start(fleet.publish(dag("two-pools", made_of, [(n, n + 12) for n in range(12)])))

    fleet.completed(run_id, within=60)

    assert 2 <= most_at_once(fleet, run_id) <= 3


def test_a_tenant_that_may_run_nothing_waits_until_it_may(fleet: Fleet) -> None:
    limits.put(fleet.db, ACME, TenantLimits(max_running_steps=0))
    fleet.worker()
    fleet.sweeper()
    run_id = fleet.start(fleet.publish(dag("one", [step("s0")])))
    eventually(lambda: _is_known_to_dispatch(fleet))
    assert fleet.attempts(run_id) == []

    limits.put(fleet.db, ACME, TenantLimits())
    fleet.completed(run_id)


def _is_known_to_dispatch(fleet: Fleet) -> bool:
    with fleet.service_db.statement(None) as cur:
        cur.execute("SELECT 1 FROM orch.tenant_queues")
        return bool(cur.fetchall())
