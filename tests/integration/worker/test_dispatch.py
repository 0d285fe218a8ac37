"""Doorbells are sent fast, by a thread of their own, and every failure to send them is counted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest

from shared.config import Need, load_settings
from shared.domain.models import RunId, TenantId
from shared.errors import QueueUnavailable
from shared.messaging import doorbell
from shared.messaging.celery_app import make_celery
from shared.messaging.dispatcher import MAX_HINTS, Dispatcher
from shared.messaging.doorbell import MAX_DECISIONS
from shared.services.recovery import Doorbell
from shared.store.db import Database
from tests.integration.worker.fleet import ACME, Fleet, wide
from tests.support.eventually import eventually
from tests.support.servers import own_redis

RUN = RunId(UUID(int=7))


def bells(count: int) -> list[Doorbell]:
    return [Doorbell(ACME, RUN, step_no, "default") for step_no in range(count)]


def test_all_doorbells_arrive_in_order(fleet: Fleet) -> None:
    doorbell.send(fleet.app, bells(50))

    assert doorbell.waiting(fleet.app, "default") == 50
    with fleet.app.connection() as connection:
        queue = connection.SimpleQueue("steps.default")
        first = queue.get(block=False)
    assert first.headers["task"] == "orchestrator.execute_step"
    assert first.payload[1] == {"v": 1, "tenant": "acme", "run_id": str(RUN), "step_no": 0}


def test_no_doorbells_are_no_message(fleet: Fleet) -> None:
    doorbell.send(fleet.app, [])

    assert doorbell.waiting(fleet.app, "default") == 0


def test_a_flood_of_decisions_waits_in_postgresql_and_not_in_redis(fleet: Fleet) -> None:
    runs = [(ACME, RunId(UUID(int=number))) for number in range(MAX_DECISIONS - 100)]
    for _ in range(2):
        doorbell.send_decide(fleet.app, runs)

    with fleet.redis() as client:
        assert client.llen("orchestrator:decisions") == MAX_DECISIONS


def test_redis_keeps_no_copy_of_messages_and_no_results(fleet: Fleet) -> None:
    fleet.worker()
    fleet.completed(fleet.start(fleet.publish(wide(5))))

    with fleet.redis() as client:
        kept = [key for key in client.keys("*") if b"_kombu.binding" not in key]
    assert kept == []


def test_sending_without_redis_fails_at_once(tmp_path: Path) -> None:
    environ = {"ORCH_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}
    app = make_celery(load_settings(environ, need=Need.REDIS))

    for act in (
        lambda: doorbell.send(app, bells(1)),
        lambda: doorbell.send_decide(app, [(ACME, RUN)]),
        lambda: doorbell.waiting(app, "default"),
    ):
        since = time.monotonic()
        with pytest.raises(QueueUnavailable):
            act()
        assert time.monotonic() - since < 1


def test_sending_to_a_frozen_redis_is_given_up_soon(tmp_path: Path) -> None:
    with own_redis(tmp_path) as (redis_url, process):
        app = make_celery(load_settings({"ORCH_REDIS_URL": redis_url}, need=Need.REDIS))
        doorbell.send(app, bells(1))
        process.send_signal(signal.SIGSTOP)
        since = time.monotonic()
        with pytest.raises(QueueUnavailable):
            doorbell.send(app, bells(1))
        assert time.monotonic() - since < 5
        process.send_signal(signal.SIGCONT)
        doorbell.send(app, bells(1))
        app.close()


def test_sending_goes_on_after_redis_was_restarted(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with own_redis(tmp_path) as (redis_url, process):
        app = make_celery(load_settings({"ORCH_REDIS_URL": redis_url}, need=Need.REDIS))
        doorbell.send(app, bells(1))
        process.kill()
        process.wait()
        with own_redis(tmp_path):
            doorbell.send(app, bells(2))
            assert doorbell.waiting(app, "default") == 2
        app.close()


def test_hints_return_at_once_whatever_redis_does(tmp_path: Path, service_db: Database) -> None:
    environ = {"ORCH_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}
    dispatcher = Dispatcher(service_db, make_celery(load_settings(environ, need=Need.REDIS)))

    since = time.monotonic()
    for _ in range(1000):
        dispatcher.steps_ready(ACME, {"default"})
    dispatcher.undecided(ACME, RUN)
    assert time.monotonic() - since < 1

    eventually(lambda: dispatcher.failed.count)
    dispatcher.close()


def test_more_hints_than_fit_are_counted_and_dropped(service_db: Database, tmp_path: Path) -> None:
    environ = {"ORCH_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}
    dispatcher = Dispatcher(service_db, make_celery(load_settings(environ, need=Need.REDIS)))
    with dispatcher._changed:
        # The thread cannot take them out while the lock is held.
        for number in range(MAX_HINTS + 5):
            dispatcher.undecided(ACME, RunId(UUID(int=number)))

    assert dispatcher.dropped.count == 5
    dispatcher.close()


def test_closing_serves_what_was_hinted_before(fleet: Fleet) -> None:
    dispatcher = Dispatcher(fleet.db, fleet.app)
    run_id = fleet.start(fleet.publish(wide(5)), ring=False)

    dispatcher.steps_ready(ACME, {"default"})
    dispatcher.undecided(ACME, run_id)
    dispatcher.close()

    assert doorbell.waiting(fleet.app, "default") == 5
    dispatcher.steps_ready(ACME, {"default"})
    assert dispatcher.dropped.count == 1


def test_steps_that_others_are_likely_to_take_are_dispatched_later(fleet: Fleet) -> None:
    dispatcher = Dispatcher(fleet.db, fleet.app)
    fleet.start(fleet.publish(wide(2)), ring=False)
    begun = time.monotonic()
    dispatcher.steps_ready(ACME, {"default"}, within=0.3)
    # What has to be done at once does not take it along.
    dispatcher.events_written(ACME)
    dispatcher.slot_freed("big", ACME, used_ms=1, messages=1)
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 2)
    assert time.monotonic() - begun >= 0.3
    dispatcher.close()


def test_steps_are_left_for_longer_to_those_who_are_at_them(fleet: Fleet) -> None:
    dispatcher = Dispatcher(fleet.db, fleet.app)
    fleet.start(fleet.publish(wide(2)), ring=False)
    begun = time.monotonic()
    dispatcher.steps_ready(ACME, {"default"}, within=0.2)
    dispatcher.leave(TenantId("globex"), for_seconds=60)
    dispatcher.leave(ACME, for_seconds=0.5)
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 2)
    assert 0.5 <= time.monotonic() - begun < 10
    # Whoever asks for them at once gets them, whatever was said before.
    fleet.start(fleet.publish(wide(3, name="again")), ring=False)
    dispatcher.steps_ready(ACME, {"default"}, within=60)
    dispatcher.leave(ACME, for_seconds=60)
    dispatcher.steps_ready(ACME, {"default"})
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 5, within=10)
    dispatcher.close()


@pytest.mark.parametrize(("slots", "messages", "soon"), [(4, 4, True), (4, 3, False), (4, 0, False)])
def test_what_half_of_the_messages_have_left_is_filled_at_once(
    fleet: Fleet, owner_url: str, monkeypatch: pytest.MonkeyPatch, slots: int, messages: int, soon: bool
) -> None:
    # Longer than the test waits, where nobody has to.
    wait = 60.0 if soon else 0.4
    monkeypatch.setattr("shared.messaging.dispatcher.REFILL_SECONDS", wait)
    monkeypatch.setattr("shared.messaging.dispatcher.CHARGE_SECONDS", wait)

    def charged() -> list[tuple[object, ...]]:
        with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
            cur.execute("SELECT q.virtual_time, q.cost_ms FROM orch.tenant_queues AS q")
            rows = cur.fetchall()
        connection.close()
        return rows

    fleet.start(fleet.publish(wide(2)))
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 2)
    before = charged()
    assert before
    dispatcher = Dispatcher(fleet.db, fleet.app, slots=slots)
    begun = time.monotonic()
    for _ in range(messages):
        dispatcher.slot_freed("default", ACME, used_ms=1_000, messages=1)
    dispatcher.slot_freed("default", ACME, used_ms=1_000, messages=0)
    eventually(lambda: charged() != before)
    assert soon or time.monotonic() - begun >= wait
    dispatcher.close()


def test_a_forked_child_has_a_thread_of_its_own(fleet: Fleet) -> None:
    fleet.start(fleet.publish(wide(3)))
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 3)
    spec = fleet.publish(wide(4, name="again"))

    child = os.fork()
    if child == 0:
        try:
            fleet.start(spec)
            fleet.dispatcher.close(within_seconds=10)
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert doorbell.waiting(fleet.app, "default") == 7
    fleet.start(spec)
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 11)
