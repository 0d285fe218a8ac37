"""DAG versions and plugins."""

from __future__ import annotations

from marshmallow import fields

from orchestrator_api.schemas.dag import SIGNATURE, Edges
from orchestrator_api.schemas.responses.fields import (
    Fields,
    count,
    flag,
    free_form,
    many,
    name,
    number,
    one_of,
    page_of,
    schema,
    sha256,
    text,
    time,
)
from shared.domain.states import RunOn
from shared.domain.versions import PATTERN

_SUMMARY: Fields = {
    "dagId": name(),
    "version": text(pattern=PATTERN),
    "specHash": sha256(),
    "active": flag(),
    "stepCount": count(least=1),
    "metadata": free_form(),
    "createdUtc": time(),
    "createdBy": text(minLength=1),
    "disabledUtc": time(null=True),
}

DAG_VERSION = schema("DagVersion", _SUMMARY)

_RETRY = schema(
    "RetryInFull",
    {
        "maxAttempts": count(least=1),
        "initialDelayMs": count(),
        "maxDelayMs": count(),
        "multiplier": number(least=1),
    },
)

_STEP = schema(
    "StepInFull",
    {
        "id": name(),
        "uses": text(minLength=1),
        "with": free_form(),
        "when": fields.String(),
        "retry": fields.Nested(_RETRY, required=True),
        "timeoutMs": count(least=1),
        "pool": text(minLength=1),
        "runOn": one_of(RunOn),
        "disabled": flag(),
        "concurrencyKey": fields.String(),
    },
)

DAG_IN_FULL = schema(
    "DagInFull",
    {**_SUMMARY, "steps": many(_STEP), "edges": Edges(), "signature": fields.Nested(SIGNATURE)},
)
"""With its definition in the normal form, defaults filled in; and its signature, if it has one."""

DAG_PAGE = page_of(DAG_VERSION, name="DagPage")

PLUGIN = schema(
    "Plugin",
    {
        "name": text(minLength=1),
        "version": text(minLength=1),
        "digest": text(minLength=1),
        "schema": free_form(),
        "needsNetwork": flag(),
    },
)

PLUGIN_PAGE = page_of(PLUGIN, name="PluginPage")
