"""A line of an export: a run with all that belongs to it, or the manifest at the end."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.responses.fields import (
    Fields,
    count,
    free_form,
    many,
    name,
    one_of,
    run_id,
    schema,
    sha256,
    text,
    time,
)
from orchestrator_api.schemas.responses.runs import RUN_FIELDS, RUN_STEP_IN_FULL
from shared.domain.states import RunStatus, StepStatus

EVENT_FIELDS: Fields = {
    "type": text(minLength=1),
    "tenant": text(minLength=1),
    "dagId": name(),
    "runId": run_id(),
    "status": one_of(RunStatus),
    "timestamp": time(),
    "traceId": text(pattern="^[0-9a-f]{32}$"),
    "seq": count(least=1),
    "stepId": fields.String(),
    "stepStatus": fields.Enum(StepStatus, by_value=True),
    "attempt": fields.Integer(),
}

_EVENT = schema("Event", {**EVENT_FIELDS, "hash": sha256()})

EXPORTED_RUN = schema(
    "ExportedRun",
    {
        **RUN_FIELDS,
        "specHash": sha256(),
        "inputs": free_form(),
        "steps": many(RUN_STEP_IN_FULL),
        "events": many(_EVENT),
    },
)

_MANIFEST = schema("Manifest", {"count": count(), "sha256": sha256()})

MANIFEST_LINE = schema("ManifestLine", {"manifest": fields.Nested(_MANIFEST, required=True)})
