"""Check a run's inputs against the schema that its DAG gives."""

from __future__ import annotations

from shared.domain.json_schema import problems_of
from shared.domain.models import JsonObject
from shared.errors import InvalidInputs, Problem

_MAX_PROBLEMS = 100


def check_inputs(schema: JsonObject, inputs: JsonObject) -> None:
    """Raise :class:`InvalidInputs` naming each place that breaks ``schema`` (JSON Schema 2020-12)."""
    problems = problems_of_inputs(schema, inputs)
    if problems:
        raise InvalidInputs("the inputs do not match the DAG's inputsSchema", problems)


def problems_of_inputs(schema: JsonObject, inputs: JsonObject) -> list[Problem]:
    """Name each place of ``inputs`` that breaks ``schema``."""
    return [
        Problem(f"inputs{problem.field}", problem.message)
        for problem in problems_of(schema, inputs, most=_MAX_PROBLEMS)
    ]
