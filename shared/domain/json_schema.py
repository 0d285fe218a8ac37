"""JSON Schemas (2020-12) that a DAG or a plugin brings along: sound, complete, and bounded in cost.

The validator is in Rust: it fetches nothing, has no recursion of Python's to run out of, and
matches a DAG's patterns in linear time, so that no tenant's schema can hold up a process of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from jsonschema_rs import (
    Draft202012Validator,
    FancyRegexOptions,
    ReferencingError,
    RegexOptions,
    Registry,
    ValidationError,
)

from shared.domain.models import Json, JsonObject
from shared.errors import Problem

MASK = "the value"
"""What messages say in place of a value, which could be a secret: they end in answers and in the ledger."""
_MAX_MESSAGE = 300
_REFERENCES = ("$ref", "$dynamicRef")
_ROOT = "urn:schema"


def compile_schema(schema: JsonObject, *, trusted: bool = False) -> Draft202012Validator:
    """Make a schema ready for use; raises ``ValidationError`` when it is no sound one.

    A trusted one, of a plugin that the operator has installed, may have patterns
    that look around, which take more than linear time.
    """
    patterns = FancyRegexOptions() if trusted else RegexOptions()
    return Draft202012Validator(dict(schema), offline=True, pattern_options=patterns, mask=MASK)


def check_schema(schema: JsonObject) -> list[Problem]:
    """Tell what is wrong with ``schema``; fields are places within it.

    A reference must lead to a place in the same schema: nothing is ever fetched.
    """
    problems = list(_lost_references(schema))
    if problems:
        return problems
    try:
        compile_schema(schema)
    except ValidationError as error:
        return [Problem(_place(error.instance_path), first_line(error.message))]
    except ValueError as error:
        # Such as a nesting that the validator does not go into.
        return [Problem("", first_line(str(error)))]
    return []


def problems_of(schema: JsonObject, value: Json, *, most: int) -> list[Problem]:
    """Tell at most ``most`` places of ``value`` that break ``schema``; fields are places within it."""
    errors = compile_schema(schema).iter_errors(value)
    return [Problem(_place(e.instance_path), first_line(e.message)) for e in islice(errors, most)]


def first_line(message: str) -> str:
    """Cut a message of the validator to a line of a bounded length."""
    return message.split("\n", 1)[0][:_MAX_MESSAGE]


def _lost_references(schema: JsonObject) -> Iterator[Problem]:
    for place, name, reference in _references(schema):
        try:
            if reference.startswith("#"):
                Registry([(_ROOT, dict(schema))]).resolver(_ROOT).lookup(reference)
                continue
        except ReferencingError:
            pass
        yield Problem(place, f"{name} must lead to a place in this schema")


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
