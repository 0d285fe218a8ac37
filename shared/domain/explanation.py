"""Say in words why a step is where it is, from what the ledger knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from shared.domain.models import Json, RunId, StepId
from shared.domain.states import ErrorCode, StepStatus

SHOWN = 20
"""Of longer lists the first are shown, with the number of all."""
COUNTED = 10_000
"""Nobody waits for the exact place of a step behind more than this."""


class ReasonCode(StrEnum):
    """What keeps a step where it is."""

    PREDECESSORS = "PREDECESSORS"
    RETRY_DUE = "RETRY_DUE"
    QUEUED = "QUEUED"
    NO_WORKERS = "NO_WORKERS"
    LIMIT = "LIMIT"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that keeps a step where it is; ``facts`` are for programs, ``message`` is for people."""

    code: ReasonCode
    message: str
    facts: Mapping[str, Json | datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the ledger knows of a step by itself.

    ``waiting`` counts the predecessors that have not ended; ``places`` is how many steps with
    its concurrency ``key`` may run at a time.
    """

    step_no: int
    status: StepStatus
    attempt: int
    pool: str
    waiting: int
    undecided: bool
    queued_utc: datetime | None
    sent_utc: datetime | None
    due_utc: datetime | None
    ended_utc: datetime | None
    error_code: ErrorCode | None
    error_message: str | None
    cancel_requested_utc: datetime | None
    cancel_reason: str | None
    key: str | None = None
    places: int | None = None
    waits_for_place: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The workers that could do what a step waits for."""

    workers: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """A step that runs, or is sent to be run."""

    run_id: RunId
    step_id: StepId
    status: StepStatus


def of_pending(facts: Facts, predecessors: Sequence[tuple[StepId, StepStatus]], fleet: Fleet) -> list[Reason]:
    """Explain a pending step by the predecessors that have not ended, or by a ``when`` to be evaluated."""
    if facts.undecided:
        message = "every predecessor has ended; a worker evaluates its `when` next"
    else:
        named = [f"{step_id} ({status})" for step_id, status in predecessors]
        more = facts.waiting - len(named)
        message = "waits for " + ", ".join(named) + (f" and {more:,} more" if more > 0 else "")
    steps: list[Json] = [{"stepId": step_id, "status": str(status)} for step_id, status in predecessors]
    reason = Reason(
        code=ReasonCode.PREDECESSORS, message=message, facts={"steps": steps, "count": facts.waiting}
    )
    if facts.undecided and not fleet.workers:
        return [_no_workers("no worker is up, and one must evaluate its `when`", None), reason]
    return [reason]


def of_queued(
    facts: Facts, ahead: int, fleet: Fleet, max_running: int | None, active: Sequence[Active]
) -> list[Reason]:
    """Explain a queued step by what must happen before a worker takes it, the most stubborn thing first.

    Of a step that waits for a place of its key, ``ahead`` counts those before it in that
    line, and ``active`` are those that have a place.
    """
    reasons = []
    if not fleet.workers:
        told = f"no worker listens on the pool {facts.pool}: start one whose ORCH_WORKER_POOLS names it"
        reasons.append(_no_workers(told, facts.pool))
    if facts.waits_for_place:
        return [*reasons, *_in_line(facts, ahead, fleet, active)]
    if max_running is not None and facts.sent_utc is None and len(active) >= min(max_running, COUNTED):
        reasons.append(_limit(max_running, active))
    return [*reasons, _queued(facts, ahead, fleet)]


def of_retrying(facts: Facts) -> list[Reason]:
    """Explain a step that failed and is to be tried again."""
    assert facts.due_utc is not None
    message = (
        f"attempt {facts.attempt} failed ({_error(facts)}); the next one is due at {_written(facts.due_utc)}"
    )
    told: dict[str, Json | datetime] = {
        "dueUtc": facts.due_utc,
        "attempt": facts.attempt,
        "errorCode": facts.error_code,
    }
    return [Reason(code=ReasonCode.RETRY_DUE, message=message, facts=told)]


def of_running(facts: Facts) -> list[Reason]:
    """Explain a step that runs: nothing keeps it, unless it has been told to stop."""
    if facts.cancel_requested_utc is None:
        return []
    why = f" ({facts.cancel_reason})" if facts.cancel_reason else ""
    message = (
        f"the run's cancellation was requested at {_written(facts.cancel_requested_utc)}{why}; "
        "the step is told to stop, and killed if it does not"
    )
    told: dict[str, Json | datetime] = {
        "cancelRequestedUtc": facts.cancel_requested_utc,
        "reason": facts.cancel_reason,
    }
    return [Reason(code=ReasonCode.CANCEL_REQUESTED, message=message, facts=told)]


def of_finished(facts: Facts) -> list[Reason]:
    """Explain a step that has ended: how, and why so."""
    assert facts.ended_utc is not None
    because = f": {_error(facts)}" if facts.error_code else ""
    told: dict[str, Json | datetime] = {
        "status": str(facts.status),
        "errorCode": facts.error_code,
        "errorMessage": facts.error_message,
        "endedUtc": facts.ended_utc,
    }
    message = f"{facts.status} at {_written(facts.ended_utc)}{because}"
    return [Reason(code=ReasonCode.FINISHED, message=message, facts=told)]


def _in_line(facts: Facts, ahead: int, fleet: Fleet, active: Sequence[Active]) -> list[Reason]:
    """Explain a step by the line for a place of its key. A free place is given to the first in no time."""
    assert facts.key is not None
    assert facts.places is not None
    place = _queued(facts, ahead, fleet)
    if ahead == 0 and len(active) < facts.places:
        return [place]
    limit = Reason(
        code=ReasonCode.LIMIT,
        message=f"{facts.places:,} steps of the tenant with the concurrency key {facts.key} may run or be "
        "sent at a time, and do: it waits until one of them ends",
        facts={
            "limit": "concurrencyKey",
            "key": facts.key,
            "max": facts.places,
            "heldBy": _holders(active),
        },
    )
    return [limit, place]


def _queued(facts: Facts, ahead: int, fleet: Fleet) -> Reason:
    exact, sent = ahead <= COUNTED, facts.sent_utc is not None
    listening = f"{fleet.workers:,} workers with {fleet.slots:,} slots listen on the pool {facts.pool}"
    if not exact:
        message = f"more than {COUNTED:,} steps of the tenant are before it; {listening}"
    elif facts.waits_for_place:
        message = f"number {ahead + 1:,} of those that wait for the concurrency key {facts.key}; {listening}"
    elif sent:
        message = f"sent to the workers, who take it as soon as a slot is free; {listening}"
    else:
        message = f"number {ahead + 1:,} of the tenant's ready steps; {listening}"
    told: dict[str, Json | datetime] = {
        "position": min(ahead, COUNTED) + 1,
        "positionExact": exact,
        "sent": sent,
        "pool": facts.pool,
        "workers": fleet.workers,
        "slots": fleet.slots,
    }
    return Reason(code=ReasonCode.QUEUED, message=message, facts=told)


def _no_workers(message: str, pool: str | None) -> Reason:
    return Reason(code=ReasonCode.NO_WORKERS, message=message, facts={"pool": pool})


def _limit(most: int, active: Sequence[Active]) -> Reason:
    return Reason(
        code=ReasonCode.LIMIT,
        message=f"the tenant may have {most:,} steps running or sent at a time (maxRunningSteps), "
        "and has them: it waits until one of them ends",
        facts={"limit": "maxRunningSteps", "max": most, "heldBy": _holders(active)},
    )


def _holders(active: Sequence[Active]) -> list[Json]:
    return [
        {"runId": str(one.run_id), "stepId": one.step_id, "status": str(one.status)} for one in active[:SHOWN]
    ]


_IN_WORDS: Mapping[ErrorCode, str] = {
    ErrorCode.UPSTREAM_FAILED: "a step that it depends on failed",
    ErrorCode.CONDITION_FALSE: "its `when` or `runOn` said that it is not to run",
    ErrorCode.STEP_DISABLED: "it is disabled in the DAG",
    ErrorCode.CANCELLED: "the run was cancelled",
}


def _error(facts: Facts) -> str:
    if facts.error_code is None:
        return "no error is known"
    told = facts.error_message or _IN_WORDS.get(facts.error_code)
    return f"{facts.error_code}: {told}" if told else str(facts.error_code)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
