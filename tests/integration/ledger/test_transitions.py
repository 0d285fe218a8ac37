"""Each verb on the real ledger: what it changes, and what its guard refuses."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shared.domain.models import (
    Change,
    Claim,
    JsonObject,
    Released,
    RunFilter,
    StepId,
    Stopped,
    TenantId,
    WorkerId,
)
from shared.domain.states import RunStatus
from shared.errors import (
    DagDisabled,
    DagNotFound,
    DagVersionConflict,
    InvalidInputs,
    RunAlreadyFinished,
    RunNotFound,
    RunTokenConflict,
)
from shared.services import dags, recovery, runs, steps, work
from shared.store.work import Held
from tests.support.graphs import graph
from tests.support.ledger import LONG_MS, TRACE, Ledger, failed, succeeded


def test_a_diamond_runs_in_order_and_completes(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b,c b,c>d"))
    assert ledger.statuses(run) == {"a": "queued", "b": "pending", "c": "pending", "d": "pending"}
    ledger.run_step(run, "a")
    ledger.run_step(run, "c")
    assert ledger.statuses(run)["d"] == "pending"
    ledger.run_step(run, "b")
    assert ledger.run_step(run, "d").run_ended
    assert ledger.run(run.run_id).status is RunStatus.COMPLETED
    assert ledger.event_types(run) == [
        "run.started", "a:queued", "a:running", "a:succeeded", "b:queued", "c:queued",
        "c:running", "c:succeeded", "b:running", "b:succeeded", "d:queued", "d:running", "d:succeeded",
        "run.completed",
    ]  # fmt: skip


def test_the_outputs_hash_of_a_run_tells_nothing_of_order_attempts_or_workers(ledger: Ledger) -> None:
    spec = graph("a>b,c", options={"b": {"retry": {"maxAttempts": 3}}})
    plain, shuffled = ledger.start(spec), ledger.start(spec)
    for step in "abc":
        ledger.run_step(plain, step, succeeded({"from": step}))
    other = replace(ledger, worker=WorkerId("worker-2"))
    other.run_step(shuffled, "a", succeeded({"from": "a"}))
    other.run_step(shuffled, "c", succeeded({"from": "c"}))
    other.run_step(shuffled, "b", failed(retry_delay_ms=0))
    other.wake()
    other.run_step(shuffled, "b", succeeded({"from": "b"}))
    first, second = ledger.run(plain.run_id), ledger.run(shuffled.run_id)
    assert first.outputs_hash == second.outputs_hash is not None
    assert first.ledger_head != second.ledger_head


def test_only_one_of_many_claims_gets_the_step(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="only"))
    barrier = threading.Barrier(8)

    def claim(number: int) -> Claim | None:
        barrier.wait()
        return replace(ledger, worker=WorkerId(f"worker-{number}")).claim(run, "only")

    with ThreadPoolExecutor(8) as pool:
        claims = [c for c in pool.map(claim, range(8)) if c]
    assert [c.attempt for c in claims] == [1]


def test_one_of_many_completions_counts(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    claim = ledger.claimed(run, "a")
    with ThreadPoolExecutor(8) as pool:
        changes = list(pool.map(lambda _: ledger.complete(claim, succeeded()), range(8)))
    assert [c.accepted for c in changes].count(True) == 1
    assert ledger.event_types(run).count("a:succeeded") == 1


def test_late_completion_of_a_rescued_attempt_changes_nothing(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    late = ledger.claimed(run, "a", lease_ms=0)
    ledger.rescue()
    current = ledger.claimed(run, "a")
    assert (late.attempt, current.attempt, current.tries) == (1, 2, 1)
    assert ledger.complete(late, succeeded()) == Change(accepted=False)
    assert ledger.statuses(run)["a"] == "running"
    assert ledger.complete(current, succeeded()).accepted
    attempts = steps.get(ledger.api, ledger.tenant, run.run_id, StepId("a"))[1]
    assert [str(a.status) for a in attempts] == ["lost", "succeeded"]


def test_a_step_that_loses_five_attempts_fails_as_lost(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b a>c", options={"c": {"runOn": "failure"}}))
    for _ in range(5):
        ledger.claimed(run, "a", lease_ms=0)
        ledger.rescue()
    assert ledger.statuses(run) == {
        "a": "failed:WORKER_LOST",
        "b": "skipped:UPSTREAM_FAILED",
        "c": "queued",
    }
    ledger.run_step(run, "c")
    assert ledger.run(run.run_id).status is RunStatus.FAILED


def test_a_renewed_lease_is_not_rescued_and_a_lost_one_is_not_renewed(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a b"))
    kept, gone = ledger.claimed(run, "a", lease_ms=0), ledger.claimed(run, "b", lease_ms=0)
    held = [Held(c.tenant, c.run_id, c.step_no, c.attempt) for c in (kept, gone)]
    assert work.renew(ledger.service, held[:1], lease_ms=LONG_MS)[0].valid
    ledger.rescue()
    assert [(r.held, r.valid) for r in work.renew(ledger.service, held, lease_ms=LONG_MS)] == [
        (held[0], True),
        (held[1], False),
    ]
    assert ledger.statuses(run) == {"a": "running", "b": "queued"}


def test_a_released_attempt_is_queued_at_once_and_uses_up_no_try(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a", options={"a": {"retry": {"maxAttempts": 1}}}))
    change = ledger.run_step(run, "a", Released())
    assert change.ready_pools == {"default"}
    claim = ledger.claimed(run, "a")
    assert (claim.attempt, claim.tries) == (2, 1)


def test_a_retry_waits_for_its_due_time_in_the_ledger(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a b"))
    ledger.run_step(run, "a", failed(retry_delay_ms=3_600_000))
    assert ledger.wake() == frozenset()
    assert ledger.claim(run, "a") is None
    due = recovery.next_due_ms(ledger.service)
    assert due is not None
    assert 3_500_000 < due <= 3_600_000
    ledger.run_step(run, "b", failed(retry_delay_ms=0))
    assert ledger.wake() == {recovery.Backlog(ledger.tenant, "default")}
    assert ledger.statuses(run) == {"a": "retrying:EXIT_STATUS", "b": "queued:EXIT_STATUS"}


def test_a_completion_hands_the_first_unlocked_step_over(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b,c b,c>d"))
    change = ledger.complete(ledger.claimed(run, "a"), succeeded(), handoff=frozenset({"default"}))
    assert change.next is not None
    assert (change.next.step_id, change.next.attempt, change.next.tries) == ("b", 1, 1)
    assert change.ready_pools == {"default"}
    assert ledger.statuses(run) == {"a": "succeeded", "b": "running", "c": "queued", "d": "pending"}


def test_nothing_is_handed_over_from_another_pool(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b", options={"b": {"pool": "big"}}))
    change = ledger.complete(ledger.claimed(run, "a"), succeeded(), handoff=frozenset({"default"}))
    assert change.next is None
    assert change.ready_pools == {"big"}


def test_a_completion_that_unlocks_nothing_hands_over_another_ready_step_of_the_run(ledger: Ledger) -> None:
    other = ledger.start(graph("", steps="x y", dag_id="other"))
    run = ledger.start(graph("", steps="a b c"))
    change = ledger.complete(ledger.claimed(run, "b"), succeeded(), handoff=frozenset({"default"}))
    assert change.next is not None
    assert (change.next.run_id, change.next.step_id) == (run.run_id, "a")
    assert ledger.statuses(run) == {"a": "running", "b": "succeeded", "c": "queued"}
    assert set(ledger.statuses(other).values()) == {"queued"}


def test_a_decision_hands_over_nothing_from_another_pool(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a", options={"a": {"pool": "big", "when": "true"}}))
    change = ledger.decide(run, unlock=["a"], handoff=frozenset({"default"}))
    assert change.next is None
    assert change.ready_pools == {"big"}
    assert ledger.statuses(run) == {"a": "queued"}


def test_a_step_that_was_sent_is_left_to_who_gets_the_message(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a b"))
    claim = ledger.claimed(run, "a")
    assert [bell.step_no for bell in ledger.pick()] == [1]
    assert ledger.complete(claim, succeeded(), handoff=frozenset({"default"})).next is None


def test_a_claim_carries_what_its_expressions_read(ledger: Ledger) -> None:
    run = ledger.start(
        graph(
            "a>b b>c",
            options={
                "c": {"with": {"x": "${{ steps.a.outputs.n }} ${{ inputs.name }}"}},
                "b": {"disabled": True},
            },
        ),
        inputs={"name": "ada"},
    )
    ledger.run_step(run, "a", succeeded({"n": 1.5}))
    claim = ledger.claimed(run, "c")
    assert claim.inputs == {"name": "ada"}
    assert {i: (str(a.status), a.outputs) for i, a in claim.ancestors.items()} == {
        "a": ("succeeded", {"n": 1.5})
    }


def test_undecided_steps_wait_for_their_when(ledger: Ledger) -> None:
    run = ledger.start(
        graph("a>b b>c d>e", options={"b": {"when": "steps.a.outputs.go"}, "d": {"when": "inputs.go"}}),
        inputs={"go": False},
    )
    assert ledger.run_step(run, "a", succeeded({"go": True})).undecided
    waiting = work.undecided(ledger.service, ledger.tenant, run.run_id)
    assert [(u.step_id, u.when, dict(u.inputs)) for u in waiting] == [
        ("b", "steps.a.outputs.go", {}),
        ("d", "inputs.go", {"go": False}),
    ]
    assert ledger.decide(run, unlock=["b"], skip=["d"]).ready_pools == {"default"}
    assert ledger.statuses(run) == {
        "a": "succeeded", "b": "queued", "c": "pending", "d": "skipped:CONDITION_FALSE", "e": "queued",
    }  # fmt: skip
    assert not ledger.decide(run, unlock=["d"], skip=["b"]).accepted


def test_a_run_of_steps_that_are_all_disabled_completes_at_its_start(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b", options={"a": {"disabled": True}, "b": {"disabled": True}}))
    assert run.status is RunStatus.COMPLETED
    assert set(ledger.statuses(run).values()) == {"skipped:STEP_DISABLED"}


def test_cancel_ends_what_has_not_begun_and_the_run_once_nothing_runs(ledger: Ledger) -> None:
    run = ledger.start(graph("a>c b>c", steps="d", options={"c": {"runOn": "always"}}))
    claim = ledger.claimed(run, "a")
    ledger.run_step(run, "d", failed(retry_delay_ms=0))
    asked, _ = runs.cancel(ledger.api, ledger.tenant, run.run_id, reason="wrong branch")
    assert (asked.status, asked.cancel_reason) == (RunStatus.RUNNING, "wrong branch")
    held = Held(claim.tenant, claim.run_id, claim.step_no, claim.attempt)
    assert work.renew(ledger.service, [held], lease_ms=LONG_MS)[0].cancel_requested
    assert ledger.complete(claim, Stopped()).run_ended
    assert set(ledger.statuses(run).values()) == {"cancelled:CANCELLED"}
    again, _ = runs.cancel(ledger.api, ledger.tenant, run.run_id, reason="again")
    assert (again.status, again.cancel_reason) == (RunStatus.CANCELLED, "wrong branch")


@pytest.mark.parametrize("outcome", [failed(retry_delay_ms=0), Released(), failed(), succeeded()])
def test_a_step_of_a_cancelled_run_ends_with_its_attempt(ledger: Ledger, outcome: object) -> None:
    run = ledger.start(graph("a>b"))
    claim = ledger.claimed(run, "a")
    runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)
    assert ledger.complete(claim, outcome).run_ended  # type: ignore[arg-type]
    assert ledger.run(run.run_id).status is RunStatus.CANCELLED


def test_cancel_races_completion_and_only_one_wins(ledger: Ledger) -> None:
    for _ in range(30):
        run = ledger.start(graph("", steps="a"))
        claim = ledger.claimed(run, "a")
        barrier = threading.Barrier(2)

        def cancel() -> str:
            barrier.wait()  # noqa: B023 - the thread ends within this turn of the loop
            try:
                return str(runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)[0].status)  # noqa: B023
            except RunAlreadyFinished:
                return "finished"

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(cancel)
            barrier.wait()
            ledger.complete(claim, succeeded())
        status = ledger.run(run.run_id).status
        assert (answer.result() == "finished") == (status is RunStatus.COMPLETED)


def test_a_finished_run_cannot_be_cancelled_and_an_unknown_one_is_not_found(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a"))
    ledger.run_step(run, "a")
    with pytest.raises(RunAlreadyFinished):
        runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)
    with pytest.raises(RunNotFound):
        runs.cancel(ledger.api, TenantId("other"), run.run_id, reason=None)


def test_fifty_starts_with_one_token_make_one_run(ledger: Ledger) -> None:
    spec = graph("a>b")
    ledger.publish(spec)
    with ThreadPoolExecutor(50) as pool:
        started = list(pool.map(lambda _: ledger.start(spec, run_token="build-7"), range(50)))
    assert len({r.run_id for r in started}) == 1
    with pytest.raises(RunTokenConflict):
        ledger.start(spec, run_token="build-7", inputs={"other": 1})


def test_a_version_never_changes_and_the_highest_active_one_is_started(ledger: Ledger) -> None:
    for version in ("1.9.0", "1.10.0", "2.0.0-rc.1"):
        ledger.publish(graph("a>b", version=version))
    with pytest.raises(DagVersionConflict):
        ledger.publish(graph("a>c", version="1.9.0"))
    recorded, created = dags.publish(
        ledger.api, ledger.tenant, graph("a>b", version="1.9.0"), signature=None, created_by="x"
    )
    assert (created, recorded.created_by) == (False, "tester")

    def start(version: str | None = None) -> str:
        run, _, _ = runs.start(
            ledger.api, ledger.tenant, dag_id=recorded.dag_id, version=version, inputs={}, run_token=None,
            trace_id=TRACE, created_by="tester",
        )  # fmt: skip
        return run.dag_version

    assert start() == "2.0.0-rc.1"
    dags.set_active(ledger.api, ledger.tenant, recorded.dag_id, "2.0.0-rc.1", active=False)
    assert start() == "1.10.0"
    with pytest.raises(DagDisabled):
        start("2.0.0-rc.1")
    with pytest.raises(DagNotFound):
        start("3.0.0")


def test_inputs_that_break_the_schema_start_nothing(ledger: Ledger) -> None:
    schema: JsonObject = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    spec = graph("a>b", metadata={"inputsSchema": schema})
    with pytest.raises(InvalidInputs) as raised:
        ledger.start(spec, inputs={"n": "x"})
    assert raised.value.problems[0].field == "inputs.n"
    assert runs.list_page(ledger.api, ledger.tenant, RunFilter(), after=None, limit=5) == []
