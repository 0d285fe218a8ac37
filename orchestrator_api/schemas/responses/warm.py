"""What has been loaded, and where."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.responses.fields import Fields, many, name, schema, sha256, text
from shared.domain.versions import PATTERN

_LOADED: Fields = {
    "dags": many(
        schema("LoadedDag", {"dagId": name(), "version": text(pattern=PATTERN), "specHash": sha256()})
    ),
    "plugins": many(
        schema(
            "LoadedPlugin",
            {"name": text(minLength=1), "version": text(minLength=1), "digest": text(minLength=1)},
        )
    ),
}

_API = schema("WarmApi", {"process": text(minLength=1), "status": text(enum=["confirmed"])})

_WORKER = schema(
    "WarmWorker",
    {
        "workerId": text(minLength=1),
        "status": text(enum=["confirmed", "pending"]),
        **_LOADED,
        "differingPlugins": fields.List(text(minLength=1), required=True),
    },
)

WARMTH = schema("Warmth", {**_LOADED, "api": fields.Nested(_API, required=True), "workers": many(_WORKER)})
