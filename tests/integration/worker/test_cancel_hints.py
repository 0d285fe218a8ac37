"""A cancellation reaches the worker at once, whoever sends what on the channel, and without a hint, too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.domain.models import RunId
from shared.domain.states import RunStatus
from shared.services import runs
from tests.integration.worker.fleet import ACME, Fleet, Process, dag, new_fleet, sleeper, step
from tests.support.eventually import eventually
from tests.support.servers import own_redis

pytestmark = pytest.mark.timed

CHANNEL = "orchestrator:cancelled"
KILL_GRACE_S = 0.3
RENEWAL_S = 1.0
"""The lease is long here, so that only the longest period remains."""
LEASE = {"ORCH_LEASE_MS": "15000"}


def cancel(fleet: Fleet, run_id: RunId, *, hint: bool = True) -> float:
    """Cancel as the API does, and give the time of the request."""
    since = time.monotonic()
    _, change = runs.cancel(fleet.db, ACME, run_id, reason=None)
    assert change.to_stop
    if hint:
        fleet.dispatcher.cancelled(run_id)
    return since


def listening(fleet: Fleet) -> bool:
    return bool(dict(fleet.redis().pubsub_numsub(CHANNEL))[CHANNEL.encode()])


@contextmanager
def stubborn(fleet: Fleet, mark: Path) -> Iterator[RunId]:
    """Run a command that ignores SIGTERM, with a child in another session that does, too."""
    script = (
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do date +%s.%N >$0; sleep 0.02; done' "
        f"{mark} & while :; do sleep 0.1; done"
    )
    run_id = fleet.start(fleet.publish(dag("stubborn", [step("s0", "command", argv=["sh", "-c", script])])))
    eventually(lambda: mark.exists() and mark.read_text())
    yield run_id


def written(mark: Path) -> str:
    return mark.read_text()


def is_quiet(mark: Path) -> bool:
    before = written(mark)
    time.sleep(0.2)
    return written(mark) == before


def test_by_default_nothing_is_left_of_a_stubborn_command_two_seconds_after_the_request(
    fleet: Fleet, tmp_path: Path
) -> None:
    del fleet.environ["ORCH_KILL_GRACE_MS"]
    fleet.worker(**LEASE)
    eventually(lambda: listening(fleet))
    mark = tmp_path / "mark"
    with stubborn(fleet, mark) as run_id:
        asked = time.time()
        cancel(fleet, run_id)
        eventually(lambda: fleet.run(run_id).status is RunStatus.CANCELLED, within=5)
        assert is_quiet(mark)
        assert float(written(mark) or 0) - asked < 2.0


def test_a_hint_stops_a_step_before_the_next_renewal(fleet: Fleet) -> None:
    fleet.worker(**LEASE)
    eventually(lambda: listening(fleet))
    spec = fleet.publish(sleeper(60_000))
    took = []
    for _ in range(5):
        run_id = fleet.start(spec)
        fleet.until_running(run_id)
        since = cancel(fleet, run_id)
        fleet.ended(run_id)
        took.append(time.monotonic() - since)
    # By the renewals alone it would be half a period in the mean.
    assert sum(took) / len(took) < RENEWAL_S / 4, took


def test_without_its_hint_a_cancellation_is_learned_with_the_renewal(fleet: Fleet) -> None:
    fleet.worker(**LEASE)
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)
    since = cancel(fleet, run_id, hint=False)
    eventually(lambda: fleet.run(run_id).status is RunStatus.CANCELLED)
    assert time.monotonic() - since < RENEWAL_S + KILL_GRACE_S + 1


@pytest.mark.parametrize("noise", [b"", b"\xff\xfe", b"x" * 100_000, b'{"run_id": 1}'])
def test_what_names_no_run_is_counted_and_the_next_hint_is_heard(fleet: Fleet, noise: bytes) -> None:
    worker = fleet.worker(**LEASE)
    eventually(lambda: listening(fleet))
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)
    fleet.redis().publish(CHANNEL, noise)
    eventually(lambda: worker.events("cancel_hint_refused"))
    cancel(fleet, run_id)
    eventually(lambda: fleet.run(run_id).status is RunStatus.CANCELLED)


def test_a_forged_hint_stops_nothing_and_a_flood_of_them_slows_nothing(fleet: Fleet) -> None:
    worker = fleet.worker()
    eventually(lambda: listening(fleet))
    held = fleet.start(fleet.publish(sleeper(3_000)))
    fleet.until_running(held)
    with fleet.redis().pipeline(transaction=False) as pipe:
        for _ in range(20_000):
            pipe.publish(CHANNEL, str(held))
        pipe.execute()
    assert fleet.completed(fleet.start(fleet.publish(sleeper(10, "other")))).status is RunStatus.COMPLETED
    assert fleet.completed(held).status is RunStatus.COMPLETED
    assert not worker.events("lease_lost")


def test_hints_are_heard_again_after_redis_was_killed(tmp_path: Path, database_url: str) -> None:
    folder = tmp_path / "fleet"
    folder.mkdir()
    sockets = tmp_path / "redis"
    sockets.mkdir()
    with (
        own_redis(sockets) as (url, process),
        new_fleet(folder, database_url=database_url, redis_url=url) as fleet,
    ):
        worker: Process = fleet.worker(**LEASE)
        eventually(lambda: listening(fleet))
        run_id = fleet.start(fleet.publish(sleeper(60_000)))
        fleet.until_running(run_id)
        process.kill()
        process.wait()
        eventually(lambda: worker.events("cancel_hints_not_heard"))
        with own_redis(sockets):
            eventually(lambda: listening(fleet), within=5)
            since = cancel(fleet, run_id)
            eventually(lambda: fleet.run(run_id).status is RunStatus.CANCELLED)
            assert time.monotonic() - since < RENEWAL_S + KILL_GRACE_S + 1
