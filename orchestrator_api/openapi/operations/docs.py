"""The documentation itself."""

from __future__ import annotations

from typing import Final

from orchestrator_api.openapi.operation import JSON, Answer, Operation

OPERATIONS: Final = {
    "docs.openapi": Operation(
        tag="Documentation",
        summary="Read this document",
        headers=("If-None-Match",),
        answers={
            200: Answer(
                description="The API in OpenAPI 3.1.",
                content={JSON: {"type": "object", "required": ["openapi", "info", "paths"]}},
                headers=("ETag",),
            ),
            304: Answer(description="It is as the caller has it.", headers=("ETag",)),
        },
    ),
    "docs.page": Operation(
        tag="Documentation",
        summary="Look at this document in a browser",
        headers=("If-None-Match",),
        answers={
            200: Answer(
                description="A page that shows this document, once it is given a token and a tenant.",
                content={"text/html": {"type": "string"}},
                headers=("ETag", "Content-Security-Policy"),
            ),
            304: Answer(description="It is as the caller has it.", headers=("ETag",)),
        },
    ),
    "docs.asset": Operation(
        tag="Documentation",
        summary="Read a file of that page",
        headers=("If-None-Match",),
        answers={
            200: Answer(
                description="The file.",
                content={"*/*": {}},
                headers=("ETag", "Content-Security-Policy"),
            ),
            304: Answer(description="It is as the caller has it.", headers=("ETag",)),
        },
    ),
}
