"""What is up, and how much work waits."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.responses.fields import Fields, count, many, number, schema, text
from orchestrator_api.schemas.responses.refusal import ERROR

_CHECKS = schema("Checks", {name: text(enum=["ok", "down"]) for name in ("postgres", "redis", "workers")})

_QUEUE = schema(
    "Queue",
    {
        "tenant": text(minLength=1),
        "pool": text(minLength=1),
        "depth": count(),
        "oldestAgeSeconds": number(null=True),
        "running": count(),
    },
)

_HEALTH: Fields = {
    "checks": fields.Nested(_CHECKS, required=True),
    "queues": many(_QUEUE, required=False),
}

HEALTHY = schema("Healthy", {"status": text(enum=["ok"]), **_HEALTH})
UNHEALTHY = schema(
    "Unhealthy",
    {"status": text(enum=["unavailable"]), **_HEALTH, "error": fields.Nested(ERROR, required=True)},
)
