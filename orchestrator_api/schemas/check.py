"""Hold a document against a schema, and tell what is wrong in the words of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from marshmallow import Schema

from shared.domain.models import Json, JsonObject
from shared.errors import InvalidInput, Problem


def shaped(schema: Schema, document: Json) -> JsonObject:
    """Return ``document`` unchanged if it has the shape of ``schema``; else raise InvalidInput.

    The document itself goes on, not a copy: what is hashed is what was sent, and
    defaults are the domain's to fill in.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput("the body must be an object", [Problem("", "Not an object.")])
    mistakes = schema.validate(cast("Mapping[str, object]", document))
    if mistakes:
        raise InvalidInput("the body does not have the shape that this route takes", _problems(mistakes))
    return document


def _problems(mistakes: Mapping[str, object]) -> Iterator[Problem]:
    """Flatten marshmallow's nested report: ``{"steps": {3: {"id": [...]}}}`` becomes ``steps[3].id``."""
    todo: list[tuple[str, object]] = [("", mistakes)]
    while todo:
        path, found = todo.pop()
        if isinstance(found, Mapping):
            todo.extend((_below(path, key), inner) for key, inner in found.items())
        elif isinstance(found, list):
            todo.extend((path, inner) for inner in found)
        else:
            yield Problem(path, str(found))


def _below(path: str, key: object) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key == "_schema":
        return path
    return f"{path}.{key}" if path else str(key)
