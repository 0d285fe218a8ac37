"""What the OpenAPI document says of a route, beyond what the table of routes knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from marshmallow import Schema

from shared.domain.models import Json, JsonObject
from shared.errors import OrchestratorError

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Lines:
    """A body of any number of lines, each of which is an object of one of these ``kinds``."""

    kinds: tuple[type[Schema], ...]


Content = type[Schema] | Lines | JsonObject
"""What a body looks like: a schema of marshmallow, lines, or a JSON Schema for what is no JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that is no refusal. ``headers`` are those beyond the ones that every response has."""

    description: str
    content: Mapping[str, Content] = field(default_factory=dict)
    example: Json = None
    headers: tuple[str, ...] = ()


def page(of: type[Schema], *, lines: type[Schema], description: str, example: Json = None) -> Answer:
    """Describe the answer of a list: a page of it, or all of it as NDJSON."""
    return Answer(
        description=f"{description} As `{NDJSON}` all of them, an item a line, without paging.",
        content={JSON: of, NDJSON: Lines((lines,))},
        example=None if example is None else {"items": [example]},
        headers=("Vary",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A route as its users see it.

    ``errors`` are those beyond what its method, its parameters and its access imply.
    ``query`` holds what differs from the parameter of the same name elsewhere.
    """

    tag: str
    summary: str
    description: str = ""
    request: type[Schema] | None = None
    request_required: bool = True
    request_examples: Mapping[str, Json] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    query: Mapping[str, JsonObject] = field(default_factory=dict)
    answers: Mapping[int, Answer]
    errors: tuple[type[OrchestratorError], ...] = ()
