"""The envelope of every refusal and failure."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.responses.fields import many, schema, text

_DETAIL = schema("Detail", {"field": text(), "message": text()})

ERROR = schema(
    "Error",
    {
        "code": text(pattern="^[A-Z][A-Z0-9_]*$"),
        "message": text(),
        "trace_id": text(pattern="^[0-9a-f]{32}$"),
        "details": many(_DETAIL, required=False),
    },
)

REFUSAL = schema("Refusal", {"error": fields.Nested(ERROR, required=True)})
