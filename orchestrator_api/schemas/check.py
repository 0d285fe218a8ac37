"""Hold a document against a schema, and tell what is wrong in the words of the contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from marshmallow import Schema

from shared.domain.models import Json, JsonObject
from shared.errors import InvalidInput, Problem


def shaped(schema: Schema, document: Json) -> JsonObject:
    """Return ``document`` unchanged if it has the shape of ``schema``; else raise InvalidInput."""
    known, problems = shape(schema, document)
    if problems:
        raise misshapen(problems)
    return known


def shape(schema: Schema, document: Json) -> tuple[JsonObject, list[Problem]]:
    """Give what is known of ``document``, and what keeps it from having the shape of ``schema``.

    Known is the document itself where nothing is wrong, not a copy: what is hashed is
    what was sent, and defaults are the domain's to fill in. ``null``, which is the
    right value of no member, stands where something misshapen or missing was, so that
    the other checks can be made of the rest. Raises InvalidInput when nothing is known.
    """
    if not isinstance(document, Mapping):
        raise InvalidInput("the body must be an object", [Problem("", "Not an object.")])
    mistakes = schema.validate(cast("Mapping[str, object]", document))
    if not mistakes:
        return document, []
    return cast(JsonObject, _without(document, mistakes)), list(_problems(mistakes))


def misshapen(problems: list[Problem]) -> InvalidInput:
    """Make the error of a body that has not the right shape."""
    return InvalidInput("the body does not have the shape that this route takes", problems)


def _without(value: Json, mistakes: object) -> Json:
    """Copy ``value`` with ``null`` at each place that ``mistakes`` complains of."""
    if not isinstance(mistakes, Mapping) or "_schema" in mistakes:
        return None
    if isinstance(value, Mapping):
        return {**value, **{name: _without(value.get(name), found) for name, found in mistakes.items()}}
    known = list(cast("list[Json]", value))
    for index, found in mistakes.items():
        known[index] = _without(known[index], found)
    return known


def _problems(mistakes: Mapping[str, object]) -> Iterator[Problem]:
    """Flatten marshmallow's nested report: ``{"steps": {3: {"id": [...]}}}`` becomes ``steps[3].id``."""
    todo: list[tuple[str, object]] = [("", mistakes)]
    while todo:
        path, found = todo.pop()
        if isinstance(found, Mapping):
            todo.extend((_below(path, key), inner) for key, inner in reversed(list(found.items())))
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
