"""Check a run's inputs against the schema that its DAG gives."""

from __future__ import annotations

from jsonschema import Draft202012Validator
from referencing import Registry

from shared.domain.models import JsonObject
from shared.errors import InvalidInputs, Problem

_MAX_PROBLEMS = 20


def check_inputs(schema: JsonObject, inputs: JsonObject) -> None:
    """Raise :class:`InvalidInputs` naming each place that breaks ``schema`` (JSON Schema 2020-12).

    References to other documents are not resolved: nothing is fetched.
    """
    problems: list[Problem] = []
    try:
        _collect(schema, inputs, problems)
    except RecursionError:
        problems.append(Problem("inputs", "the DAG's inputsSchema refers to itself without end"))
    if problems:
        raise InvalidInputs("the inputs do not match the DAG's inputsSchema", problems)


def _collect(schema: JsonObject, inputs: JsonObject, problems: list[Problem]) -> None:
    for error in Draft202012Validator(schema, registry=Registry()).iter_errors(inputs):
        place = "inputs" + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path
        )
        problems.append(Problem(place, error.message[:300]))
        if len(problems) == _MAX_PROBLEMS:
            return
