"""What is up, and how much work waits."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.responses.fields import Fields, count, many, number, run_id, schema, text, time
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

_SWEEPER = schema("Sweeper", {"status": text(enum=["ok", "down"]), "lastSeenUtc": time(null=True)})

_SET_ASIDE = schema(
    "SetAside",
    {
        "tenant": text(minLength=1),
        "verb": text(enum=["wake", "rescue", "resend", "decide", "count"]),
        "runId": run_id(),
        "number": count(null=True),
        "reason": text(),
        "tries": count(least=1),
        "sinceUtc": time(),
        "nextUtc": time(),
    },
)

_INCIDENT = schema(
    "Incident",
    {
        "component": text(minLength=1),
        "kind": text(minLength=1),
        "count": count(least=1),
        "firstUtc": time(),
        "lastUtc": time(),
        "detail": text(null=True),
    },
)

_HEALTH: Fields = {
    "checks": fields.Nested(_CHECKS, required=True),
    "queues": many(_QUEUE, required=False),
    "sweeper": fields.Nested(_SWEEPER),
    "setAside": many(_SET_ASIDE, required=False),
    "incidents": many(_INCIDENT, required=False),
}

HEALTHY = schema("Healthy", {"status": text(enum=["ok"]), **_HEALTH})
UNHEALTHY = schema(
    "Unhealthy",
    {"status": text(enum=["unavailable"]), **_HEALTH, "error": fields.Nested(ERROR, required=True)},
)
