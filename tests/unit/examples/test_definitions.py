"""The examples' definitions, by all rules that publishing applies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator_worker.plugins.command import CommandPlugin
from shared.domain import definition
from shared.domain.models import DagSpec, JsonObject
from shared.errors import Problem
from shared.plugins import Catalog
from tests.unit.examples.audited import SCRIPTS

EXAMPLES = SCRIPTS.parents[1]
CATALOG = Catalog([CommandPlugin()])


def built(name: str) -> DagSpec:
    def check_uses(uses: str, params: JsonObject) -> list[Problem] | None:
        return CATALOG.check_params(uses, params) if CATALOG.find(uses) else None

    document: JsonObject = json.loads((EXAMPLES / name / "dag.json").read_text(encoding="utf-8"))
    return definition.build(document, check_uses=check_uses, pools=["default"])


@pytest.mark.parametrize("name", ["environment-audit", "flaky"])
def test_an_example_can_be_published_under_the_name_of_its_folder(name: str) -> None:
    assert built(name).dag_id == name


def test_the_audit_fans_out_and_joins() -> None:
    spec = built("environment-audit")
    assert len(spec.steps) >= 8
    edges = {(spec.steps[source].id, spec.steps[target].id) for source, target in spec.edges}
    shards = {f"compare-{n}" for n in range(4)}
    assert {target for source, target in edges if source == "plan"} == shards
    assert {source for source, target in edges if target == "report"} >= shards


def test_each_step_of_the_audit_runs_a_script_that_is_there() -> None:
    scripts = {path.name for path in SCRIPTS.glob("*.py")} - {"documents.py"}
    used = set()
    for step in built("environment-audit").steps:
        argv = step.params["argv"]
        assert isinstance(argv, list)
        used.add(Path(str(argv[2])).name)
    assert used == scripts
