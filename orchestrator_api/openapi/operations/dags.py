"""DAG versions, and the plugins that their steps may use."""

from __future__ import annotations

from typing import Final

from orchestrator_api.openapi.operation import JSON, Answer, Operation, page
from orchestrator_api.schemas.dag import DAG
from orchestrator_api.schemas.responses.dags import DAG_IN_FULL, DAG_PAGE, DAG_VERSION, PLUGIN, PLUGIN_PAGE
from orchestrator_api.schemas.run import NOTHING
from shared import errors
from shared.domain.models import JsonObject

_STEPS: Final[tuple[JsonObject, ...]] = (
    {
        "id": "fetch",
        "uses": "http",
        "with": {"url": "${{ inputs.feed }}"},
        "retry": {"maxAttempts": 4, "initialDelayMs": 500, "maxDelayMs": 30_000, "multiplier": 2},
        "timeoutMs": 60_000,
    },
    {
        "id": "count",
        "uses": "command",
        "with": {"argv": ["wc", "-c", "${{ steps.fetch.outputs.bodyPath }}"]},
        "when": "steps.fetch.outputs.status == 200",
    },
)

_EXAMPLE: Final[JsonObject] = {
    "dagId": "policy-refresh",
    "version": "1.4.0",
    "steps": list(_STEPS),
    "edges": [{"from": "fetch", "to": "count"}],
    "metadata": {
        "owner": "policy",
        "description": "nightly refresh",
        "inputsSchema": {"type": "object", "required": ["feed"]},
    },
}

_SUMMARY_EXAMPLE: Final[JsonObject] = {
    "dagId": "policy-refresh",
    "version": "1.4.0",
    "specHash": "2f9cb1a1f6f1a86f7bb9a4f7f7d8e1b1d5b2c9a0e3f4d6c8b7a6958473625140",
    "active": True,
    "stepCount": 2,
    "metadata": _EXAMPLE["metadata"],
    "createdUtc": "2026-11-21T23:04:05.123Z",
    "createdBy": "release-pipeline",
    "disabledUtc": None,
}


def _summary(description: str, *headers: str) -> Answer:
    return Answer(
        description=description,
        content={JSON: DAG_VERSION},
        example=_SUMMARY_EXAMPLE,
        headers=("ETag", *headers),
    )


OPERATIONS: Final = {
    "dags.publish": Operation(
        tag="DAGs",
        summary="Publish a version of a DAG",
        description="A version never changes. Publishing the same definition again changes nothing.\n\n"
        "Beyond this schema, ids of steps are unique, edges join known steps without a cycle, plugins and "
        "pools are those of the installation, `with` fits the plugin, and expressions read ancestors only.",
        request=DAG,
        request_examples={"two steps": _EXAMPLE},
        answers={
            201: _summary("It is recorded.", "Location"),
            200: _summary("It was recorded before.", "Location"),
        },
        errors=(
            errors.DagVersionConflict,
            errors.DagCycle,
            errors.UnknownPlugin,
            errors.SignatureRequired,
            errors.SignatureInvalid,
        ),
    ),
    "dags.list_versions": Operation(
        tag="DAGs",
        summary="List versions of DAGs",
        description="By `dagId`, then by version, the highest first. Without steps and edges.",
        answers={
            200: page(
                DAG_PAGE, lines=DAG_VERSION, description="A page of versions.", example=_SUMMARY_EXAMPLE
            )
        },
    ),
    "dags.get": Operation(
        tag="DAGs",
        summary="Read a version of a DAG",
        headers=("If-None-Match",),
        answers={
            200: Answer(
                description="The version, with its definition in the normal form: defaults filled in, steps "
                "in topological order.",
                content={JSON: DAG_IN_FULL},
                headers=("ETag",),
            ),
            304: Answer(description="It is as the caller has it.", headers=("ETag",)),
        },
        errors=(errors.DagNotFound,),
    ),
    "dags.disable": Operation(
        tag="DAGs",
        summary="Let a version take no new runs",
        description="Those under way go on. Asking again changes nothing.",
        request=NOTHING,
        request_required=False,
        answers={200: _summary("The version takes no new runs.")},
        errors=(errors.DagNotFound,),
    ),
    "dags.enable": Operation(
        tag="DAGs",
        summary="Let a version take new runs again",
        description="Asking again changes nothing.",
        request=NOTHING,
        request_required=False,
        answers={200: _summary("The version takes new runs.")},
        errors=(errors.DagNotFound,),
    ),
    "plugins.list_plugins": Operation(
        tag="DAGs",
        summary="List the plugins that steps may use",
        answers={
            200: page(
                PLUGIN_PAGE,
                lines=PLUGIN,
                description="A page of the plugins, by name and version, with the JSON Schema of `with`.",
            )
        },
    ),
}
