"""What goes wrong in a process is told where all can see it, and poison stops nobody."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from shared.domain.states import StepStatus
from shared.messaging import doorbell
from shared.messaging.complaint import TALLY, Complaint, Noted
from shared.services import health, incidents
from shared.store.db import Database
from tests.integration.worker.fleet import ACME, Fleet, chain, dag, flaky, sleeper, step
from tests.support.eventually import eventually

POISON = """
    CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'broken';
    END;
    $$;
    CREATE TRIGGER break_it BEFORE UPDATE ON orch.steps
    FOR EACH ROW
    WHEN (old.run_id = '{run}' AND old.status IN ('retrying', 'running') AND new.status = 'queued')
    EXECUTE FUNCTION break_it();
"""


def count(db: Database, component: str, kind: str) -> int:
    return sum(one.count for one in incidents.list_all(db) if (one.component, one.kind) == (component, kind))


def test_complaints_become_counts_once(service_db: Database) -> None:
    TALLY.take()
    complaint = Complaint("tea_is_cold")
    for _ in range(3):
        complaint.note(ValueError("a secret of acme"))
    incidents.report(service_db, "worker", TALLY)
    incidents.report(service_db, "worker", TALLY)
    complaint.note()
    incidents.report(service_db, "worker", TALLY)

    (told,) = incidents.list_all(service_db)

    assert (told.component, told.kind, told.count, told.detail) == ("worker", "tea_is_cold", 4, "ValueError")
    assert told.first_utc < told.last_utc


def test_what_cannot_be_reported_is_kept() -> None:
    TALLY.take()
    Complaint("tea_is_cold").note()
    nowhere = Database(
        "postgresql:///none?host=/nonexistent", role="orch_service", size=1, application_name="t"
    )

    with pytest.raises(Exception, match="out of reach"):
        incidents.report(nowhere, "worker", TALLY)

    assert TALLY.take() == {"tea_is_cold": Noted(1, None)}


def test_the_late_result_of_a_frozen_worker_is_counted(fleet: Fleet) -> None:
    frozen = fleet.worker(ORCH_HEARTBEAT_MS="200")
    run_id = fleet.start(fleet.publish(sleeper(1_000)))
    fleet.until_running(run_id)
    frozen.send(signal.SIGSTOP)
    fleet.sweeper()
    fleet.worker()
    fleet.completed(run_id)

    frozen.send(signal.SIGCONT)

    eventually(lambda: count(fleet.service_db, "worker", "result_thrown_away") == 1, within=5)


def test_a_message_that_is_refused_is_counted(fleet: Fleet) -> None:
    fleet.worker(ORCH_HEARTBEAT_MS="200")
    with fleet.redis() as client:
        client.lpush("orchestrator:steps.default", b"no message")

    eventually(lambda: count(fleet.service_db, "worker", "message_refused") == 1, within=5)


@pytest.mark.parametrize(
    "message",
    [
        b'{"body": "%s", "headers": {}, "properties": {}}',
        b'{"body": "W1tdLCB7fSwge31d", "headers": {"task": "%s", "id": "1"},'
        b' "content-type": "application/json", "content-encoding": "utf-8",'
        b' "properties": {"delivery_info": {}, "delivery_tag": "t", "body_encoding": "base64"}}',
        b"%s",
    ],
    ids=["body", "task", "bytes"],
)
def test_a_message_of_any_size_is_refused_and_nothing_of_it_is_logged(fleet: Fleet, message: bytes) -> None:
    worker = fleet.worker(ORCH_HEARTBEAT_MS="200")
    with fleet.redis() as client:
        client.lpush("orchestrator:steps.default", message.replace(b"%s", b"x" * 20_000_000))
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 0)

    fleet.completed(fleet.start(fleet.publish(chain(2))), within=30)

    assert worker.alive
    assert worker.log.stat().st_size < 100_000


def test_a_poisoned_run_holds_up_no_other_and_is_told_of(fleet: Fleet, owner_url: str) -> None:
    worker = fleet.worker()
    poisoned = fleet.start(fleet.publish(sleeper(60_000, name="poisoned")))
    fleet.until_running(poisoned)
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(POISON.format(run=poisoned))
    innocent = fleet.start(fleet.publish(sleeper(1_500)))
    fleet.until_running(innocent)
    worker.popen.kill()
    sweeper = fleet.sweeper(ORCH_HEARTBEAT_MS="200")
    fleet.worker()

    fleet.completed(innocent)

    (row,) = health.set_aside(fleet.db, ACME)
    assert (row.verb, row.run_id, row.step_no) == ("rescue", poisoned, 0)
    eventually(lambda: count(fleet.service_db, "sweeper", "row_set_aside") == 1)
    assert sweeper.events("row_set_aside")
    assert not sweeper.events("sweep_failed")


def test_a_sweeper_tells_that_it_lives_and_that_it_ends(fleet: Fleet) -> None:
    assert health.live_sweepers(fleet.db, ACME).live == 0
    sweeper = fleet.sweeper(ORCH_HEARTBEAT_MS="200")
    eventually(lambda: health.live_sweepers(fleet.db, ACME).live == 1)

    sweeper.popen.kill()
    eventually(lambda: health.live_sweepers(fleet.db, ACME).live == 0, within=5)
    assert health.live_sweepers(fleet.db, ACME).last_seen_utc is not None

    second = fleet.sweeper(ORCH_HEARTBEAT_MS="60000")
    eventually(lambda: health.live_sweepers(fleet.db, ACME).live == 1)
    second.send(signal.SIGTERM)
    second.wait(within=5)
    assert health.live_sweepers(fleet.db, ACME).live == 0


def test_a_killed_worker_soon_counts_as_gone(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_HEARTBEAT_MS="200")
    eventually(lambda: health.live_workers(fleet.service_db) == 1)

    worker.popen.kill()

    eventually(lambda: health.live_workers(fleet.service_db) == 0, within=3)


@pytest.mark.parametrize("queue", ["steps.default", "decisions"])
@pytest.mark.parametrize("kind", ["string", "hash"])
def test_a_key_that_is_no_queue_is_removed_and_everything_goes_on(
    fleet: Fleet, queue: str, kind: str
) -> None:
    worker = fleet.worker()
    made_of = [step("s0"), replace(step("s1"), when="true")]
    spec = fleet.publish(dag("asking", made_of, [(0, 1)]))
    fleet.completed(fleet.start(spec))
    with fleet.redis() as client:
        # A worker that waits for its queue sees nothing of it; it meets the key when it asks again.
        client.delete(f"orchestrator:{queue}")
        if kind == "string":
            client.set(f"orchestrator:{queue}", "x")
        else:
            client.hset(f"orchestrator:{queue}", "x", "y")
    run_id = fleet.start(spec)
    sweeper = fleet.sweeper(ORCH_HEARTBEAT_MS="200")

    fleet.completed(run_id, within=20)

    assert worker.alive
    assert sweeper.events("queue_key_removed")
    eventually(lambda: count(fleet.service_db, "sweeper", "queue_key_removed") == 1)


def test_steps_of_a_pool_that_is_no_longer_configured_wait_and_hold_up_nobody(fleet: Fleet) -> None:
    fleet.worker(ORCH_POOLS="default")
    sweeper = fleet.sweeper(ORCH_POOLS="default")
    old = fleet.start(fleet.publish(dag("old", [replace(step("s0"), pool="other")])), ring=False)
    for _ in range(3):
        fleet.completed(fleet.start(fleet.publish(chain(2)), ring=False))
    eventually(lambda: doorbell.waiting(fleet.app, "other") == 1)
    assert fleet.steps(old)[0].status is StepStatus.QUEUED
    assert not sweeper.events("sweep_failed")

    # The pool comes back.
    fleet.sweeper()
    fleet.worker(ORCH_WORKER_POOLS="other")
    fleet.completed(old)


def test_a_retry_is_not_held_up_by_one_whose_row_is_broken(
    fleet: Fleet, owner_url: str, tmp_path: Path
) -> None:
    fleet.worker()
    spec = fleet.publish(flaky(tmp_path / "poisoned", name="poisoned"))
    poisoned = fleet.start(spec)
    eventually(lambda: fleet.steps(poisoned)[0].status is StepStatus.RETRYING)
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(POISON.format(run=poisoned))
    fleet.sweeper()

    fleet.completed(fleet.start(fleet.publish(flaky(tmp_path / "innocent"))))

    assert fleet.steps(poisoned)[0].status is StepStatus.RETRYING
