"""A fleet runs no more steps with a concurrency key than may, and passes on a place that is left at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import psycopg2

from shared.domain.models import DagSpec, RunId, StepSpec, TenantLimits
from shared.services import limits
from tests.integration.worker.fleet import ACME, Fleet, dag, step
from tests.support.limits_held import check_limits_held, peaks

IN_TWO_POOLS = ("default", "other")


def spread(steps: Sequence[StepSpec]) -> list[StepSpec]:
    """Put every other step into the other pool."""
    return [replace(one, pool=IN_TWO_POOLS[n % 2]) for n, one in enumerate(steps)]


def keyed(name: str, steps: Sequence[StepSpec], limit: int) -> DagSpec:
    """Describe a DAG whose steps have one key."""
    made_of = [replace(one, concurrency_key="db") for one in spread(steps)]
    return dag(name, made_of, metadata={"concurrencyLimits": {"db": limit}})


def most_at_once(owner_url: str, key: str | None) -> int:
    """Check that no limit was passed, and count how many steps ran at a time."""
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        check_limits_held(cur)
        return peaks(cur)[ACME, key]


def between_steps(fleet: Fleet, run_id: RunId) -> timedelta:
    """Give the longest time between the end of a step and the next beginning, with one running at a time."""
    ran = sorted((one.started_utc, one.ended_utc) for one in fleet.steps(run_id) if one.started_utc)
    return max(begun - ended for (_, ended), (begun, _) in pairwise(ran) if ended)


def test_a_place_is_passed_on_between_pools_and_workers_without_a_sweeper(
    fleet: Fleet, owner_url: str
) -> None:
    fleet.worker(ORCH_WORKER_POOLS="default")
    fleet.worker(ORCH_WORKER_POOLS="other")
    steps = [step(f"s{n:02}", "sleep", ms=10) for n in range(20)]

    run_id = fleet.start(fleet.publish(keyed("mutex", steps, 1)))
    fleet.completed(run_id)

    assert most_at_once(owner_url, "db") == 1
    assert between_steps(fleet, run_id) < timedelta(seconds=1)


def test_room_of_a_tenant_is_passed_on_between_pools_and_workers_without_a_sweeper(
    fleet: Fleet, owner_url: str
) -> None:
    limits.put(fleet.db, ACME, TenantLimits(max_running_steps=1))
    fleet.worker(ORCH_WORKER_POOLS="default")
    fleet.worker(ORCH_WORKER_POOLS="other")
    steps = [step(f"s{n:02}", "sleep", ms=10) for n in range(20)]

    run_id = fleet.start(fleet.publish(dag("limited", spread(steps))))
    fleet.completed(run_id)

    assert most_at_once(owner_url, None) == 1
    assert between_steps(fleet, run_id) < timedelta(seconds=1)


def test_the_place_of_a_step_whose_worker_is_killed_is_free_again(fleet: Fleet, owner_url: str) -> None:
    victim = fleet.worker()
    fleet.sweeper()
    long = fleet.start(fleet.publish(keyed("long", [step("s0", "sleep", ms=2_000)], 1)))
    fleet.until_running(long)
    later = fleet.start(fleet.publish(keyed("later", [step(f"s{n}") for n in range(3)], 1)))

    victim.popen.kill()
    fleet.worker()

    fleet.completed(later)
    fleet.completed(long)
    assert most_at_once(owner_url, "db") == 1
