from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.domain.states import TERMINAL, TRANSITIONS, RunStatus, StepStatus, is_legal

PAGE = (Path(__file__).parents[3] / "docs" / "state_machine.md").read_text("utf-8")
RUN_DIAGRAM, STEP_DIAGRAM = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
ARROW = re.compile(r"^\s*(\S+) --> (\S+?)(?: : (.+))?$", re.MULTILINE)


def test_the_diagram_of_a_step_has_the_transitions_of_the_table_and_no_others() -> None:
    drawn = [
        (verb, source, target)
        for source, target, verb in ARROW.findall(STEP_DIAGRAM)
        if "[*]" not in (source, target)
    ]
    assert sorted(drawn) == sorted((t.verb, t.source.value, t.target.value) for t in TRANSITIONS)


def test_the_diagram_of_a_step_begins_pending_and_ends_in_the_terminal_states() -> None:
    arrows = ARROW.findall(STEP_DIAGRAM)
    assert [target for source, target, _ in arrows if source == "[*]"] == [StepStatus.PENDING]
    assert {source for source, target, _ in arrows if target == "[*]"} == TERMINAL


def test_the_diagram_of_a_run_leaves_running_for_each_terminal_state() -> None:
    drawn = {
        (source, target) for source, target, _ in ARROW.findall(RUN_DIAGRAM) if "[*]" not in (source, target)
    }
    assert drawn == {(RunStatus.RUNNING, status) for status in RunStatus if status.is_terminal}


def test_the_table_of_verbs_has_the_transitions_of_the_code_and_no_others() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (\w+) \|", PAGE, re.MULTILINE)
    written = [(verb, source, target) for verb, sources, target in rows for source in sources.split(", ")]
    assert sorted(written) == sorted((t.verb, t.source.value, t.target.value) for t in TRANSITIONS)


@pytest.mark.parametrize("status", StepStatus)
def test_a_step_leaves_every_state_but_the_terminal_ones(status: StepStatus) -> None:
    leaves = any(is_legal(status, target) for target in StepStatus)
    assert leaves is not status.is_terminal


def test_every_state_can_be_reached_from_pending() -> None:
    reached = {StepStatus.PENDING}
    for _ in StepStatus:
        reached |= {t.target for t in TRANSITIONS if t.source in reached}
    assert reached == set(StepStatus)
