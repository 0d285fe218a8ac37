"""The steps of a run."""

from __future__ import annotations

from typing import Final

from orchestrator_api.errors import TooManyFollowers
from orchestrator_api.openapi.operation import JSON, Answer, Operation, page
from orchestrator_api.schemas.responses.explain import EXPLANATION
from orchestrator_api.schemas.responses.refusal import REFUSAL
from orchestrator_api.schemas.responses.runs import RUN_STEP, RUN_STEP_IN_FULL, RUN_STEP_PAGE
from shared import errors

OPERATIONS: Final = {
    "steps.list_steps": Operation(
        tag="Runs",
        summary="List the steps of a run",
        description="In topological order, ties by id.",
        answers={200: page(RUN_STEP_PAGE, lines=RUN_STEP, description="A page of steps.")},
        errors=(errors.RunNotFound,),
    ),
    "steps.get": Operation(
        tag="Runs",
        summary="Read a step with its attempts",
        answers={
            200: Answer(
                description="The step, with its outputs and every attempt at it.",
                content={JSON: RUN_STEP_IN_FULL},
            )
        },
        errors=(errors.RunNotFound, errors.StepNotFound),
    ),
    "explain.get": Operation(
        tag="Runs",
        summary="Explain why a step is where it is",
        answers={
            200: Answer(
                description="What keeps it there, the most stubborn thing first.",
                content={JSON: EXPLANATION},
                example={
                    "status": "pending",
                    "reasons": [
                        {
                            "code": "PREDECESSORS",
                            "message": "1 predecessor has not ended: fetch",
                            "steps": [{"stepId": "fetch", "status": "running"}],
                            "count": 1,
                        }
                    ],
                },
            )
        },
        errors=(errors.RunNotFound, errors.StepNotFound),
    ),
    "logs.get": Operation(
        tag="Runs",
        summary="Read the log of a step",
        description="Of the newest attempt, if none is named. `follow` keeps sending until the step ends.",
        query={
            "attempt": {
                "description": "The attempt whose log is wanted.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
            },
            "follow": {
                "description": "Keep sending what is added, until the step ends.",
                "schema": {"type": "boolean", "default": False},
            },
        },
        headers=("If-None-Match", "Range"),
        answers={
            200: Answer(description="The log as far as it is known.", content={"*/*": {}}),
            206: Answer(
                description="The part that was asked for, of a log that is whole.",
                content={"*/*": {}},
                headers=("ETag", "Accept-Ranges", "Content-Range"),
            ),
            304: Answer(description="The log is whole, and as the caller has it.", headers=("ETag",)),
            416: Answer(
                description="- `INVALID_ARGUMENT`: The range begins behind the end.",
                content={JSON: REFUSAL},
                headers=("Content-Range",),
            ),
        },
        errors=(errors.RunNotFound, errors.StepNotFound, errors.ArtifactNotFound, TooManyFollowers),
    ),
}
