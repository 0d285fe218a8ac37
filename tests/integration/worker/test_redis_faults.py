"""Redis is cut off, restarted, flushed, full, frozen: workers take messages again, and nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from orchestrator_worker.shutdown import EX_DEAF
from shared.domain.models import RunId
from shared.embedded import redis as embedded_redis
from shared.messaging import doorbell
from shared.services import incidents
from tests.integration.worker.fleet import Fleet, Process, chain, new_fleet, sleeper, wide
from tests.support.eventually import eventually
from tests.support.proxy import Mode, Proxy, proxied
from tests.support.servers import own_redis

CLAIMS_AGAIN_WITHIN_S = 20.0
AFTER_RESTART_WITHIN_S = 15.0
RUNS = 10


@pytest.fixture
def own(tmp_path: Path, database_url: str) -> Iterator[Fleet]:
    """A fleet on a Redis of its own."""
    with (
        own_redis(tmp_path) as (redis_url, _),
        new_fleet(tmp_path, database_url=database_url, redis_url=redis_url) as fleet,
    ):
        yield fleet


@contextmanager
def worker_behind_proxy(fleet: Fleet, **environ: str) -> Iterator[tuple[Process, Proxy]]:
    """Start a worker that reaches Redis through a proxy, and nobody else does."""
    with proxied(fleet.folder / embedded_redis.SOCKET_NAME) as proxy:
        worker = fleet.worker(ORCH_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", **environ)
        fleet.completed(fleet.start(fleet.publish(chain(1))))
        yield worker, proxy
        assert worker.alive


def start_some(fleet: Fleet, number: int = RUNS) -> list[RunId]:
    spec = fleet.publish(chain(1))
    return [fleet.start(spec) for _ in range(number)]


def completed_once(fleet: Fleet, runs: list[RunId], *, within: float) -> None:
    until = time.monotonic() + within
    for run_id in runs:
        fleet.completed(run_id, within=until - time.monotonic())
        assert [step.attempt for step in fleet.steps(run_id)] == [1] * len(fleet.steps(run_id))


@pytest.mark.parametrize("deaf_after_ms", ["1000", "60000"], ids=["watchdog", "transport"])
def test_a_worker_whose_connection_to_redis_is_half_open_claims_again(own: Fleet, deaf_after_ms: str) -> None:
    own.sweeper()
    with worker_behind_proxy(own, ORCH_DEAF_AFTER_MS=deaf_after_ms) as (worker, proxy):
        proxy.set(Mode.HALF_OPEN)

        completed_once(own, start_some(own), within=CLAIMS_AGAIN_WITHIN_S)

        assert bool(worker.events("worker_deaf")) == (deaf_after_ms == "1000")


@pytest.mark.parametrize("mode", [Mode.BLACKHOLE, Mode.REFUSE, Mode.RESET], ids=lambda mode: mode.name)
def test_a_worker_that_was_cut_off_from_redis_claims_again(own: Fleet, mode: Mode) -> None:
    own.sweeper()
    with worker_behind_proxy(own) as (worker, proxy):
        proxy.set(mode)
        runs = start_some(own)
        eventually(lambda: doorbell.waiting(own.app, "default"))
        eventually(lambda: worker.events("redis_away"), within=30)
        proxy.set(Mode.PASS)

        completed_once(own, runs, within=CLAIMS_AGAIN_WITHIN_S)


def test_slow_and_laggard_connections_lose_nothing(own: Fleet) -> None:
    own.sweeper()
    with worker_behind_proxy(own) as (_, proxy):
        proxy.delay_seconds = 0.05
        proxy.bytes_per_second = 20_000

        completed_once(own, start_some(own), within=CLAIMS_AGAIN_WITHIN_S)


def test_a_worker_whose_connections_are_killed_claims_again(own: Fleet) -> None:
    own.sweeper()
    worker = own.worker()
    with own.redis() as client:
        for _ in range(5):
            runs = start_some(own, 3)
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            completed_once(own, runs, within=AFTER_RESTART_WITHIN_S)
    assert worker.alive


BUSY = """
    local since = redis.call('TIME')[1]
    repeat until redis.call('TIME')[1] - since > 6
"""


@pytest.mark.parametrize(
    "command",
    [("CLIENT", "PAUSE", "6000"), ("CLIENT", "PAUSE", "6000", "WRITE"), ("EVAL", BUSY, "0")],
    ids=["pause", "pause of writes", "busy"],
)
def test_a_redis_that_stands_still_for_a_while_costs_no_more_than_that(
    own: Fleet, command: tuple[str, ...]
) -> None:
    own.sweeper()
    worker = own.worker(ORCH_DEAF_AFTER_MS="1000")
    with redis.Redis.from_url(own.environ["ORCH_REDIS_URL"], socket_timeout=30) as client:
        still = threading.Thread(target=client.execute_command, args=command)
        still.start()
        runs = start_some(own)

        completed_once(own, runs, within=CLAIMS_AGAIN_WITHIN_S)

        still.join()
    assert worker.alive


@contextmanager
def full(client: redis.Redis) -> Iterator[None]:
    """Have Redis refuse whatever would make it larger."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        client.config_set("maxmemory", "0")


def test_a_full_redis_ends_no_worker_and_loses_nothing(own: Fleet) -> None:
    sweeper = own.sweeper()
    worker = own.worker(ORCH_DEAF_AFTER_MS="1000")
    before = start_some(own, 3)
    completed_once(own, before, within=10)
    with own.redis() as client, full(client):
        runs = start_some(own)
        # Who connects now cannot even say which queues there are.
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        eventually(lambda: sweeper.events("sweep_dispatch_failed") or sweeper.events("sweep_resend_failed"))
        runs += start_some(own)

    completed_once(own, runs, within=CLAIMS_AGAIN_WITHIN_S)
    assert worker.alive


def test_a_redis_that_follows_another_is_waited_for(own: Fleet) -> None:
    own.sweeper()
    worker = own.worker(ORCH_DEAF_AFTER_MS="1000")
    completed_once(own, start_some(own, 3), within=10)
    with own.redis() as client:
        # As after a failover: it answers, and takes no commands that change anything.
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        runs = start_some(own)
        eventually(lambda: "READONLY" in worker.log.read_text() or "ReadOnly" in worker.log.read_text())
        client.execute_command("REPLICAOF", "NO", "ONE")

    completed_once(own, runs, within=CLAIMS_AGAIN_WITHIN_S)
    assert worker.alive


def test_a_worker_that_stays_deaf_ends_so_that_another_can_take_its_place(own: Fleet) -> None:
    worker = own.worker(ORCH_DEAF_AFTER_MS="1000")
    completed_once(own, start_some(own, 1), within=10)
    running = own.start(own.publish(sleeper(3_000)))
    own.until_running(running)
    with own.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", "-brpop")
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        waiting = start_some(own, 2)

        assert worker.wait(within=30) == EX_DEAF

        client.execute_command("ACL", "SETUSER", "default", "+brpop")
    # What ran had its grace time, and nothing is lost with the worker.
    own.completed(running, within=5)
    assert len(own.attempts(running)) == 1
    assert [event["then"] for event in worker.events("worker_deaf")] == ["reconnect", "exit"]
    counted = {(one.component, one.kind): one.count for one in incidents.list_all(own.service_db)}
    assert counted["worker", "worker_deaf"] == 2
    own.sweeper()
    own.worker()
    completed_once(own, waiting, within=CLAIMS_AGAIN_WITHIN_S)


def test_neither_an_idle_worker_nor_a_busy_one_is_taken_for_deaf(own: Fleet) -> None:
    busy = own.worker(ORCH_DEAF_AFTER_MS="300", ORCH_WORKER_CONCURRENCY="2")
    idle = own.worker(ORCH_DEAF_AFTER_MS="300", ORCH_WORKER_POOLS="other")
    run_id = own.start(own.publish(wide(4, "sleep", ms=2_000)))

    own.completed(run_id)

    assert not busy.events("worker_deaf")
    assert not idle.events("worker_deaf")


def test_a_flushed_redis_delays_what_it_held_and_loses_none_of_it(own: Fleet) -> None:
    own.sweeper()
    own.worker()
    run_id = own.start(own.publish(wide(500, "sleep", ms=10)))
    with own.redis() as client:
        for done in (50, 130, 210, 290, 370):
            eventually(lambda done=done: _ended(own, run_id) >= done, within=30)  # type: ignore[misc]
            client.flushall()

    own.completed(run_id, within=30)
    assert [step.attempt for step in own.steps(run_id)] == [1] * 500


def _ended(fleet: Fleet, run_id: RunId) -> int:
    return sum(step.ended_utc is not None for step in fleet.steps(run_id))


def test_redis_killed_and_restarted_empty_again_and_again(tmp_path: Path, database_url: str) -> None:
    address = embedded_redis.redis_url(tmp_path)
    with new_fleet(tmp_path, database_url=database_url, redis_url=address) as fleet:
        worker = fleet.worker()
        fleet.sweeper()
        for _ in range(3):
            runs = start_some(fleet, 3)
            eventually(lambda: worker.events("redis_away"))
            with own_redis(tmp_path) as (_, process):
                completed_once(fleet, runs, within=AFTER_RESTART_WITHIN_S)
                process.kill()
                process.wait()
        assert worker.alive
