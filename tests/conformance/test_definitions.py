"""Every file beside this one is a DAG definition and what must become of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest
from _pytest.mark.structures import ParameterSet

from orchestrator_api.schemas.dag import dag_document
from shared.domain.definition import build
from shared.domain.findings import Findings
from shared.domain.json_schema import problems_of
from shared.domain.models import DagSpec, JsonObject
from shared.errors import DagCycle, InvalidDag, Problem, UnknownPlugin

HERE = Path(__file__).parent
CODES: dict[type[InvalidDag], str] = {DagCycle: "DAG_CYCLE", UnknownPlugin: "UNKNOWN_PLUGIN"}
STRICT: JsonObject = {
    "properties": {"argv": {"type": "array", "items": {"type": "string"}}},
    "required": ["argv"],
}


def _check_uses(uses: str, params: JsonObject) -> Sequence[Problem] | None:
    """Stand for an installation with two plugins: one takes anything, one a list of texts."""
    if uses in ("noop", "noop@1.0.0"):
        return []
    if uses != "strict":
        return None
    return [Problem(p.field.removeprefix("."), "wrong") for p in problems_of(STRICT, params, most=10)]


def _build(document: JsonObject) -> DagSpec:
    known, misshapen = dag_document(document)
    return build(known, check_uses=_check_uses, pools=("default", "gpu"), findings=Findings(misshapen))


class Case(TypedDict):
    """A file of ``accepted`` (with ``order``) or ``rejected`` (with ``code`` and ``fields``)."""

    why: str
    dag: JsonObject
    order: NotRequired[list[str]]
    code: NotRequired[str]
    fields: NotRequired[list[str]]


def _cases(folder: str) -> list[ParameterSet]:
    paths = sorted((HERE / folder).glob("*.json"))
    return [pytest.param(json.loads(path.read_text("utf-8")), id=path.stem) for path in paths]


@pytest.mark.parametrize("case", _cases("accepted"))
def test_accepted(case: Case) -> None:
    spec = _build(case["dag"])
    assert [step.id for step in spec.steps] == case["order"]


@pytest.mark.parametrize("case", _cases("accepted"))
def test_the_normal_form_of_an_accepted_definition_is_its_own_normal_form(case: Case) -> None:
    spec = _build(case["dag"])
    assert _build(spec.definition) == spec


@pytest.mark.parametrize("case", _cases("rejected"))
def test_rejected(case: Case) -> None:
    with pytest.raises(InvalidDag) as caught:
        _build(case["dag"])
    assert CODES.get(type(caught.value), "VALIDATION_FAILED") == case["code"]
    assert [problem.field for problem in caught.value.problems] == case["fields"]
    assert all(problem.message for problem in caught.value.problems)
