"""What a run is, by the plainest reading of the rules: a dictionary of steps and a few verbs."""

from __future__ import annotations

from dataclasses import dataclass, field

from shared.domain.models import DagSpec
from shared.domain.states import MAX_LOST_ATTEMPTS, RunOn
from shared.domain.states import RunStatus as R
from shared.domain.states import StepStatus as S

TERMINAL = {S.SUCCEEDED, S.FAILED, S.SKIPPED, S.CANCELLED}
UPSTREAM_FAILED = "UPSTREAM_FAILED"


@dataclass
class ModelStep:
    status: S = S.PENDING
    attempt: int = 0
    lost: int = 0
    released: int = 0
    undecided: bool = False
    skipped_for: str | None = None

    @property
    def counts_as_failed(self) -> bool:
        return self.status is S.FAILED or self.skipped_for == UPSTREAM_FAILED


@dataclass
class ModelRun:
    """One run. Every verb tells whether it was taken; one that was not has changed nothing."""

    spec: DagSpec
    steps: list[ModelStep] = field(init=False)
    cancelled: bool = False
    unlocked: set[int] = field(default_factory=set)
    """What the last verb made ready."""

    def __post_init__(self) -> None:
        self.steps = [ModelStep() for _ in self.spec.steps]
        self._settle()

    @property
    def status(self) -> R:
        if any(step.status not in TERMINAL for step in self.steps):
            return R.RUNNING
        if self.cancelled:
            return R.CANCELLED
        return R.FAILED if any(step.status is S.FAILED for step in self.steps) else R.COMPLETED

    def holds(self, number: int, attempt: int) -> bool:
        """Tell whether this attempt, and no later one, has the step."""
        step = self.steps[number]
        return step.status is S.RUNNING and step.attempt == attempt

    def claim(self, number: int) -> bool:
        step = self.steps[number]
        if step.status is not S.QUEUED or self.cancelled:
            return False
        step.status, step.attempt = S.RUNNING, step.attempt + 1
        return True

    def complete(self, number: int, attempt: int, ending: str) -> bool:
        """End an attempt: ``succeeded``, ``failed``, ``retrying``, ``released`` or ``cancelled``."""
        if not self.holds(number, attempt):
            return False
        step = self.steps[number]
        step.released += ending == "released"
        waits = {"retrying": S.RETRYING, "released": S.QUEUED}
        step.status = S.CANCELLED if ending in waits and self.cancelled else waits.get(ending) or S(ending)
        self._settle()
        return True

    def lose(self, number: int) -> None:
        """Take a step away from the attempt that holds it, whose lease ran out."""
        step = self.steps[number]
        step.lost += 1
        step.status = S.QUEUED
        if self.cancelled:
            step.status = S.CANCELLED
        elif step.lost >= MAX_LOST_ATTEMPTS:
            step.status = S.FAILED
        self._settle()

    def wake(self) -> None:
        for step in self.steps:
            if step.status is S.RETRYING:
                step.status = S.QUEUED

    def decide(self, number: int, *, run: bool) -> bool:
        step = self.steps[number]
        if not step.undecided:
            return False
        step.undecided = False
        step.status = S.QUEUED if run else S.SKIPPED
        self._settle()
        if run:
            self.unlocked.add(number)
        return True

    def cancel(self) -> None:
        if self.status is R.RUNNING and not self.cancelled:
            self.cancelled = True
            for step in self.steps:
                if step.status in (S.PENDING, S.QUEUED, S.RETRYING):
                    step.status, step.undecided = S.CANCELLED, False

    def _settle(self) -> None:
        """Unlock, skip or leave to its ``when`` each pending step that nothing is open before."""
        self.unlocked = set()
        for number, (step, spec) in enumerate(zip(self.steps, self.spec.steps, strict=True)):
            before = [self.steps[source] for source, target in self.spec.edges if target == number]
            if step.status is not S.PENDING or step.undecided:
                continue
            if any(each.status not in TERMINAL for each in before):
                continue
            failed = any(each.counts_as_failed for each in before)
            if spec.run_on is RunOn.SUCCESS and failed:
                step.status, step.skipped_for = S.SKIPPED, UPSTREAM_FAILED
            elif (spec.run_on is RunOn.FAILURE and not failed) or spec.disabled:
                step.status = S.SKIPPED
            elif spec.when is not None:
                step.undecided = True
            else:
                step.status = S.QUEUED
                self.unlocked.add(number)
