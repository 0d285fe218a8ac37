"""How a worker ends."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from shared.domain.states import AttemptStatus, StepStatus
from shared.messaging import doorbell
from shared.services import health
from tests.integration.worker.fleet import Fleet, chain, dag, sleeper, step, wide
from tests.support.eventually import eventually


def test_an_idle_worker_ends_at_once_and_well(fleet: Fleet) -> None:
    worker = fleet.worker()

    worker.send(signal.SIGTERM)

    assert worker.wait(within=5) == 0
    assert health.live_workers(fleet.service_db) == 0


def test_a_running_step_may_end_within_the_grace_time(fleet: Fleet) -> None:
    worker = fleet.worker()
    run_id = fleet.start(fleet.publish(sleeper(1_500)))
    fleet.until_running(run_id)

    worker.send(signal.SIGTERM)

    assert worker.wait(within=10) == 0
    fleet.completed(run_id)
    assert fleet.steps(run_id)[0].attempt == 1


def test_after_the_grace_time_steps_are_given_back(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_GRACE_MS="300", ORCH_LEASE_MS="60000")
    run_id = fleet.start(fleet.publish(wide(3, "sleep", ms=60_000)))
    eventually(lambda: all(s.status is StepStatus.RUNNING for s in fleet.steps(run_id)))

    worker.send(signal.SIGTERM)

    assert worker.wait(within=5) == 0
    assert [s.status for s in fleet.steps(run_id)] == [StepStatus.QUEUED] * 3
    assert fleet.attempts(run_id)[0].status is AttemptStatus.RELEASED


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_gives_back_at_once(fleet: Fleet, numbers: tuple[signal.Signals, ...]) -> None:
    worker = fleet.worker(ORCH_GRACE_MS="60000")
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)

    worker.send(numbers[0])
    eventually(lambda: worker.events("worker_draining"))
    worker.send(numbers[1])

    assert worker.wait(within=5) == 0
    assert fleet.steps(run_id)[0].status is StepStatus.QUEUED


def test_sigquit_gives_back_at_once(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_GRACE_MS="60000")
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)

    worker.send(signal.SIGQUIT)

    assert worker.wait(within=5) == 0
    assert fleet.steps(run_id)[0].status is StepStatus.QUEUED


def test_a_released_step_starts_elsewhere_at_once(fleet: Fleet) -> None:
    first = fleet.worker(ORCH_GRACE_MS="0", ORCH_LEASE_MS="60000")
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)
    fleet.worker(ORCH_LEASE_MS="60000")

    first.send(signal.SIGTERM)

    eventually(lambda: fleet.steps(run_id)[0].attempt == 2, within=5)
    assert fleet.attempts(run_id)[0].worker_id != fleet.attempts(run_id)[1].worker_id


def test_a_draining_worker_claims_nothing_and_loses_no_message(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_WORKER_CONCURRENCY="1")
    blocker = fleet.start(fleet.publish(sleeper(1_000)))
    fleet.until_running(blocker)
    waiting = fleet.start(fleet.publish(chain(3)))
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 1)

    worker.send(signal.SIGTERM)
    assert worker.wait(within=10) == 0

    assert fleet.run(blocker).status.is_terminal
    assert fleet.steps(waiting)[0].attempt == 0
    fleet.worker()
    # No sweeper runs: the message itself must still be there.
    fleet.completed(waiting)


def test_hand_off_ends_with_draining(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_HANDOFF_MS="60000")
    made_of = [step("s0", "sleep", ms=1_000), *(step(f"s{i}", "sleep", ms=50) for i in range(1, 40))]
    run_id = fleet.start(fleet.publish(dag("long", made_of, [(i, i + 1) for i in range(39)])))
    fleet.until_running(run_id)

    worker.send(signal.SIGTERM)
    assert worker.wait(within=10) == 0

    assert [s.status for s in fleet.steps(run_id)][:2] == [StepStatus.SUCCEEDED, StepStatus.QUEUED]


def test_a_step_that_heeds_nothing_cannot_keep_the_process(fleet: Fleet, tmp_path: Path) -> None:
    stubborn = step("s0", "command", argv=["sh", "-c", "trap '' TERM INT; sleep 60 & wait; sleep 60"])
    worker = fleet.worker(ORCH_GRACE_MS="0")
    run_id = fleet.start(fleet.publish(dag("stubborn", [stubborn])))
    fleet.until_running(run_id)

    since = time.monotonic()
    worker.send(signal.SIGTERM)

    assert worker.wait(within=10) == 0
    assert time.monotonic() - since < 5
    assert fleet.steps(run_id)[0].status is StepStatus.QUEUED


def test_a_worker_ends_although_redis_is_away(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.worker(ORCH_REDIS_URL=f"unix://{tmp_path}/nobody.sock")

    worker.send(signal.SIGTERM)

    assert worker.wait(within=10) == 0


def test_a_worker_ends_although_postgresql_is_away(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.worker(ORCH_DATABASE_URL=f"postgresql://orch@/orch?host={tmp_path}")

    worker.send(signal.SIGTERM)

    assert worker.wait(within=10) == 0


def test_wrong_settings_end_a_worker_before_it_begins(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_WORKER_CONCURRENCY="many")

    assert worker.wait(within=10) == 78
    assert "ORCH_WORKER_CONCURRENCY" in worker.log.read_text()
