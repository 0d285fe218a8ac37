"""What must hold of a run in an export: its hashes, the chain of its events, and that its parts agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from orchestrator_cli.export_line import Part, Wrong, hash_of, shown
from shared.domain.hashing import NotCanonical, canonical
from shared.domain.models import Json, JsonObject
from shared.domain.states import AttemptStatus, RunStatus, StepStatus, is_legal

_RUN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_BEGINNING: Final = bytes(32)
_NOT_HASHED: Final = frozenset({"hash", "cursor"})
_MEANWHILE: Final = frozenset({"step.updated", "run.updated"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRun:
    """A run that was found to be as it must be."""

    started_utc: str
    run_id: str
    tenant: str
    steps: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    step_id: str
    status: StepStatus
    attempt: int
    outputs_hash: str | None


def check_run(document: JsonObject) -> ExportedRun:
    """Check the line of a run; raises Wrong with the first thing that is not as it must be."""
    run_id = Part(document, "the run").text("runId", _RUN_ID)
    run = Part(document, f"run {run_id}")
    started_utc = run.text("startedUtc", _TIME)
    run.expect("inputsHash", hash_of(run.object("inputs"), f"{run.place}: inputs"))
    steps = [_check_step(value, number) for number, value in enumerate(run.list("steps"), start=1)]
    if not steps:
        run.wrong("it has no steps")
    run.expect("stepCount", len(steps))
    if len({step.step_id for step in steps}) < len(steps):
        run.wrong("two steps have one stepId")
    _check_status(run, steps)
    events = run.list("events")
    tenant = _check_events(run, events, steps)
    return ExportedRun(
        started_utc=started_utc, run_id=run_id, tenant=tenant, steps=len(steps), events=len(events)
    )


def _check_step(value: Json, number: int) -> _Step:
    step_id = Part.of(value, f"step {number}").text("stepId")
    step = Part.of(value, f"step {shown(step_id)}")
    status = step.one_of("status", StepStatus)
    outputs_hash = None
    if status in (StepStatus.SUCCEEDED, StepStatus.SKIPPED):
        outputs = step.object("outputs")
        if status is StepStatus.SKIPPED and outputs:
            step.wrong("was skipped, and has outputs")
        outputs_hash = hash_of(outputs, f"{step.place}: outputs")
    else:
        step.expect("outputs", None)
    step.expect("outputsHash", outputs_hash)
    checked = _Step(
        step_id=step_id, status=status, attempt=step.integer("attempt"), outputs_hash=outputs_hash
    )
    _check_attempts(step, checked)
    return checked


def _check_attempts(step: Part, checked: _Step) -> None:
    attempts = step.list("attempts")
    if len(attempts) != checked.attempt:
        step.wrong(f"attempt is {shown(checked.attempt)}, and there are {len(attempts)} attempts")
    for number, value in enumerate(attempts, start=1):
        attempt = Part.of(value, f"{step.place}: attempt {number}")
        attempt.expect("attempt", number)
        won = attempt.one_of("status", AttemptStatus) is AttemptStatus.SUCCEEDED
        if won != (number == len(attempts) and checked.status is StepStatus.SUCCEEDED):
            attempt.wrong(f"status is {shown(attempt.text('status'))}, and the step {checked.status}")
        attempt.expect("outputsHash", checked.outputs_hash if won else None)


def _check_status(run: Part, steps: list[_Step]) -> None:
    """Check that the run ended if all of its steps did, as they did, and has the hash of that."""
    status = run.one_of("status", RunStatus)
    cancelled = not run.is_null("cancelRequestedUtc")
    if not all(step.status.is_terminal for step in steps):
        due = RunStatus.RUNNING
    elif cancelled:
        due = RunStatus.CANCELLED
    else:
        failed = any(step.status is StepStatus.FAILED for step in steps)
        due = RunStatus.FAILED if failed else RunStatus.COMPLETED
    run.expect("status", str(due))
    work: Json = {
        "specHash": run.sha256("specHash"),
        "inputsHash": run.sha256("inputsHash"),
        "steps": [[step.step_id, step.status, step.outputs_hash] for step in steps],
    }
    run.expect("outputsHash", hash_of(work, run.place) if status.is_terminal else None)


def _check_events(run: Part, events: list[Json], steps: list[_Step]) -> str:
    """Follow the chain from its beginning to its head, and the steps from pending to where they are."""
    tenant = None
    head = _BEGINNING
    told = {step.step_id: (StepStatus.PENDING, 0) for step in steps}
    status = RunStatus(run.text("status"))
    for seq, value in enumerate(events, start=1):
        event = Part.of(value, f"event {seq}")
        head = _link(head, event)
        event.expect("hash", head.hex())
        event.expect("seq", seq)
        tenant = tenant or event.text("tenant")
        event.expect("tenant", tenant)
        for name in ("runId", "dagId", "traceId"):
            event.expect(name, run.text(name))
        ends = status.is_terminal and seq == len(events)
        event.expect("status", str(status) if ends else "running")
        kinds = {"run.started"} if seq == 1 else {f"run.{status}"} if ends else _MEANWHILE
        if event.text("type") not in kinds:
            event.wrong(f"type is {shown(event.text('type'))}")
        if event.text("type") == "step.updated":
            _follow(event, told)
    run.expect("ledgerHead", head.hex())
    if tenant is None:
        run.wrong("it has no events")
    for step in steps:
        if told[step.step_id] != (step.status, step.attempt):
            run.wrong(f"step {shown(step.step_id)}: its events lead to another status or attempt")
    return tenant


def _link(head: bytes, event: Part) -> bytes:
    try:
        line = canonical({name: value for name, value in event.members.items() if name not in _NOT_HASHED})
    except NotCanonical as error:
        raise Wrong(f"{event.place} cannot be hashed: {error}") from None
    return sha256(head + line).digest()


def _follow(event: Part, told: dict[str, tuple[StepStatus, int]]) -> None:
    """Take the step that an event tells of to its new state, if there is such a transition."""
    step_id, status = event.text("stepId"), event.one_of("stepStatus", StepStatus)
    if step_id not in told:
        event.wrong(f"the run has no step {shown(step_id)}")
    before, attempt = told[step_id]
    if not is_legal(before, status):
        event.wrong(f"step {shown(step_id)} goes from {before} to {status}")
    attempt += status is StepStatus.RUNNING
    event.expect("attempt", attempt)
    told[step_id] = (status, attempt)
