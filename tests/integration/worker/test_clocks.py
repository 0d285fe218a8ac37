"""Workers and sweepers whose clocks are hours off behave like any others: PostgreSQL's clock decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.domain.states import AttemptStatus
from shared.services import health
from tests.integration.worker.fleet import ACME, Fleet, chain, dag, flaky, sleeper, step
from tests.support.eventually import eventually

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed")


def off(by: str) -> dict[str, str]:
    """Set a process's clock off; the time that only ever goes on goes on as ever."""
    return {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": by,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


@pytest.mark.parametrize("by", ["+2h", "-2h"])
def test_a_clock_that_is_off_changes_nothing(fleet: Fleet, tmp_path: Path, by: str) -> None:
    fleet.sweeper(**off(by))
    worker = fleet.worker(**off(by))
    other = fleet.worker()
    eventually(lambda: health.live_workers(fleet.service_db) == 2)
    assert health.live_sweepers(fleet.db, ACME).live == 1
    assert abs(_logged_hours_off(worker.events("worker_ready")[0]["timestamp"])) > 1

    made_of = [step("s0"), replace(step("s1"), when="true")]
    runs = [
        fleet.start(fleet.publish(chain(10))),
        fleet.start(fleet.publish(dag("asking", made_of, [(0, 1)]))),
        # Its lease is renewed several times.
        fleet.start(fleet.publish(sleeper(5_000))),
        fleet.start(fleet.publish(flaky(tmp_path / "marker"))),
        # Messages that were lost.
        fleet.start(fleet.publish(chain(3, name="lost")), ring=False),
    ]

    for run_id in runs:
        run = fleet.completed(run_id)
        assert run.ended_utc is not None
        assert timedelta(0) <= run.ended_utc - run.started_utc < timedelta(minutes=1)
        for one in fleet.steps(run_id):
            attempts = fleet.attempts(run_id, one.step_id)
            assert AttemptStatus.LOST not in {attempt.status for attempt in attempts}
    assert other.alive


def test_a_sweeper_whose_clock_is_off_takes_steps_from_the_dead_only(fleet: Fleet) -> None:
    fleet.sweeper(**off("+2h"))
    dead, alive = fleet.worker(**off("-2h")), fleet.worker(**off("+2h"))
    runs = [fleet.start(fleet.publish(sleeper(4_000, name=f"sleeper{i}"))) for i in range(8)]
    for run_id in runs:
        fleet.until_running(run_id)

    dead.popen.kill()

    for run_id in runs:
        fleet.completed(run_id, within=30)
        *lost, won = fleet.attempts(run_id)
        assert [attempt.status for attempt in lost] in ([], [AttemptStatus.LOST])
        assert f"-{alive.popen.pid}-" in won.worker_id
        assert all(f"-{dead.popen.pid}-" in attempt.worker_id for attempt in lost)


def _logged_hours_off(timestamp: object) -> float:
    return (datetime.fromisoformat(str(timestamp)) - datetime.now(UTC)).total_seconds() / 3_600
