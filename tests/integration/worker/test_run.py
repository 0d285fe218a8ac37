"""A worker takes doorbells and brings runs to their end."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import psycopg2
import pytest

from shared.domain.models import JsonObject, StepId, StepSpec
from shared.domain.states import AttemptStatus, ErrorCode, RunStatus, StepStatus
from shared.messaging import doorbell
from shared.messaging.celery_app import queue_name
from shared.services import dispatch, health, runs, steps
from shared.services.recovery import Doorbell
from tests.integration.worker.fleet import ACME, Fleet, chain, dag, sleeper, step, wide
from tests.support.eventually import eventually
from tests.support.ledger import transactions


def test_a_chain_runs_to_its_end(fleet: Fleet) -> None:
    fleet.worker()
    run_id = fleet.start(fleet.publish(chain(30)))

    fleet.completed(run_id)

    assert [s.status for s in fleet.steps(run_id)] == [StepStatus.SUCCEEDED] * 30
    assert [s.attempt for s in fleet.steps(run_id)] == [1] * 30


def test_a_join_waits_for_all(fleet: Fleet) -> None:
    fleet.worker()
    layers = [[step(f"l{layer}n{n}") for n in range(5)] for layer in range(4)]
    edges = [(layer * 5 + a, (layer + 1) * 5 + b) for layer in range(3) for a in range(5) for b in range(5)]
    run_id = fleet.start(fleet.publish(dag("layers", [one for layer in layers for one in layer], edges)))

    fleet.completed(run_id)

    ended = [s.ended_utc for s in fleet.steps(run_id)]
    started = [s.started_utc for s in fleet.steps(run_id)]
    assert all(ended[a] <= started[b] for a, b in edges)  # type: ignore[operator]


def test_without_hand_off_each_step_comes_by_message(fleet: Fleet) -> None:
    fleet.worker(ORCH_HANDOFF_MS="0")

    fleet.completed(fleet.start(fleet.publish(chain(10))))


@pytest.mark.parametrize(("handoff_ms", "at_most"), [("100", 8), ("0", 17)])
def test_steps_without_effects_are_settled_with_the_one_before_them(
    fleet: Fleet, owner_url: str, handoff_ms: str, at_most: int
) -> None:
    """A start, a claim, and an end with all that is behind it; else two transactions for each step."""
    fleet.worker(ORCH_HANDOFF_MS=handoff_ms)
    counting = [
        step("s1", n=1),
        *(step(f"s{n}", n=f"${{{{ steps.s{n - 1}.outputs.n + 1 }}}}") for n in range(2, 8)),
    ]
    edges = [(n, n + 1) for n in range(7)]
    run_id = fleet.start(fleet.publish(dag("counting", [step("s0", "sleep", ms=1), *counting], edges)))

    run = fleet.completed(run_id)

    assert steps.get(fleet.db, ACME, run_id, StepId("s7"))[0].outputs == {"n": 7}
    assert [s.attempt for s in fleet.steps(run_id)] == [1] * 8
    # 3, unless what was run ahead took longer than it may.
    assert transactions(owner_url, run) <= at_most
    assert handoff_ms != "0" or transactions(owner_url, run) == at_most


def test_a_worker_leaves_the_steps_of_other_pools_alone(fleet: Fleet) -> None:
    fleet.worker(ORCH_WORKER_POOLS="default")
    spec = fleet.publish(dag("two", [step("s0"), replace(step("s1"), pool="other")], [(0, 1)]))
    run_id = fleet.start(spec)

    eventually(lambda: fleet.steps(run_id)[1].status is StepStatus.QUEUED)
    eventually(lambda: doorbell.waiting(fleet.app, "other") == 1)

    fleet.worker(ORCH_WORKER_POOLS="other")
    fleet.completed(run_id)


def waits_for_a_lock(owner_url: str) -> bool:
    """Tell whether a session waits for a row that another has."""
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity AS a"
            " WHERE a.wait_event_type = 'Lock' AND a.datname = current_database())"
        )
        ((waits,),) = cur.fetchall()
    connection.close()
    return bool(waits)


def test_a_when_is_decided_also_if_a_message_leads_what_settles_its_predecessor(
    fleet: Fleet, owner_url: str
) -> None:
    """Two messages and an ending wait for the run's row: the thread of the second settles the ending, too."""
    fleet.worker()
    made_of = [step("a", "sleep", ms=400), step("b"), step("c"), replace(step("d"), when="true")]
    run_id = fleet.start(fleet.publish(dag("decided", made_of, [(0, 3)])), ring=False)
    doorbell.send(fleet.app, [Doorbell(ACME, run_id, 0, "default")])
    fleet.until_running(run_id)
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("SELECT 1 FROM orch.runs WHERE run_id = %s FOR UPDATE", [str(run_id)])
        doorbell.send(fleet.app, [Doorbell(ACME, run_id, 1, "default")])
        eventually(lambda: waits_for_a_lock(owner_url))
        doorbell.send(fleet.app, [Doorbell(ACME, run_id, 2, "default")])
        eventually(lambda: doorbell.waiting(fleet.app, "default") == 0)
        # Until the sleeping step is over and in line, too, which nobody sees from outside.
        time.sleep(0.6)
    connection.close()
    # Nobody sweeps here.
    fleet.completed(run_id)
    assert fleet.steps(run_id)[3].status is StepStatus.SUCCEEDED


def test_when_decides_in_a_worker(fleet: Fleet) -> None:
    fleet.worker()
    made_of = [
        step("s0"),
        replace(step("s1"), when="steps.s0.status == 'succeeded'"),
        replace(step("s2"), when="steps.s0.status == 'failed'"),
        replace(step("s3"), when="steps.s2.status == 'skipped'"),
    ]
    run_id = fleet.start(fleet.publish(dag("when", made_of, [(0, 1), (0, 2), (1, 3), (2, 3)])))

    fleet.completed(run_id)

    assert [s.status for s in fleet.steps(run_id)] == [
        StepStatus.SUCCEEDED,
        StepStatus.SUCCEEDED,
        StepStatus.SKIPPED,
        StepStatus.SUCCEEDED,
    ]


def test_when_of_a_root_is_decided(fleet: Fleet) -> None:
    fleet.worker()
    made_of = [replace(step("s0"), when="inputs.go"), replace(step("s1"), when="!inputs.go")]
    run_id = fleet.start(fleet.publish(dag("roots", made_of)), inputs={"go": True})

    fleet.completed(run_id)

    assert [s.status for s in fleet.steps(run_id)] == [StepStatus.SUCCEEDED, StepStatus.SKIPPED]


def test_a_when_that_cannot_be_evaluated_fails_its_step(fleet: Fleet) -> None:
    fleet.worker()
    made_of = [step("s0"), replace(step("s1"), when="steps.s0.outputs.missing == 1")]
    run_id = fleet.start(fleet.publish(dag("broken", made_of, [(0, 1)])))

    assert fleet.ended(run_id).status is RunStatus.FAILED
    assert fleet.steps(run_id)[1].error_code is ErrorCode.EXPRESSION_ERROR


def test_a_doorbell_rung_three_times_runs_its_step_once(fleet: Fleet) -> None:
    run_id = fleet.start(fleet.publish(wide(20)), ring=False)
    bells = dispatch.pick(fleet.service_db, "default", ACME)
    for _ in range(3):
        doorbell.send(fleet.app, list(reversed(bells)))

    fleet.worker()
    fleet.sweeper()

    fleet.completed(run_id)
    assert [s.attempt for s in fleet.steps(run_id)] == [1] * 20
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 0)


def test_as_many_steps_run_at_once_as_there_are_slots_and_the_rest_waits_in_redis(fleet: Fleet) -> None:
    fleet.worker(ORCH_WORKER_CONCURRENCY="3")
    run_id = fleet.start(fleet.publish(wide(6, "sleep", ms=60_000)))

    eventually(lambda: sum(s.status is StepStatus.RUNNING for s in fleet.steps(run_id)) == 3)
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 3)

    runs.cancel(fleet.db, ACME, run_id, reason=None)
    assert fleet.ended(run_id).status is RunStatus.CANCELLED


def test_a_freed_slot_takes_the_next_message_at_once(fleet: Fleet) -> None:
    fleet.worker(ORCH_WORKER_CONCURRENCY="2")
    spec = fleet.publish(wide(20, "sleep", ms=50))
    fleet.completed(fleet.start(spec))
    run = fleet.completed(fleet.start(spec))

    assert run.ended_utc is not None
    # Ten rounds of 50 ms. Celery's own pool would look up once a second at best.
    assert (run.ended_utc - run.started_utc).total_seconds() < 3


def test_a_cancelled_run_stops_its_running_step(fleet: Fleet) -> None:
    fleet.worker()
    run_id = fleet.start(fleet.publish(sleeper(60_000)))
    fleet.until_running(run_id)

    runs.cancel(fleet.db, ACME, run_id, reason="no need")

    run = fleet.ended(run_id, within=4)
    assert run.status is RunStatus.CANCELLED
    assert fleet.attempts(run_id)[0].status is AttemptStatus.CANCELLED


def test_a_step_over_its_time_limit_is_stopped(fleet: Fleet) -> None:
    fleet.worker()
    spec = StepSpec(id=StepId("s0"), uses="sleep", params={"ms": 60_000}, timeout_ms=200)
    run_id = fleet.start(fleet.publish(dag("late", [spec])))

    assert fleet.ended(run_id, within=5).status is RunStatus.FAILED
    assert fleet.steps(run_id)[0].error_code is ErrorCode.TIMEOUT


def test_a_worker_is_in_the_fleet_while_it_lives(fleet: Fleet) -> None:
    worker = fleet.worker()
    eventually(lambda: health.live_workers(fleet.service_db) == 1)

    worker.popen.terminate()
    assert worker.wait(within=10) == 0

    assert health.live_workers(fleet.service_db) == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"v": 0, "tenant": "acme", "run_id": "{run}", "step_no": 0},
        {"v": 2, "tenant": "rival", "run_id": "{run}", "step_no": 0, "since": "the next release"},
        {"v": 2, "run_id": "{run}", "step_no": 0},
        {"v": True, "tenant": "acme", "run_id": "{run}", "step_no": 0},
        {"v": 1, "tenant": "acme", "run_id": "{run}"},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": True},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": "0"},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": -1},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": 10**30},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": 0, "argv": ["id"]},
        {"v": 1, "tenant": "acme", "run_id": "no uuid", "step_no": 0},
        {"v": 1, "tenant": "acme", "run_id": 7, "step_no": 0},
        {"v": 1, "tenant": "A" * 64, "run_id": "{run}", "step_no": 0},
        {"v": 1, "tenant": "acme\n", "run_id": "{run}", "step_no": 0},
        {"v": 1, "tenant": ["acme"], "run_id": "{run}", "step_no": 0},
        {"v": 1, "tenant": "rival", "run_id": "{run}", "step_no": 0},
        {"v": 1, "tenant": "acme", "run_id": "{run}", "step_no": 99},
    ],
    ids=str,
)
def test_a_forged_doorbell_runs_nothing(fleet: Fleet, kwargs: dict[str, object]) -> None:
    spec = fleet.publish(chain(1))
    untouched = fleet.start(spec, ring=False)
    forged = {name: str(untouched) if value == "{run}" else value for name, value in kwargs.items()}
    for task in ("orchestrator.execute_step", "orchestrator.decide_run"):
        fleet.app.send_task(task, kwargs=forged, queue=queue_name("default"))
    fleet.worker()
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 0)

    other = fleet.start(spec, ring=False)
    fleet.app.send_task(
        "orchestrator.execute_step",
        kwargs={"v": 1, "tenant": "acme", "run_id": str(other), "step_no": 0},
        queue=queue_name("default"),
    )

    fleet.completed(other)
    assert fleet.steps(untouched)[0].attempt == 0


@pytest.mark.parametrize("task", ["execute_step", "decide_run"])
def test_messages_of_two_versions_are_served_side_by_side(fleet: Fleet, task: str) -> None:
    worker = fleet.worker()
    # Neither the next release's field nor its version says anything to us.
    versions: list[JsonObject] = [{"v": 1}, {"v": 2, "since": "the next release", "priority": {"of": [1]}}]
    when = "1 == 1" if task == "decide_run" else None
    spec = fleet.publish(dag("one", [replace(step("s0"), when=when)]))
    queue, more = ("decisions", {}) if task == "decide_run" else (queue_name("default"), {"step_no": 0})
    runs = [fleet.start(spec, ring=False) for _ in range(20)]
    for number, run_id in enumerate(runs):
        body = {**versions[number % 2], "tenant": "acme", "run_id": str(run_id), **more}
        fleet.app.send_task(f"orchestrator.{task}", kwargs=body, queue=queue)
    for run_id in runs:
        fleet.completed(run_id)
    assert not worker.events("message_refused")


def test_a_message_that_only_a_later_release_reads_is_refused_and_its_step_is_served(fleet: Fleet) -> None:
    worker = fleet.worker()
    run_id = fleet.start(fleet.publish(chain(1)), ring=False)
    body = {"v": 2, "tenant": "acme", "run": str(run_id), "step_no": 0}
    fleet.app.send_task("orchestrator.execute_step", kwargs=body, queue=queue_name("default"))
    fleet.app.send_task("orchestrator.execute_steps", kwargs=body, queue=queue_name("default"))
    eventually(lambda: worker.events("message_refused"))
    assert fleet.steps(run_id)[0].attempt == 0
    fleet.sweeper()
    fleet.completed(run_id)


def _message(**changes: object) -> bytes:
    message: dict[str, object] = {
        "body": "W1tdLCB7fSwge31d",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "orchestrator.execute_step", "id": "1"},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "steps.default"},
            "delivery_tag": "t",
            "body_encoding": "base64",
        },
    }
    return json.dumps({**message, **changes}).encode()


GARBAGE = [
    b"",
    b"\xff\xfe",
    b"no json",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"properties": {}}',
    _message(headers=None),
    _message(headers={}),
    _message(headers=[]),
    _message(headers={"task": "orchestrator.execute_step"}),
    _message(headers={"task": "os.system", "id": "1"}),
    _message(headers={"task": ["a"], "id": "1"}),
    _message(headers={"task": "orchestrator.execute_step", "id": "1", "eta": "2999-01-01T00:00:00"}),
    _message(headers={"task": "orchestrator.execute_step", "id": "1", "eta": "soon"}),
    _message(headers={"task": "orchestrator.execute_step", "id": "1", "timelimit": "x"}),
    _message(body="%%%"),
    _message(body="WzEsMl0="),
    _message(body="bnVsbA=="),
    _message(**{"content-type": "application/x-python-serialize"}),
    _message(**{"content-encoding": "no such code"}),
    _message(properties=None),
    _message(properties={"delivery_tag": "t"}),
    _message(properties={"delivery_info": 1, "delivery_tag": "t", "body_encoding": "rot13"}),
]


def test_bytes_that_are_no_message_do_not_end_the_worker(fleet: Fleet) -> None:
    worker = fleet.worker(ORCH_WORKER_CONCURRENCY="2")
    spec = fleet.publish(chain(2))
    fleet.completed(fleet.start(spec))

    with fleet.redis() as client:
        for raw in GARBAGE:
            client.lpush("orchestrator:steps.default", raw)
            client.lpush("orchestrator:decisions", raw)
    eventually(lambda: doorbell.waiting(fleet.app, "default") == 0, within=30)

    # More of them than there are slots: none may have kept one.
    fleet.completed(fleet.start(spec), within=30)
    assert worker.alive
