from __future__ import annotations

import time

import pytest

from orchestrator_api.schemas.dag import dag_document
from orchestrator_api.schemas.run import cancel_reason, nothing, start_run
from shared.domain.models import Json
from shared.errors import InputsTooLarge, InvalidDag, InvalidInput

STEP: dict[str, Json] = {
    "id": "a",
    "uses": "noop",
    "with": {"n": 1},
    "when": "true",
    "retry": {"maxAttempts": 2, "initialDelayMs": 0, "maxDelayMs": 10, "multiplier": 1.5},
    "timeoutMs": 1_000,
    "pool": "default",
    "runOn": "always",
    "disabled": False,
}
DAG: dict[str, Json] = {
    "dagId": "d",
    "version": "1.0.0",
    "steps": [STEP],
    "edges": [{"from": "a", "to": "b"}],
    "metadata": {"owner": "me", "inputsSchema": {}, "labels": {"any": "thing"}},
}


def fields_refused(document: object) -> list[str]:
    _, problems = dag_document(document)  # type: ignore[arg-type]
    return [problem.field for problem in problems]


def test_a_whole_definition_passes_unchanged() -> None:
    known, problems = dag_document(DAG)
    assert known is DAG
    assert not problems


@pytest.mark.parametrize("member", STEP)
@pytest.mark.parametrize("wrong", [None, [], 1.5, "", True, {"x": 1}])
def test_a_member_of_a_step_of_a_wrong_type_is_refused_by_place(member: str, wrong: object) -> None:
    right = STEP[member]
    if type(wrong) is type(right) and wrong != "" and member != "retry":
        return
    if member == "with" and isinstance(wrong, dict):
        return
    fields = fields_refused({**DAG, "steps": [{**STEP, member: wrong}]})
    assert fields
    assert all(field.startswith(f"steps[0].{member}") for field in fields)


@pytest.mark.parametrize(
    ("edge", "places"),
    [
        ({"from": "a"}, ["edges[0].to"]),
        ({"from": "a", "to": "b", "when": "x"}, ["edges[0].when"]),
        ({"from": 1, "to": None}, ["edges[0].from", "edges[0].to"]),
        ({}, ["edges[0].from", "edges[0].to"]),
        ("a", ["edges[0]"]),
        (None, ["edges[0]"]),
    ],
)
def test_an_edge_of_a_wrong_shape_is_refused_by_place(edge: object, places: list[str]) -> None:
    assert fields_refused({**DAG, "edges": [edge]}) == places


def test_counts_are_checked_before_anything_else() -> None:
    began = time.process_time()
    with pytest.raises(InvalidDag):
        dag_document({"steps": [{}] * 1_000_000})
    assert time.process_time() - began < 0.1


def test_inputs_are_measured_only_when_the_body_is_large() -> None:
    large: dict[str, Json] = {"dagId": "d", "inputs": {"text": "x" * 1_048_576}}
    with pytest.raises(InputsTooLarge):
        start_run(large, 1_048_600)
    spacious: dict[str, Json] = {"dagId": "d", "inputs": {"text": "x"}}
    wanted, problems = start_run(spacious, 2_000_000)
    assert wanted is not None
    assert wanted.inputs == {"text": "x"}
    assert not problems


def test_the_parts_of_a_start_default_to_nothing() -> None:
    wanted, _ = start_run({"dagId": "d"}, 14)
    assert wanted is not None
    assert (wanted.version, wanted.inputs, wanted.run_token) == (None, {}, None)


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"runToken": 1}, True),
        ({"colour": "red"}, True),
        ({"dagId": 1}, False),
        ({"dagId": ""}, False),
        ({"version": None}, False),
        ({"inputs": []}, False),
    ],
)
def test_a_misshapen_start_tells_whether_it_is_known_what_would_be_started(
    change: dict[str, Json], known: bool
) -> None:
    wanted, problems = start_run({"dagId": "d", **change}, 14)
    assert (wanted is not None) == known
    assert [problem.field for problem in problems] == list(change)


@pytest.mark.parametrize("body", [[], None, "x", {"why": "x"}, {"reason": 1}, {"reason": "x" * 1_001}])
def test_a_cancellation_takes_a_reason_and_nothing_else(body: object) -> None:
    with pytest.raises(InvalidInput):
        cancel_reason(body)  # type: ignore[arg-type]


def test_a_body_without_meaning_is_refused() -> None:
    nothing({})
    with pytest.raises(InvalidInput):
        nothing({"force": True})
