"""Runs."""

from __future__ import annotations

from typing import Final

from orchestrator_api.errors import NotAcceptable, OriginForbidden, TooManyStreams
from orchestrator_api.openapi.operation import JSON, NDJSON, Answer, Lines, Operation, page
from orchestrator_api.schemas.responses.export import EXPORTED_RUN, MANIFEST_LINE
from orchestrator_api.schemas.responses.runs import RUN, RUN_IN_FULL, RUN_PAGE, RUN_STARTED
from orchestrator_api.schemas.responses.stream import STREAMED_EVENT
from orchestrator_api.schemas.run import CANCEL_RUN, START_RUN
from shared import errors
from shared.domain.models import JsonObject

_STARTED: Final[JsonObject] = {
    "runId": "019bb2f0-5c3e-7c1d-8a54-3f2e9d0c7b61",
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
    "dagId": "policy-refresh",
    "dagVersion": "1.4.0",
    "status": "running",
    "inputsHash": "0f5c0c3d6e7a8b9c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f4051627384",
    "startedUtc": "2026-11-21T23:04:05.123Z",
}

_RUN: Final[JsonObject] = {
    **_STARTED,
    "outputsHash": None,
    "endedUtc": None,
    "cancelRequestedUtc": None,
    "cancelReason": None,
    "runToken": "nightly-2026-11-21",
    "createdBy": "release-pipeline",
    "stepCount": 2,
    "ledgerHead": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
}

_CANCELLED: Final[JsonObject] = {
    **_RUN,
    "cancelRequestedUtc": "2026-11-21T23:04:09.001Z",
    "cancelReason": "superseded by 1.4.1",
}

_CURSOR_HEADER: Final = "X-Stream-Cursor"

OPERATIONS: Final = {
    "runs.start": Operation(
        tag="Runs",
        summary="Start a run",
        description="Of the highest active version, when none is named. A `runToken` makes the start itself "
        "idempotent for good: the same token with the same `dagId` and `inputs` gives the first run.",
        request=START_RUN,
        request_examples={
            "the highest active version": {
                "dagId": "policy-refresh",
                "inputs": {"feed": "https://example.com/policy.json"},
                "runToken": "nightly-2026-11-21",
            }
        },
        answers={
            201: Answer(
                description="The run has begun.",
                content={JSON: RUN_STARTED},
                example=_STARTED,
                headers=("Location",),
            ),
            200: Answer(
                description="The first run with this run token.",
                content={JSON: RUN_STARTED},
                example=_STARTED,
                headers=("Location",),
            ),
        },
        errors=(
            errors.DagNotFound,
            errors.DagDisabled,
            errors.RunTokenConflict,
            errors.InputsTooLarge,
            errors.InvalidInputs,
            errors.TooManyQueuedSteps,
        ),
    ),
    "runs.list_runs": Operation(
        tag="Runs",
        summary="List runs",
        description="The one started last first.",
        answers={200: page(RUN_PAGE, lines=RUN, description="A page of runs.", example=_RUN)},
    ),
    "runs.export": Operation(
        tag="Runs",
        summary="Export runs with all that belongs to them",
        description="The one started first first, for keeping and verifying. The last line is a manifest "
        "over the bytes of all lines before it.",
        answers={
            200: Answer(
                description="A line a run, with its steps, attempts and events, and the manifest.",
                content={NDJSON: Lines((EXPORTED_RUN, MANIFEST_LINE))},
            )
        },
        errors=(NotAcceptable,),
    ),
    "stream.follow": Operation(
        tag="Runs",
        summary="Follow events as they happen",
        description="As lines of a response without an end or, with `Upgrade: websocket`, as messages of a "
        "WebSocket, one line each. Every event comes once, those of a run in the order of their `seq`; who "
        "was cut off goes on with the `cursor` of the last line as `after`. An idle stream gets heartbeats: "
        "empty lines, or pings.\n\nA page, which cannot set headers, offers the subprotocols "
        "`orchestrator.ndjson.v1`, `bearer.<JWT>` and `tenant.<id>`. The stream is closed with 4401 when the "
        "token expires, with 1013 when the client does not read, with 1001 when the server stops.",
        answers={
            101: Answer(description="The connection is a WebSocket from now on.", headers=(_CURSOR_HEADER,)),
            200: Answer(
                description="A line an event, for as long as the token holds.",
                content={NDJSON: Lines((STREAMED_EVENT,))},
                headers=(_CURSOR_HEADER,),
            ),
        },
        errors=(OriginForbidden, errors.TenantStreamsExceeded, TooManyStreams),
    ),
    "runs.get": Operation(
        tag="Runs",
        summary="Read a run with its steps",
        answers={
            200: Answer(description="The run, and where each step stands.", content={JSON: RUN_IN_FULL})
        },
        errors=(errors.RunNotFound,),
    ),
    "runs.cancel": Operation(
        tag="Runs",
        summary="Cancel a run",
        description="Steps that have not begun are cancelled at once, running ones are told to stop. Asking "
        "again changes nothing.",
        request=CANCEL_RUN,
        request_required=False,
        request_examples={"with a reason": {"reason": "superseded by 1.4.1"}},
        answers={
            202: Answer(
                description="The run is being cancelled, or is.", content={JSON: RUN}, example=_CANCELLED
            )
        },
        errors=(errors.RunNotFound, errors.RunAlreadyFinished),
    ),
}
