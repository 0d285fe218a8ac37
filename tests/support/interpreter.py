"""What a run must come to, by the plainest reading of the rules: the reference for the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.domain.models import DagSpec
from shared.domain.states import MAX_LOST_ATTEMPTS, RunOn

Ending = str
"""``succeeded``, or ``failed:CODE`` and ``skipped:CODE``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What each attempt of a step comes to (``ok``, ``fail``, ``retry``, ``lost``, ``released``; then
    ``ok``), and what its ``when`` says.
    """

    attempts: Sequence[str] = ()
    when: bool = True


def interpret(spec: DagSpec, scripts: Mapping[str, Script]) -> tuple[dict[str, Ending], dict[str, int]]:
    """Predict how each step ends, and how many attempts it takes, whatever the timing."""
    endings: dict[str, Ending] = {}
    attempts: dict[str, int] = {}
    for number, step in enumerate(spec.steps):
        script = scripts.get(step.id, Script())
        before = [endings[spec.steps[source].id] for source, target in spec.edges if target == number]
        upstream_failed = any(e.startswith("failed") or e == "skipped:UPSTREAM_FAILED" for e in before)
        attempts[step.id] = 0
        if step.run_on is RunOn.SUCCESS and upstream_failed:
            endings[step.id] = "skipped:UPSTREAM_FAILED"
        elif step.run_on is RunOn.FAILURE and not upstream_failed:
            endings[step.id] = "skipped:CONDITION_FALSE"
        elif step.disabled:
            endings[step.id] = "skipped:STEP_DISABLED"
        elif step.when is not None and not script.when:
            endings[step.id] = "skipped:CONDITION_FALSE"
        else:
            endings[step.id], attempts[step.id] = _attempts(script.attempts, step.retry.max_attempts)
    return endings, attempts


def _attempts(script: Sequence[str], max_attempts: int) -> tuple[Ending, int]:
    tries = lost = 0
    for number, what in enumerate([*script, "ok"], start=1):
        lost += what == "lost"
        tries += what in ("fail", "retry")
        if what == "ok":
            return "succeeded", number
        if lost == MAX_LOST_ATTEMPTS:
            return "failed:WORKER_LOST", number
        if what == "fail" or (what == "retry" and tries == max_attempts):
            return "failed:EXIT_STATUS", number
    raise AssertionError("a script ends in ok")
