from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from shared.domain import explanation
from shared.domain.explanation import Active, Facts, Fleet, Reason, ReasonCode
from shared.domain.models import RunId, StepId
from shared.domain.states import ErrorCode, StepStatus

NOW = datetime(2026, 11, 21, 23, 4, 5, 123_000, tzinfo=UTC)
FLEET = Fleet(workers=2, slots=16)
NOBODY = Fleet(workers=0, slots=0)
FACTS = Facts(
    step_no=0,
    status=StepStatus.QUEUED,
    attempt=0,
    pool="gpu",
    waiting=0,
    undecided=False,
    queued_utc=NOW,
    sent_utc=None,
    due_utc=None,
    ended_utc=None,
    error_code=None,
    error_message=None,
    cancel_requested_utc=None,
    cancel_reason=None,
)


def told(reasons: list[Reason]) -> dict[str, str]:
    return {reason.code: reason.message for reason in reasons}


def test_predecessors_are_named_and_the_others_counted() -> None:
    waiting = replace(FACTS, status=StepStatus.PENDING, waiting=1_202)
    before = [(StepId("fetch"), StepStatus.RUNNING), (StepId("check"), StepStatus.PENDING)]
    assert told(explanation.of_pending(waiting, before, FLEET)) == {
        "PREDECESSORS": "waits for fetch (running), check (pending) and 1,200 more"
    }


def test_a_queued_step_is_told_its_place_and_what_is_in_the_way() -> None:
    listening = "2 workers with 16 slots listen on the pool gpu"
    nobody = "0 workers with 0 slots listen on the pool gpu"
    held = [Active(run_id=RunId(UUID(int=1)), step_id=StepId("a"), status=StepStatus.RUNNING)]
    sent = replace(FACTS, sent_utc=NOW)
    assert told(explanation.of_queued(FACTS, 1_233, FLEET, None, [])) == {
        "QUEUED": f"number 1,234 of the tenant's ready steps; {listening}"
    }
    assert told(explanation.of_queued(FACTS, 10_001, FLEET, None, [])) == {
        "QUEUED": f"more than 10,000 steps of the tenant are before it; {listening}"
    }
    assert told(explanation.of_queued(sent, 0, FLEET, 1, held)) == {
        "QUEUED": f"sent to the workers, who take it as soon as a slot is free; {listening}"
    }
    assert told(explanation.of_queued(FACTS, 0, NOBODY, 1, held)) == {
        "NO_WORKERS": "no worker listens on the pool gpu: start one whose ORCH_WORKER_POOLS names it",
        "LIMIT": "the tenant may have 1 steps running or sent at a time (maxRunningSteps), and has them: "
        "it waits until one of them ends",
        "QUEUED": f"number 1 of the tenant's ready steps; {nobody}",
    }


def test_a_step_in_line_for_a_key_is_told_its_place_there() -> None:
    listening = "2 workers with 16 slots listen on the pool gpu"
    held = [Active(run_id=RunId(UUID(int=1)), step_id=StepId("a"), status=StepStatus.RUNNING)]
    waits = replace(FACTS, key="db", places=1, waits_for_place=True)
    place = {"QUEUED": f"number 1 of those that wait for the concurrency key db; {listening}"}
    assert told(explanation.of_queued(waits, 0, FLEET, None, [])) == place
    assert told(explanation.of_queued(waits, 0, FLEET, None, held)) == {
        "LIMIT": "1 steps of the tenant with the concurrency key db may run or be sent at a time, and do: "
        "it waits until one of them ends",
        **place,
    }


def test_what_failed_says_so_and_when_it_goes_on() -> None:
    failed = replace(FACTS, attempt=2, error_code=ErrorCode.EXIT_STATUS, error_message="exit status 7")
    assert told(explanation.of_retrying(replace(failed, due_utc=NOW))) == {
        "RETRY_DUE": "attempt 2 failed (EXIT_STATUS: exit status 7); "
        "the next one is due at 2026-11-21T23:04:05.123Z"
    }
    ended = replace(failed, status=StepStatus.FAILED, ended_utc=NOW)
    assert told(explanation.of_finished(ended)) == {
        "FINISHED": "failed at 2026-11-21T23:04:05.123Z: EXIT_STATUS: exit status 7"
    }


def test_every_skip_is_put_into_words() -> None:
    for code in (ErrorCode.UPSTREAM_FAILED, ErrorCode.CONDITION_FALSE, ErrorCode.STEP_DISABLED):
        skipped = replace(FACTS, status=StepStatus.SKIPPED, ended_utc=NOW, error_code=code)
        (reason,) = explanation.of_finished(skipped)
        assert reason.code is ReasonCode.FINISHED
        assert not reason.message.endswith(code)


def test_a_running_step_needs_no_reason_until_it_is_to_stop() -> None:
    running = replace(FACTS, status=StepStatus.RUNNING)
    assert explanation.of_running(running) == []
    assert told(
        explanation.of_running(replace(running, cancel_requested_utc=NOW, cancel_reason="wrong feed"))
    ) == {
        "CANCEL_REQUESTED": "the run's cancellation was requested at 2026-11-21T23:04:05.123Z (wrong feed); "
        "the step is told to stop, and killed if it does not"
    }
