"""Inputs against the schema of a DAG, which any tenant may write."""

from __future__ import annotations

import time

import pytest

from shared.domain.inputs import check_inputs
from shared.domain.models import JsonObject
from shared.errors import InvalidInputs, Problem


def test_each_place_is_named() -> None:
    schema: JsonObject = {"properties": {"names": {"items": {"type": "string"}}}, "required": ["day"]}
    with pytest.raises(InvalidInputs) as raised:
        check_inputs(schema, {"names": ["a", 7]})
    assert raised.value.problems == (
        Problem("inputs", '"day" is a required property'),
        Problem("inputs.names[1]", 'the value is not of type "string"'),
    )


def test_a_schema_that_refers_to_itself_ends() -> None:
    check_inputs({"$ref": "#"}, {"anything": [1, 2, 3]})


def test_a_pattern_that_would_backtrack_for_ever_is_refused_in_no_time() -> None:
    begun = time.process_time()
    with pytest.raises(InvalidInputs):
        check_inputs({"properties": {"x": {"pattern": "^(a+)+$"}}}, {"x": "a" * 64 + "!"})
    assert time.process_time() - begun < 1
