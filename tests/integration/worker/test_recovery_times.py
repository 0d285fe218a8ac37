"""How long it takes until what was lost goes on, with the defaults and with short timings."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

import pytest
import redis

from shared.config import Settings
from shared.domain.models import RunId, TenantId
from shared.domain.states import AttemptStatus, ErrorCode
from shared.embedded import redis as embedded_redis
from shared.messaging import doorbell
from shared.services import dispatch, runs, steps
from shared.store.db import Database
from tests.integration.worker.fleet import (
    ACME,
    TIMINGS,
    Fleet,
    Process,
    chain,
    dag,
    new_fleet,
    sleeper,
    step,
    wide,
)
from tests.support.eventually import eventually
from tests.support.servers import own_redis

pytestmark = pytest.mark.timed

DEFAULTS = dict.fromkeys(TIMINGS, "")
"""An empty variable counts as one that is not given."""
SHORT = {"ORCH_LEASE_MS": "3000", "ORCH_RESEND_AFTER_MS": "1000"}
OFTEN = {"ORCH_SWEEP_INTERVAL_MS": "100"}
ELSEWHERE_WITHIN_S = Settings().lease_ms / 1000 + 2
SENT_AGAIN_WITHIN_S = 5.0
RIVAL = TenantId("rival")


def now(db: Database) -> datetime:
    with db.statement(None) as cur:
        cur.execute("SELECT clock_timestamp()")
        moment = cur.fetchall()[0][0]
        assert isinstance(moment, datetime)
        return moment


def p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1]


def test_a_killed_workers_step_runs_elsewhere_soon_after_its_lease(fleet: Fleet) -> None:
    fleet.sweeper(**DEFAULTS)
    worker = fleet.worker(**DEFAULTS)
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)
    fleet.worker(**DEFAULTS)

    killed = now(fleet.service_db)
    worker.popen.kill()
    eventually(lambda: len(fleet.attempts(run_id)) == 2, within=ELSEWHERE_WITHIN_S)

    assert (fleet.attempts(run_id)[1].started_utc - killed).total_seconds() <= ELSEWHERE_WITHIN_S


def test_messages_that_redis_has_lost_are_sent_again_within_seconds(fleet: Fleet) -> None:
    fleet.worker(**DEFAULTS)
    fleet.sweeper(**DEFAULTS)
    made_of = [step("s0"), replace(step("s1"), when="true")]
    started = [
        fleet.start(fleet.publish(chain(1)), ring=False),
        fleet.start(fleet.publish(dag("asking", made_of[1:])), ring=False),
    ]
    lost = now(fleet.service_db)
    # Marked as sent, and gone; nobody was asked for the decision, either.
    dispatch.pick(fleet.service_db, "default", ACME)

    for run_id in started:
        run = fleet.completed(run_id, within=10)
        assert run.ended_utc is not None
        assert (run.ended_utc - lost).total_seconds() <= SENT_AGAIN_WITHIN_S


@contextmanager
def lossy(source: str, sink: str) -> Iterator[tuple[list[int], list[int]]]:
    """Carry messages from one Redis database to another, and lose 3 of each 10 on the way; count both."""
    seeded, over, carried, lost = random.Random(7), threading.Event(), [0], [0]
    fates: list[bool] = []

    def carry() -> None:
        with redis.Redis.from_url(source) as taking, redis.Redis.from_url(sink) as giving:
            while not over.is_set():
                taken = taking.brpop(["orchestrator:steps.default"], timeout=0.1)
                if taken is None:
                    continue
                if not fates:
                    fates.extend(seeded.sample([True] * 3 + [False] * 7, 10))
                if fates.pop():
                    lost[0] += 1
                else:
                    giving.lpush(*taken)
                carried[0] += 1

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield carried, lost
    finally:
        over.set()
        thread.join()


def test_where_a_third_of_all_messages_is_lost_steps_are_seconds_late_and_none_is_left(
    tmp_path: Path, database_url: str, show: Callable[[str], None]
) -> None:
    with own_redis(tmp_path) as (source, _):
        sink = embedded_redis.redis_url(tmp_path, 1)
        with (
            new_fleet(tmp_path, database_url=database_url, redis_url=source) as fleet,
            lossy(source, sink) as (carried, lost),
        ):
            # Messages that are lost take up what may be out, two a slot, until they are sent again.
            timings = {**SHORT, **OFTEN, "ORCH_WORKER_CONCURRENCY": "16"}
            fleet.sweeper(**timings)
            fleet.worker(**timings, ORCH_REDIS_URL=sink)
            spec = fleet.publish(chain(1))
            started = []
            for _ in range(100):
                # One by one: what the worker picks itself, for a slot that is free, is not carried.
                sent = carried[0]
                started.append(fleet.start(spec))
                eventually(lambda sent=sent: carried[0] > sent)  # type: ignore[misc]
            late = []
            for run_id in started:
                run = fleet.completed(run_id, within=30)
                (attempt,) = fleet.attempts(run_id)
                late.append((attempt.started_utc - run.started_utc).total_seconds())
    show(f"{lost[0]} lost, p95 {p95(late):.2f} s, max {max(late):.2f} s")
    assert lost[0] >= 0.2 * carried[0]
    assert p95(late) <= 3


def test_a_duplicate_costs_a_worker_milliseconds(fleet: Fleet, show: Callable[[str], None]) -> None:
    fleet.worker()
    run_id = fleet.start(fleet.publish(wide(30)), ring=False)
    bells = dispatch.pick(fleet.service_db, "default", ACME)
    doorbell.send(fleet.app, bells)
    eventually(lambda: fleet.steps(run_id)[0].attempt == 1)
    costs = []
    for _ in range(15):
        since = time.monotonic()
        shuffled = random.Random(7).sample(bells * 20, len(bells) * 20)
        doorbell.send(fleet.app, shuffled)
        eventually(lambda: doorbell.waiting(fleet.app, "default") == 0)
        costs.append((time.monotonic() - since) * 1000 / len(shuffled))
    show(f"{median(costs):.2f} ms a duplicate")
    assert median(costs) <= 10
    assert {s.attempt for s in fleet.steps(run_id)} <= {0, 1}


def test_ten_killed_workers_cost_their_steps_seconds(fleet: Fleet, show: Callable[[str], None]) -> None:
    fleet.sweeper(**SHORT, **OFTEN)
    slots = {**SHORT, "ORCH_WORKER_CONCURRENCY": "8"}
    workers = [fleet.worker(**slots) for _ in range(3)]
    run_id = fleet.start(fleet.publish(wide(60, "sleep", ms=2_000)))
    killed_at: dict[int, datetime] = {}
    for _ in range(10):
        victim = next_victim(fleet, run_id, workers)
        killed_at[victim.popen.pid] = now(fleet.service_db)
        victim.send(signal.SIGKILL)
        victim.wait(within=5)
        workers.remove(victim)
        workers.append(fleet.worker(**slots))

    fleet.completed(run_id, within=90)

    waits: dict[int, list[float]] = {pid: [] for pid in killed_at}
    for one in fleet.steps(run_id):
        attempts = fleet.attempts(run_id, one.step_id)
        assert [a.status for a in attempts[:-1]] == [AttemptStatus.LOST] * (len(attempts) - 1)
        for lost, following in pairwise(attempts):
            pid = int(lost.worker_id.rsplit("-", 2)[1])
            waits[pid].append((following.started_utc - killed_at[pid]).total_seconds())
    # How soon the steps of a killed worker begin to run again; the last of them may wait for a slot,
    # behind the messages that are out: two a slot, each a step of 2 s.
    first = [min(of_one) for of_one in waits.values() if of_one]
    each = [wait for of_one in waits.values() for wait in of_one]
    show(f"first p95 {p95(first):.2f} s; {len(each)} in all: p95 {p95(each):.2f} s, max {max(each):.2f} s")
    assert len(first) >= 8
    assert p95(first) <= 6
    assert max(each) <= 10


def next_victim(fleet: Fleet, run_id: RunId, workers: Sequence[Process]) -> Process:
    """Wait until any of the workers runs a step; give the one that has lived longest of those."""

    def works() -> list[Process]:
        with fleet.service_db.statement(None) as cur:
            cur.execute(
                "SELECT DISTINCT worker_id FROM orch.steps WHERE run_id = %(run)s AND worker_id IS NOT NULL",
                {"run": str(run_id)},
            )
            busy = {int(worker_id.rsplit("-", 2)[1]) for (worker_id,) in cur.fetchall()}
        return [worker for worker in workers if worker.popen.pid in busy]

    return eventually(works, within=30)[0]


def test_a_step_that_kills_its_workers_slows_others_little(fleet: Fleet, show: Callable[[str], None]) -> None:
    fleet.sweeper(**SHORT)
    workers = [fleet.worker(**SHORT) for _ in range(4)]
    neighbour = fleet.start(fleet.publish(wide(6_000, "sleep", ms=100)))
    eventually(lambda: ended(fleet, neighbour) > 100)

    alone = rate(fleet, neighbour, lambda: ended(fleet, neighbour) > 1_000)
    kill = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)"
    spec = dag("poison", [step("s0", "command", argv=["sh", "-c", kill])])
    # Nobody rings for it: the sweeper finds it.
    poison = fleet.start(fleet.publish(spec, tenant=RIVAL), tenant=RIVAL, ring=False)

    def is_over() -> bool:
        for dead in [worker for worker in workers if not worker.alive]:
            workers.remove(dead)
            workers.append(fleet.begin_worker(**SHORT))
        return runs.get(fleet.db, RIVAL, poison).status.is_terminal

    poisoned = rate(fleet, neighbour, is_over)

    assert len(fleet.processes) == 1 + 4 + 5
    (failed,) = steps.list_page(fleet.db, RIVAL, poison, after_no=-1, limit=2)
    assert (failed.error_code, failed.attempt) == (ErrorCode.WORKER_LOST, 5)
    assert not fleet.run(neighbour).status.is_terminal
    show(f"{alone:.1f} and {poisoned:.1f} steps a second")
    # With a core for each worker it is 0.8 and more. Here the start of each of the five that follow takes two
    # seconds of one of two cores, and other tests may want them, too.
    assert poisoned >= 0.65 * alone


def rate(fleet: Fleet, run_id: RunId, is_over: Callable[[], bool]) -> float:
    """Give how many steps of the run end in a second until something is over."""
    since, before = time.monotonic(), ended(fleet, run_id)
    eventually(is_over, within=90)
    return (ended(fleet, run_id) - before) / (time.monotonic() - since)


def ended(fleet: Fleet, run_id: RunId) -> int:
    with fleet.service_db.statement(None) as cur:
        cur.execute(
            "SELECT count(*) FROM orch.steps WHERE run_id = %(run)s AND status = 'succeeded'",
            {"run": str(run_id)},
        )
        return int(cur.fetchall()[0][0])
