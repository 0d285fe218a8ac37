"""Runs, their steps, and the attempts at them."""

from __future__ import annotations

from orchestrator_api.schemas.responses.fields import (
    Fields,
    count,
    free_form,
    many,
    name,
    one_of,
    page_of,
    run_id,
    schema,
    sha256,
    text,
    time,
)
from shared.domain.states import AttemptStatus, ErrorCode, RunStatus, StepStatus
from shared.domain.versions import PATTERN

_BEGUN: Fields = {
    "runId": run_id(),
    "traceId": text(pattern="^[0-9a-f]{32}$"),
    "dagId": name(),
    "dagVersion": text(pattern=PATTERN),
    "status": one_of(RunStatus),
    "inputsHash": sha256(),
    "startedUtc": time(),
}

RUN_STARTED = schema("RunStarted", _BEGUN)

RUN_FIELDS: Fields = {
    **_BEGUN,
    "outputsHash": sha256(null=True),
    "endedUtc": time(null=True),
    "cancelRequestedUtc": time(null=True),
    "cancelReason": text(null=True),
    "runToken": text(null=True),
    "createdBy": text(minLength=1),
    "stepCount": count(least=1),
    "ledgerHead": sha256(),
}

RUN = schema("Run", RUN_FIELDS)
RUN_PAGE = page_of(RUN, name="RunPage")

_STEP: Fields = {
    "stepId": name(),
    "status": one_of(StepStatus),
    "uses": text(minLength=1),
    "pool": text(minLength=1),
    "attempt": count(),
    "errorCode": one_of(ErrorCode, null=True),
    "errorMessage": text(null=True),
    "inputsHash": sha256(null=True),
    "outputsHash": sha256(null=True),
    "queuedUtc": time(null=True),
    "startedUtc": time(null=True),
    "endedUtc": time(null=True),
    "dueUtc": time(null=True),
}

RUN_STEP = schema("RunStep", _STEP)
RUN_STEP_PAGE = page_of(RUN_STEP, name="RunStepPage")
RUN_IN_FULL = schema("RunInFull", {**RUN_FIELDS, "steps": many(RUN_STEP)})

_ATTEMPT = schema(
    "Attempt",
    {
        "attempt": count(least=1),
        "status": one_of(AttemptStatus),
        "workerId": text(minLength=1),
        "startedUtc": time(),
        "endedUtc": time(null=True),
        "durationMs": count(null=True),
        "errorCode": one_of(ErrorCode, null=True),
        "errorMessage": text(null=True),
        "logsRef": sha256(null=True),
        "outputsHash": sha256(null=True),
    },
)

RUN_STEP_IN_FULL = schema(
    "RunStepInFull", {**_STEP, "outputs": free_form(null=True), "attempts": many(_ATTEMPT)}
)
