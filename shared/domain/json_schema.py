"""Whether a JSON Schema that a DAG brings along can be used: sound, and complete in itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, Schema

from shared.domain.models import Json, JsonObject
from shared.errors import Problem

_MAX_MESSAGE = 300
_REFERENCES = ("$ref", "$dynamicRef")


def check_schema(schema: JsonObject) -> list[Problem]:
    """Tell what is wrong with ``schema`` (JSON Schema 2020-12); fields are places within it.

    A reference must lead to a place in the same schema: nothing is ever fetched,
    and one that leads nowhere would be found only when a run starts.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return [Problem(_place(error.absolute_path), error.message[:_MAX_MESSAGE])]
    except RecursionError:
        return [Problem("", "is nested too deeply")]
    problems = []
    root: Schema = dict(schema)
    registry: Registry[Schema] = Registry()
    resolver = registry.resolver_with_root(DRAFT202012.create_resource(root))
    for place, name, reference in _references(schema):
        try:
            if reference.startswith("#"):
                resolver.lookup(reference)
                continue
        except Unresolvable:
            pass
        problems.append(Problem(place, f"{name} must lead to a place in this schema"))
    return problems


def _references(schema: JsonObject) -> Iterator[tuple[str, str, str]]:
    left: list[tuple[tuple[str | int, ...], Json]] = [((), schema)]
    while left:
        path, value = left.pop()
        if isinstance(value, Mapping):
            for key, member in value.items():
                if key in _REFERENCES and isinstance(member, str):
                    yield _place((*path, key)), key, member
                left.append(((*path, key), member))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            left.extend(((*path, i), member) for i, member in enumerate(value))


def _place(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
