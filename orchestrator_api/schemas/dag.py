"""The shape of a DAG as it is published: which members, of which types.

What their values may be is checked in one place, ``shared.domain.definition``.
"""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import INCLUDE, Schema, ValidationError, fields, validate

from orchestrator_api.schemas.check import shape
from orchestrator_api.schemas.fields import (
    KEYWORDS,
    MAX_UNKNOWN,
    MAX_WRONG,
    WRONG_TOO,
    Boolean,
    Integer,
    Known,
    Many,
    Number,
    Object,
    Text,
)
from shared.domain import versions
from shared.domain.definition import MAX_EDGES, MAX_STEPS
from shared.domain.models import Json, JsonObject
from shared.domain.states import RunOn
from shared.domain.step_rules import (
    ID_PATTERN,
    MAX_ATTEMPTS,
    MAX_CONCURRENCY,
    MAX_DELAY_MS,
    MAX_MULTIPLIER,
    MAX_TIMEOUT_MS,
)
from shared.errors import InvalidDag, Problem


class Edges(fields.Raw):
    """A list of ``{"from": id, "to": id}``.

    Checked by a loop of its own: as nested schemas the 50,000 edges of the largest
    DAG took 0.6 s of the two seconds that publishing it may take, this way 0.02 s.
    """

    def __init__(self) -> None:
        edge: Json = {
            "type": "object",
            "properties": {"from": {"type": "string"}, "to": {"type": "string"}},
            "required": ["from", "to"],
            "additionalProperties": False,
        }
        keywords = {"type": "array", "items": edge, "maxItems": MAX_EDGES}
        super().__init__(validate=_be_edges, metadata={KEYWORDS: keywords})


def _be_edges(value: object) -> None:
    if not isinstance(value, list):
        raise ValidationError("Not a valid list.")
    wrong = [index for index, edge in enumerate(value) if not _is_edge(edge)]
    if wrong:
        mistakes: dict[int, object] = {index: _edge_mistakes(value[index]) for index in wrong[:MAX_WRONG]}
        raise ValidationError(mistakes | {index: [WRONG_TOO] for index in wrong[MAX_WRONG:]})


def _is_edge(edge: object) -> bool:
    return (
        isinstance(edge, dict)
        and len(edge) == 2
        and isinstance(edge.get("from"), str)
        and isinstance(edge.get("to"), str)
    )


def _edge_mistakes(edge: object) -> dict[str, list[str]] | list[str]:
    if not isinstance(edge, Mapping):
        return ["Not an object."]
    others = [name for name in edge if name not in ("from", "to")]
    if len(others) > MAX_UNKNOWN:
        return [f"Has {len(edge)} members, of which at most 2 are known."]
    mistakes = {str(name): ["Unknown field."] for name in others}
    for name in ("from", "to"):
        if name not in edge:
            mistakes[name] = ["Missing data for required field."]
        elif not isinstance(edge[name], str):
            mistakes[name] = ["Not a valid string."]
    return mistakes


# Made from dicts, since ``with`` and ``from`` are keywords and could be no members of a class.
RETRY = Known.from_dict(
    {
        "maxAttempts": Integer(minimum=1, maximum=MAX_ATTEMPTS),
        "initialDelayMs": Integer(minimum=0, maximum=MAX_DELAY_MS),
        "maxDelayMs": Integer(minimum=0, maximum=MAX_DELAY_MS),
        "multiplier": Number(minimum=1, maximum=MAX_MULTIPLIER),
    },
    name="Retry",
)

STEP = Known.from_dict(
    {
        "id": Text(required=True, pattern=ID_PATTERN),
        "uses": Text(required=True),
        "with": Object(),
        "when": Text(),
        "retry": fields.Nested(RETRY),
        "timeoutMs": Integer(minimum=1, maximum=MAX_TIMEOUT_MS),
        "pool": Text(),
        "runOn": Text(enum=list(RunOn)),
        "disabled": Boolean(),
        "concurrencyKey": Text(pattern=ID_PATTERN),
    },
    name="Step",
)


class _Open(Schema):
    """An object that may have further members."""

    class Meta:
        unknown = INCLUDE


METADATA = _Open.from_dict(
    {
        "owner": Text(least=0, most=1_000),
        "description": Text(least=0, most=10_000),
        "inputsSchema": Object(),
        "concurrencyLimits": Object(
            propertyNames={"pattern": ID_PATTERN},
            additionalProperties={"type": "integer", "minimum": 1, "maximum": MAX_CONCURRENCY},
        ),
    },
    name="Metadata",
)

SIGNATURE = Known.from_dict(
    {
        "payloadType": Text(required=True, most=255),
        "payload": Text(required=True, most=16 * 1024 * 1024),
        "signatures": Many(
            Known.from_dict(
                {"keyid": Text(least=0, most=255), "sig": Text(required=True, most=10_000)},
                name="SignatureOfOneKey",
            ),
            required=True,
            length=validate.Length(min=1, max=16),
        ),
    },
    name="Signature",
)

DAG = Known.from_dict(
    {
        "dagId": Text(required=True, pattern=ID_PATTERN),
        "version": Text(required=True, maxLength=versions.MAX_LENGTH, pattern=versions.PATTERN),
        "steps": Many(STEP, required=True, minItems=1, maxItems=MAX_STEPS),
        "edges": Edges(),
        "metadata": fields.Nested(METADATA),
        "signature": fields.Nested(SIGNATURE),
    },
    name="Dag",
)

_DAG = DAG()


def dag_document(body: Json) -> tuple[JsonObject, list[Problem]]:
    """Check the shape of a whole DAG; give what is known of it and what is wrong with the rest.

    Raises InvalidInput when the body is no object, and when it has too many steps or
    edges: the counts come first, so that a flood of steps costs nothing.
    """
    if isinstance(body, Mapping):
        for name, most in (("steps", MAX_STEPS), ("edges", MAX_EDGES)):
            members = body.get(name)
            if isinstance(members, list) and len(members) > most:
                message = f"has {len(members)} members, at most {most} are allowed"
                raise InvalidDag(f"{name} {message}", [Problem(name, message)])
    return shape(_DAG, body)
