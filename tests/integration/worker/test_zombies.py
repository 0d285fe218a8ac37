"""Workers that were frozen or cut off for longer than their lease come back, and change nothing.

``ZOMBIES=20`` makes the long form.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from shared.domain.models import DagSpec, RunId
from shared.domain.states import AttemptStatus, StepStatus
from shared.embedded.process_tree import descendants, start_ticks
from shared.services import incidents, runs
from tests.integration.worker.fleet import ACME, Fleet, Process, dag, sleeper, step
from tests.support.eventually import eventually
from tests.support.invariants import check_invariants
from tests.support.proxy import Mode, proxied
from tests.support.servers import Servers
from tests.support.stack import alive

ZOMBIES = int(os.environ.get("ZOMBIES", "3"))
LEASE_S = 1.0
LEASE = {"ORCH_LEASE_MS": "1000", "ORCH_KILL_GRACE_MS": "100", "ORCH_HEARTBEAT_MS": "200"}
CHILDREN_GONE_WITHIN_S = 1.0
FIRST_HANGS = (
    'echo "$ORCH_ATTEMPT" >>{effects}; [ "$ORCH_ATTEMPT" -gt 1 ] || {{ setsid sleep 300 & sleep 300; }};'
    'echo "{{\\"by\\": $ORCH_ATTEMPT}}" >"$ORCH_OUTPUT_DIR/outputs.json"'
)


@pytest.fixture
def owner(owner_url: str) -> Iterator[Connection]:
    connection = psycopg2.connect(owner_url)
    yield connection
    connection.close()


def hanging(fleet: Fleet, effects: Path) -> DagSpec:
    """Publish a step whose first attempt hangs, with a child that left its session; the next ends at once."""
    script = FIRST_HANGS.format(effects=effects)
    return fleet.publish(dag("hanging", [step("s0", "command", argv=["sh", "-c", script])]))


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


def lost_and_won(fleet: Fleet, run_id: RunId) -> bool:
    return [a.status for a in fleet.attempts(run_id)] == [AttemptStatus.LOST, AttemptStatus.SUCCEEDED]


def thrown_away(fleet: Fleet) -> int:
    return sum(one.count for one in incidents.list_all(fleet.service_db) if one.kind == "result_thrown_away")


def worker_of(fleet: Fleet, run_id: RunId, workers: Sequence[Process]) -> Process:
    (attempt,) = fleet.attempts(run_id)
    pid = int(attempt.worker_id.rsplit("-", 2)[1])
    return next(worker for worker in workers if worker.popen.pid == pid)


@pytest.mark.parametrize("with_children", [False, True], ids=["worker", "worker and children"])
def test_a_frozen_worker_comes_back_and_changes_nothing(
    fleet: Fleet, owner: Connection, tmp_path: Path, with_children: bool
) -> None:
    workers = [fleet.worker(**LEASE), fleet.worker(**LEASE)]
    fleet.sweeper()
    effects = tmp_path / "effects"
    spec = hanging(fleet, effects)
    for number in range(1, ZOMBIES + 1):
        effects.unlink(missing_ok=True)
        run_id = fleet.start(spec)
        eventually(effects.exists)
        zombie = worker_of(fleet, run_id, workers)
        eventually(lambda zombie=zombie: len(descendants(zombie.popen.pid)) >= 3)  # type: ignore[misc]
        children = descendants(zombie.popen.pid)
        tree = {pid: start_ticks(pid) for pid in children}
        with frozen([zombie.popen.pid, *(children if with_children else ())]):
            since = time.monotonic()
            fleet.completed(run_id)
            before = (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id))
            # For three times as long as its lease it must not have been missed by anybody.
            eventually(lambda since=since: time.monotonic() - since > 3 * LEASE_S)  # type: ignore[misc]

        eventually(lambda tree=tree: not alive(tree), within=CHILDREN_GONE_WITHIN_S)  # type: ignore[misc]
        eventually(lambda number=number: thrown_away(fleet) == number)  # type: ignore[misc]
        assert lost_and_won(fleet, run_id)
        assert effects.read_text() == "1\n2\n"
        assert (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id)) == before
    with owner.cursor() as cur:
        check_invariants(cur)


@contextmanager
def held_up(owner: Connection, query: str, run_id: RunId) -> Iterator[None]:
    """Hold a row's lock, so that who wants it stands still within PostgreSQL."""
    with owner.cursor() as cur:
        cur.execute(query, (ACME, str(run_id)))
        yield
    owner.commit()


def stands_still(owner_url: str, what: str) -> bool:
    with psycopg2.connect(owner_url) as other, other.cursor() as cur:
        cur.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE %s",
            (f"%{what}%",),
        )
        return cur.fetchall() != [(0,)]


RUN = "SELECT 1 FROM orch.runs WHERE tenant = %s AND run_id = %s FOR UPDATE"
STEP = "SELECT 1 FROM orch.steps WHERE tenant = %s AND run_id = %s FOR UPDATE"


def test_a_frozen_workers_command_ends_before_the_next_attempt_begins(fleet: Fleet, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = (
        f'if [ "$ORCH_ATTEMPT" = 1 ]; then while :; do date +%s.%N >{mark}; sleep 0.02; done; fi;'
        f"cp {mark} {mark}.then; sleep 0.5; cmp {mark} {mark}.then"
    )
    run_id = fleet.start(fleet.publish(dag("writes", [step("s0", "command", argv=["sh", "-c", script])])))
    frozen = fleet.worker()
    eventually(mark.exists)
    fleet.worker()
    fleet.sweeper()
    frozen.send(signal.SIGSTOP)
    try:
        fleet.completed(run_id)
    finally:
        frozen.send(signal.SIGCONT)
    lost, won = fleet.attempts(run_id)
    assert (lost.status, won.status) == (AttemptStatus.LOST, AttemptStatus.SUCCEEDED)


def test_a_worker_frozen_while_it_claims_does_not_begin(
    fleet: Fleet, owner: Connection, owner_url: str, tmp_path: Path
) -> None:
    zombie = fleet.worker(**LEASE)
    effects = tmp_path / "effects"
    spec = hanging(fleet, effects)
    run_id = fleet.start(spec, ring=False)
    with held_up(owner, RUN, run_id):
        fleet.dispatcher.steps_ready(ACME, ["default"])
        eventually(lambda: stands_still(owner_url, "orch.settle"))
        os.kill(zombie.popen.pid, signal.SIGSTOP)
    # PostgreSQL grants the claim, and nobody hears of it.
    fleet.until_running(run_id)
    fleet.sweeper()
    fleet.worker(**LEASE)
    fleet.completed(run_id)
    assert lost_and_won(fleet, run_id)

    os.kill(zombie.popen.pid, signal.SIGCONT)

    eventually(lambda: thrown_away(fleet) == 1)
    # The claim was so old when the worker heard of it that it never began.
    assert effects.read_text() == "2\n"
    with owner.cursor() as cur:
        check_invariants(cur)


def test_a_worker_frozen_while_it_completes_has_completed(
    fleet: Fleet, owner: Connection, owner_url: str
) -> None:
    zombie = fleet.worker(ORCH_LEASE_MS="1000")
    run_id = fleet.start(fleet.publish(sleeper(300)))
    fleet.until_running(run_id)
    with held_up(owner, RUN, run_id):
        eventually(lambda: stands_still(owner_url, "orch.settle"))
        os.kill(zombie.popen.pid, signal.SIGSTOP)
    fleet.completed(run_id)
    fleet.sweeper()
    before = (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id))

    os.kill(zombie.popen.pid, signal.SIGCONT)

    after = fleet.start(fleet.publish(sleeper(10, name="after")))
    fleet.completed(after)
    assert (fleet.steps(run_id), fleet.attempts(run_id), fleet.run(run_id)) == before
    assert len(before[1]) == 1
    with owner.cursor() as cur:
        check_invariants(cur)


def test_a_completion_that_comes_after_its_step_was_taken_away_is_refused(
    fleet: Fleet, owner: Connection, owner_url: str
) -> None:
    """It waits for the run's lock, behind the rescue: so it gets to the step when another has it."""
    zombie = fleet.worker(ORCH_LEASE_MS="1000", ORCH_HEARTBEAT_MS="200")
    run_id = fleet.start(fleet.publish(sleeper(300)))
    fleet.until_running(run_id)
    with held_up(owner, RUN, run_id):
        eventually(lambda: stands_still(owner_url, "orch.settle"))
        with owner.cursor() as cur:
            # What the sweeper does, by whoever has the lock.
            cur.execute("UPDATE orch.steps SET lease_until = clock_timestamp() - INTERVAL '1 s'")
            cur.execute("SELECT * FROM orch.rescue(10, 5)")
    assert fleet.attempts(run_id)[0].status is AttemptStatus.LOST
    assert fleet.steps(run_id)[0].status is StepStatus.QUEUED
    eventually(lambda: thrown_away(fleet) == 1)
    fleet.sweeper()

    fleet.completed(run_id)

    assert zombie.alive
    assert lost_and_won(fleet, run_id)
    with owner.cursor() as cur:
        check_invariants(cur)


def test_a_worker_frozen_while_it_renews_loses_its_step(
    fleet: Fleet, owner: Connection, owner_url: str, tmp_path: Path
) -> None:
    zombie = fleet.worker(**LEASE)
    effects = tmp_path / "effects"
    run_id = fleet.start(hanging(fleet, effects))
    eventually(effects.exists)
    tree = {pid: start_ticks(pid) for pid in descendants(zombie.popen.pid)}
    with held_up(owner, STEP, run_id):
        eventually(lambda: stands_still(owner_url, "SET lease_until"))
        os.kill(zombie.popen.pid, signal.SIGSTOP)
    # The renewal is granted, and runs out.
    fleet.sweeper()
    fleet.worker(**LEASE)
    fleet.completed(run_id)

    os.kill(zombie.popen.pid, signal.SIGCONT)

    eventually(lambda: not alive(tree), within=CHILDREN_GONE_WITHIN_S)
    eventually(lambda: thrown_away(fleet) == 1)
    assert lost_and_won(fleet, run_id)
    with owner.cursor() as cur:
        check_invariants(cur)


def test_a_worker_cut_off_from_postgresql_ends_its_command_before_another_can_begin(
    fleet: Fleet, servers: Servers, database: str, owner: Connection, tmp_path: Path
) -> None:
    """Its bytes vanish and nobody tells it: only its own clock can."""
    beats = tmp_path / "beats"
    beat = f"while :; do date +%s%N >>{beats}.$ORCH_ATTEMPT; sleep 0.02; done"
    spec = fleet.publish(dag("beats", [step("s0", "command", argv=["sh", "-c", beat])]))
    fleet.sweeper()
    for _ in range(ZOMBIES):
        for old in tmp_path.glob("beats.*"):
            old.unlink()
        with proxied(servers.sockets / ".s.PGSQL.5432") as proxy:
            address = f"postgresql://orch@127.0.0.1:{proxy.port}/{database}"
            cut_off = fleet.worker(ORCH_DATABASE_URL=address, **LEASE)
            run_id = fleet.start(spec)
            eventually((tmp_path / "beats.1").exists)
            tree = {pid: start_ticks(pid) for pid in descendants(cut_off.popen.pid)}
            proxy.set(Mode.BLACKHOLE)
            # The last renewal may have been granted just before.
            eventually(lambda tree=tree: not alive(tree), within=LEASE_S)  # type: ignore[misc]
            successor = fleet.worker(**LEASE)
            eventually(lambda: (tmp_path / "beats.2").exists() and (tmp_path / "beats.2").read_text())
            last = int((tmp_path / "beats.1").read_text().split()[-1])
            lost = fleet.attempts(run_id)[0]
            assert lost.status is AttemptStatus.LOST
            assert lost.ended_utc is not None
            assert last < lost.ended_utc.timestamp() * 1e9
            assert last < int((tmp_path / "beats.2").read_text().split()[0])
            runs.cancel(fleet.db, ACME, run_id, reason=None)
            for worker in (cut_off, successor):
                worker.popen.kill()
                worker.popen.wait()
