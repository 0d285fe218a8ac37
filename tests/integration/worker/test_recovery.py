"""Workers die, hang and are cut off; messages are lost; the runs end all the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg2
import pytest

from shared.domain.states import AttemptStatus, ErrorCode, RunStatus, StepStatus
from shared.embedded import redis as embedded_redis
from shared.messaging import doorbell
from shared.services import dispatch, metrics
from shared.store.db import Database
from tests.integration.worker.fleet import ACME, Fleet, chain, dag, flaky, new_fleet, sleeper, step, wide
from tests.support.eventually import eventually
from tests.support.servers import own_redis


@contextmanager
def cut_off(owner_url: str, database: str) -> Iterator[None]:
    """Cut this database off from everybody: PostgreSQL is away, for all that a worker can tell."""
    connection = psycopg2.connect(owner_url.replace(f"/{database}?", "/postgres?"))
    connection.autocommit = True
    try:
        with connection.cursor() as cur:
            cur.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS FALSE")
            cur.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
            )
            yield
            cur.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS TRUE")
    finally:
        connection.close()


def test_a_killed_worker_costs_its_steps_an_attempt_and_no_more(fleet: Fleet) -> None:
    worker = fleet.worker()
    run_id = fleet.start(fleet.publish(wide(4, "sleep", ms=2_000)))
    eventually(lambda: all(s.status is StepStatus.RUNNING for s in fleet.steps(run_id)))

    worker.popen.kill()
    fleet.sweeper()
    fleet.worker()

    fleet.completed(run_id)
    for name in ("s0", "s1", "s2", "s3"):
        assert [a.status for a in fleet.attempts(run_id, name)] == [
            AttemptStatus.LOST,
            AttemptStatus.SUCCEEDED,
        ]


def test_the_sweeper_removes_idempotency_keys_that_have_expired(
    fleet: Fleet, owner_url: str, service_db: Database
) -> None:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "INSERT INTO orch.idempotency_keys"
            " SELECT 'acme', n::text, 'POST', '/', sha256(''), 200, '{}', '', now() - n * INTERVAL '1 hour'"
            " FROM generate_series(1, 2000) AS n"
        )
    fleet.sweeper()

    def left() -> list[int]:
        with service_db.statement(None) as cur:
            cur.execute("SELECT key::integer FROM orch.idempotency_keys ORDER BY 1")
            return [row[0] for row in cur.fetchall()]

    eventually(lambda: left() == list(range(1, 24)))


def test_a_step_that_kills_its_worker_each_time_fails_in_the_end(fleet: Fleet) -> None:
    fleet.sweeper()
    # The command's parent is the keeper of its process tree; the keeper's is the worker.
    kill = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)"
    run_id = fleet.start(fleet.publish(dag("poison", [step("s0", "command", argv=["sh", "-c", kill])])))
    for _ in range(5):
        worker = fleet.worker(ORCH_LEASE_MS="500")
        assert worker.wait(within=10) == -signal.SIGKILL

    assert fleet.ended(run_id).status is RunStatus.FAILED
    assert fleet.steps(run_id)[0].error_code is ErrorCode.WORKER_LOST
    assert len(fleet.attempts(run_id)) == 5


def test_a_result_that_comes_after_the_lease_is_thrown_away(fleet: Fleet) -> None:
    frozen = fleet.worker()
    run_id = fleet.start(fleet.publish(sleeper(1_000)))
    fleet.until_running(run_id)
    frozen.send(signal.SIGSTOP)
    fleet.sweeper()
    fleet.worker()
    fleet.completed(run_id)
    before = (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id))

    frozen.send(signal.SIGCONT)
    eventually(lambda: frozen.events("result_thrown_away") or frozen.events("lease_lost"), within=5)

    assert (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id)) == before
    assert [a.status for a in before[1]] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]
    assert frozen.alive


def test_a_worker_that_is_cut_off_stops_before_its_successor_begins(
    fleet: Fleet, owner_url: str, database: str, tmp_path: Path
) -> None:
    mark = tmp_path / "beats"
    beat = f"while :; do date +%s%N >> {mark}; sleep 0.05; done"
    fleet.worker()
    run_id = fleet.start(fleet.publish(dag("beats", [step("s0", "command", argv=["sh", "-c", beat])])))
    eventually(mark.exists)

    with cut_off(owner_url, database):
        # Nobody tells the worker anything: its own clock has to.
        eventually(lambda: _is_quiet(mark), within=8)

    quiet_since = int(mark.read_text().split()[-1])
    mark.unlink()
    fleet.sweeper()
    eventually(lambda: fleet.steps(run_id)[0].attempt == 2, within=10)
    eventually(mark.exists)
    attempts = fleet.attempts(run_id)
    assert attempts[0].status is AttemptStatus.LOST
    assert int(mark.read_text().split()[0]) > quiet_since
    assert attempts[0].ended_utc is not None
    assert attempts[0].ended_utc.timestamp() * 1e9 > quiet_since


def _is_quiet(mark: Path) -> bool:
    size = mark.stat().st_size
    try:
        eventually(lambda: mark.stat().st_size > size, within=0.5)
    except AssertionError:
        return True
    return False


def test_a_result_waits_for_postgresql_while_the_lease_lasts(
    fleet: Fleet, owner_url: str, database: str
) -> None:
    worker = fleet.worker(ORCH_LEASE_MS="30000")
    run_id = fleet.start(fleet.publish(sleeper(700)))
    fleet.until_running(run_id)

    with cut_off(owner_url, database):
        # The renewals of a second fail: by then the step has ended, too.
        eventually(lambda: worker.events("leases_not_renewed"), within=10)

    fleet.completed(run_id)
    assert fleet.steps(run_id)[0].attempt == 1


def test_what_redis_forgot_is_sent_again(fleet: Fleet) -> None:
    fleet.sweeper()
    run_id = fleet.start(fleet.publish(wide(10)))
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 10)

    with fleet.redis() as client:
        client.flushdb()
    fleet.worker()

    fleet.completed(run_id)


def _redis_holds(fleet: Fleet, count: int) -> bool:
    return doorbell.waiting(fleet.app, "default") >= count


def test_what_only_waits_is_not_sent_again(fleet: Fleet) -> None:
    fleet.sweeper(ORCH_RESEND_AFTER_MS="50")
    spec = fleet.publish(chain(1))
    for number in range(1, 6):
        # Only the sweeper can have sent it, so a round has passed since the one before.
        fleet.start(spec, ring=False)
        eventually(partial(_redis_holds, fleet, number))

    assert doorbell.waiting(fleet.app, "default") == 5
    assert not any(process.events("doorbells_sent_again") for process in fleet.processes)


def test_what_was_committed_and_never_sent_is_sent(fleet: Fleet) -> None:
    fleet.worker()
    made_of = [step("s0"), replace(step("s1"), when="true")]
    runs = [
        fleet.start(fleet.publish(chain(3)), ring=False),
        fleet.start(fleet.publish(dag("asking", made_of)), ring=False),
    ]

    fleet.sweeper()

    for run_id in runs:
        fleet.completed(run_id)


def test_what_was_marked_as_sent_and_never_sent_is_sent(fleet: Fleet) -> None:
    fleet.worker()
    run_id = fleet.start(fleet.publish(chain(3)), ring=False)
    assert dispatch.pick(fleet.service_db, "default", ACME)

    fleet.sweeper()

    fleet.completed(run_id)


def test_a_retry_comes_when_it_is_due(fleet: Fleet, tmp_path: Path) -> None:
    fleet.worker()
    # Long rounds: the sweeper must look when the retry is due.
    fleet.sweeper(ORCH_SWEEP_INTERVAL_MS="400")
    run_id = fleet.start(fleet.publish(flaky(tmp_path / "marker")))

    fleet.completed(run_id)

    assert [a.status for a in fleet.attempts(run_id)] == [AttemptStatus.FAILED, AttemptStatus.SUCCEEDED]


def test_two_sweepers_do_not_disturb_each_other(fleet: Fleet, tmp_path: Path) -> None:
    for _ in range(2):
        fleet.sweeper(ORCH_SWEEP_INTERVAL_MS="10")
    fleet.worker()
    runs = [fleet.start(fleet.publish(flaky(tmp_path / f"m{i}", name=f"flaky{i}"))) for i in range(5)]

    for run_id in runs:
        fleet.completed(run_id)
        assert len(fleet.attempts(run_id)) == 2
    assert all(process.alive for process in fleet.processes)


def test_a_sweeper_that_is_frozen_at_any_moment_holds_up_no_other(fleet: Fleet, tmp_path: Path) -> None:
    frozen, _ = (fleet.sweeper(ORCH_SWEEP_INTERVAL_MS="10") for _ in range(2))
    fleet.worker()
    for number in range(8):
        run_id = fleet.start(fleet.publish(flaky(tmp_path / f"m{number}", name=f"flaky{number}")), ring=False)
        frozen.send(signal.SIGSTOP)
        fleet.completed(run_id, within=10)
        frozen.send(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_sweeper_ends_at_once(fleet: Fleet, number: signal.Signals) -> None:
    sweeper = fleet.sweeper(ORCH_SWEEP_INTERVAL_MS="60000")

    sweeper.send(number)

    assert sweeper.wait(within=3) == 0


def test_a_sweeper_without_redis_still_rescues(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.worker()
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)
    worker.popen.kill()

    sweeper = fleet.sweeper(ORCH_REDIS_URL=f"unix://{tmp_path}/nobody.sock")

    eventually(lambda: fleet.steps(run_id)[0].status is StepStatus.QUEUED, within=15)
    assert sweeper.alive


def test_a_sweeper_outlives_an_outage_of_postgresql(fleet: Fleet, owner_url: str, database: str) -> None:
    sweeper = fleet.sweeper()
    fleet.worker()
    spec = fleet.publish(chain(2))

    with cut_off(owner_url, database):
        eventually(lambda: sweeper.events("sweep_wake_failed"), within=10)

    run_id = fleet.start(spec, ring=False)
    fleet.completed(run_id, within=20)


def test_runs_end_although_redis_is_killed_and_comes_back_empty(tmp_path: Path, database_url: str) -> None:
    with (
        own_redis(tmp_path) as (redis_url, process),
        new_fleet(tmp_path, database_url=database_url, redis_url=redis_url) as fleet,
    ):
        worker, sweeper = fleet.worker(), fleet.sweeper()
        spec = fleet.publish(chain(3))
        fleet.completed(fleet.start(spec))

        process.kill()
        process.wait()
        during = fleet.start(spec)
        eventually(lambda: sweeper.events("sweep_resend_failed"), within=10)
        again = embedded_redis.redis_program(tmp_path / "redis", tmp_path).start(tmp_path / "redis2.log")
        try:
            after = fleet.start(spec)
            fleet.completed(during, within=20)
            fleet.completed(after, within=20)
            # And the worker listens again: no sweep is needed for the next one.
            sweeper.popen.terminate()
            sweeper.wait(within=5)
            fleet.completed(fleet.start(spec), within=10)
            assert worker.alive
        finally:
            again.kill()
            again.wait()


def test_a_frozen_redis_holds_up_no_running_step(tmp_path: Path, database_url: str) -> None:
    with (
        own_redis(tmp_path) as (redis_url, process),
        new_fleet(tmp_path, database_url=database_url, redis_url=redis_url) as fleet,
    ):
        fleet.worker()
        fleet.sweeper()
        spec = fleet.publish(sleeper(500))
        first = fleet.start(spec)
        fleet.until_running(first)

        process.send_signal(signal.SIGSTOP)
        fleet.completed(first)
        second = fleet.start(spec)
        process.send_signal(signal.SIGCONT)

        fleet.completed(second, within=20)


def test_the_sweeper_counts_what_has_ended_though_nobody_looks(fleet: Fleet) -> None:
    fleet.worker()
    fleet.sweeper()
    fleet.completed(fleet.start(fleet.publish(chain(2))))

    def counted() -> set[tuple[str, str, int]]:
        totals = metrics.measure(fleet.db, ACME).totals
        return {(total.metric, total.status, total.count) for total in totals if total.metric == "run"}

    eventually(lambda: counted() == {("run", "completed", 1)})
