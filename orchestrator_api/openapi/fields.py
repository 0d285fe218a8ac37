"""How the fields of our schemas look in JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import fields

from orchestrator_api.json_body import MAX_INTEGER
from orchestrator_api.schemas.fields import KEYWORDS, NO_NUL
from shared.domain.models import Json, JsonObject

FREE_FORM: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        "Json": {
            "description": "Any JSON. Numbers are those that a double holds exactly; texts have no NUL.",
            "anyOf": [
                {"type": ["null", "boolean"]},
                {"type": "number", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
                {"type": "string", "pattern": NO_NUL},
                {"type": "array", "items": {"$ref": "#/components/schemas/Json"}},
                {"$ref": "#/components/schemas/JsonObject"},
            ],
        },
        "JsonObject": {
            "description": "An object of any members.",
            "type": "object",
            "propertyNames": {"pattern": NO_NUL},
            "additionalProperties": {"$ref": "#/components/schemas/Json"},
        },
    }
)
"""What a caller may choose freely, by the name of its component."""


def teach(plugin: MarshmallowPlugin, spec: APISpec) -> None:
    """Have ``plugin`` write what our fields say of themselves, and ``spec`` define what they refer to."""
    if plugin.converter is None:
        raise LookupError("the plugin belongs to no document yet")
    plugin.converter.add_attribute_function(_keywords)  # type: ignore[no-untyped-call]
    for name, schema in FREE_FORM.items():
        spec.components.schema(name, dict(schema))


def _keywords(_converter: object, field: fields.Field[object], **_known: object) -> dict[str, Json]:
    return dict(field.metadata.get(KEYWORDS, {}))
