"""Artifacts."""

from __future__ import annotations

from typing import Final

from orchestrator_api.openapi.operation import JSON, Answer, Operation
from orchestrator_api.schemas.responses.refusal import REFUSAL
from shared import errors

_ALWAYS: Final = ("ETag", "Accept-Ranges", "Content-Security-Policy")

OPERATIONS: Final = {
    "artifacts.get": Operation(
        tag="Artifacts",
        summary="Read an artifact",
        description="The bytes that a step wrote, in the content type that it chose.",
        headers=("If-None-Match", "Range"),
        answers={
            200: Answer(description="The bytes.", content={"*/*": {}}, headers=_ALWAYS),
            206: Answer(
                description="The part that was asked for.",
                content={"*/*": {}},
                headers=(*_ALWAYS, "Content-Range"),
            ),
            304: Answer(description="The bytes are those that the caller has.", headers=("ETag",)),
            416: Answer(
                description="- `INVALID_ARGUMENT`: The range begins behind the end.",
                content={JSON: REFUSAL},
                headers=("Content-Range",),
            ),
        },
        errors=(errors.ArtifactNotFound,),
    ),
}
