"""The states of runs, steps and attempts, and the only transitions between a step's states.

States are adjectives, transitions are verbs. ``TRANSITIONS`` is the one table:
the CHECK constraints of the ledger and the diagram in ``docs/state_machine.md``
are held against it by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class RunStatus(StrEnum):
    """How far a run has come. A run leaves ``RUNNING`` once and never comes back."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self is not RunStatus.RUNNING


class StepStatus(StrEnum):
    """Where a step of a run stands."""

    PENDING = "pending"
    """Waits for predecessors, or for its ``when`` to be evaluated."""
    QUEUED = "queued"
    """Ready: a worker may claim it."""
    RUNNING = "running"
    """A worker holds it by an attempt with a lease."""
    RETRYING = "retrying"
    """The last attempt failed; it is queued again when its due time comes."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})


class AttemptStatus(StrEnum):
    """How an attempt ended. ``LOST`` and ``RELEASED`` do not use up ``maxAttempts``."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its lease ran out: the worker died or was cut off."""
    RELEASED = "released"
    """Its worker was told to stop and gave the step back."""


class RunOn(StrEnum):
    """Which endings of the predecessors let a step run."""

    SUCCESS = "success"
    FAILURE = "failure"
    ALWAYS = "always"


class ErrorCode(StrEnum):
    """Why a step failed, was skipped or was cancelled."""

    TIMEOUT = "TIMEOUT"
    EXIT_STATUS = "EXIT_STATUS"
    HTTP_STATUS = "HTTP_STATUS"
    PLUGIN_ERROR = "PLUGIN_ERROR"
    EXPRESSION_ERROR = "EXPRESSION_ERROR"
    OUTPUTS_TOO_LARGE = "OUTPUTS_TOO_LARGE"
    WORKER_LOST = "WORKER_LOST"
    CANCELLED = "CANCELLED"
    CONDITION_FALSE = "CONDITION_FALSE"
    STEP_DISABLED = "STEP_DISABLED"
    UPSTREAM_FAILED = "UPSTREAM_FAILED"
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"
    SECRET_NOT_FOUND = "SECRET_NOT_FOUND"


@dataclass(frozen=True, slots=True)
class Transition:
    """One legal change of a step's state, and the verb that makes it."""

    verb: str
    source: StepStatus
    target: StepStatus


TRANSITIONS: tuple[Transition, ...] = (
    Transition("unlock", StepStatus.PENDING, StepStatus.QUEUED),
    Transition("skip", StepStatus.PENDING, StepStatus.SKIPPED),
    Transition("claim", StepStatus.QUEUED, StepStatus.RUNNING),
    Transition("succeed", StepStatus.RUNNING, StepStatus.SUCCEEDED),
    Transition("fail", StepStatus.RUNNING, StepStatus.FAILED),
    Transition("retry_later", StepStatus.RUNNING, StepStatus.RETRYING),
    Transition("wake", StepStatus.RETRYING, StepStatus.QUEUED),
    Transition("rescue", StepStatus.RUNNING, StepStatus.QUEUED),
    Transition("rescue", StepStatus.RUNNING, StepStatus.FAILED),
    Transition("release", StepStatus.RUNNING, StepStatus.QUEUED),
    Transition("cancel", StepStatus.PENDING, StepStatus.CANCELLED),
    Transition("cancel", StepStatus.QUEUED, StepStatus.CANCELLED),
    Transition("cancel", StepStatus.RETRYING, StepStatus.CANCELLED),
    Transition("cancel", StepStatus.RUNNING, StepStatus.CANCELLED),
)

MAX_LOST_ATTEMPTS = 5
"""A step whose attempts were lost this often fails with ``WORKER_LOST``."""


def is_legal(source: StepStatus, target: StepStatus) -> bool:
    """Tell whether the table has a transition from ``source`` to ``target``."""
    return any(t.source is source and t.target is target for t in TRANSITIONS)
