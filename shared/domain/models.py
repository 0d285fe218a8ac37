"""The words of the domain as frozen values: DAGs, runs, steps, attempts, claims and outcomes.

Times are aware UTC datetimes, durations are integers of milliseconds with the
unit in the name, hashes are 64 lowercase hex digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from shared.domain.states import AttemptStatus, ErrorCode, RunOn, RunStatus, StepStatus

TenantId = NewType("TenantId", str)
DagId = NewType("DagId", str)
StepId = NewType("StepId", str)
RunId = NewType("RunId", UUID)
WorkerId = NewType("WorkerId", str)
Sha256 = NewType("Sha256", str)

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
JsonObject = Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a step is tried, and how long it waits between two tries. No jitter."""

    max_attempts: int = 1
    initial_delay_ms: int = 1_000
    max_delay_ms: int = 60_000
    multiplier: float = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """A step as published, defaults filled in."""

    id: StepId
    uses: str
    params: JsonObject
    when: str | None = None
    retry: RetryPolicy = RetryPolicy()
    timeout_ms: int = 3_600_000
    pool: str = "default"
    run_on: RunOn = RunOn.SUCCESS
    disabled: bool = False
    concurrency_key: str | None = None
    """What bounds, with ``metadata.concurrencyLimits``, how many steps of the tenant run at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSpec:
    """A validated DAG: ``steps`` in topological order (ties by id), ``edges`` as index pairs, sorted.

    ``refs[i]`` are the indexes of the ancestors whose outputs step ``i`` reads in
    ``with`` or ``when``; ``reads_inputs[i]`` tells whether it reads the run's inputs.
    """

    dag_id: DagId
    version: str
    steps: tuple[StepSpec, ...]
    edges: tuple[tuple[int, int], ...]
    metadata: JsonObject
    refs: tuple[tuple[int, ...], ...]
    reads_inputs: tuple[bool, ...]
    definition: JsonObject
    """The normal form that is hashed: ``{dagId, version, steps, edges, metadata}``, defaults filled in."""
    canonical: str
    """The same as canonical JSON: what is hashed, to the letter."""
    spec_hash: Sha256
    precedence: str
    """A text that sorts (byte order) as SemVer precedence does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DagVersion:
    """A DAG version as recorded. ``definition`` is ``None`` in lists."""

    dag_id: DagId
    version: str
    spec_hash: Sha256
    active: bool
    created_utc: datetime
    created_by: str
    disabled_utc: datetime | None
    step_count: int
    metadata: JsonObject
    definition: JsonObject | None
    signature: JsonObject | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as recorded."""

    run_id: RunId
    trace_id: str
    dag_id: DagId
    dag_version: str
    status: RunStatus
    inputs_hash: Sha256
    outputs_hash: Sha256 | None
    run_token: str | None
    created_by: str
    started_utc: datetime
    ended_utc: datetime | None
    cancel_requested_utc: datetime | None
    cancel_reason: str | None
    step_count: int
    open_steps: int
    failed_steps: int
    ledger_head: Sha256
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are wanted; they started at ``from_utc`` or later, before ``to_utc``."""

    dag_id: DagId | None = None
    status: RunStatus | None = None
    from_utc: datetime | None = None
    to_utc: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of a run as recorded.

    ``outputs`` is ``None`` in lists, and until it succeeded (``{}`` when skipped).
    """

    step_id: StepId
    step_no: int
    status: StepStatus
    uses: str
    pool: str
    attempt: int
    error_code: ErrorCode | None
    error_message: str | None
    inputs_hash: Sha256 | None
    outputs_hash: Sha256 | None
    outputs: JsonObject | None
    queued_utc: datetime | None
    started_utc: datetime | None
    ended_utc: datetime | None
    due_utc: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try of a step by one worker."""

    attempt: int
    status: AttemptStatus
    worker_id: WorkerId
    started_utc: datetime
    ended_utc: datetime | None
    error_code: ErrorCode | None
    error_message: str | None
    logs_ref: Sha256 | None
    outputs_hash: Sha256 | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLimits:
    """What a tenant may have. ``weight`` is its share of the fleet beside others; ``None`` is no limit."""

    weight: float = 1.0
    max_running_steps: int | None = None
    max_queued_steps: int | None = None


class AuditOutcome(StrEnum):
    """What became of a call that asked for a change."""

    ACCEPTED = "accepted"
    REPLAYED = "replayed"
    """The same call had been made before: it got the same answer, and nothing was changed."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who asked for which change of what, why, and what became of it.

    ``object`` is the path of what was to change (``/runs/<id>``). ``code`` is that of the refusal.
    """

    audit_id: UUID
    at_utc: datetime
    subject: str
    action: str
    object: str
    reason: str | None
    trace_id: str
    outcome: AuditOutcome
    status: int
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which lines of the audit trail are wanted: of ``from_utc`` or later, before ``to_utc``."""

    action: str | None = None
    from_utc: datetime | None = None
    to_utc: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """Bytes in the artifact store that a step wrote. ``name`` is a relative path, or ``log`` for the log."""

    name: str
    sha256: Sha256
    size_bytes: int
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """What an expression may see of an ancestor."""

    status: StepStatus
    outputs: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A step taken for one attempt: all that a worker needs to run it.

    ``attempt`` is the fencing token. ``tries`` counts the attempts that used up
    ``retry.max_attempts`` (this one included; lost and released ones are not counted).
    ``inputs`` is empty unless an expression of the step reads it; ``ancestors`` holds
    those that its expressions name. ``ahead`` are the steps of pure plugins that wait
    for nothing but this one, and then for each other, in that order.
    """

    tenant: TenantId
    run_id: RunId
    step_no: int
    step_id: StepId
    attempt: int
    tries: int
    dag_id: DagId
    dag_version: str
    trace_id: str
    uses: str
    params: JsonObject
    when: str | None
    retry: RetryPolicy
    timeout_ms: int
    pool: str
    inputs: JsonObject
    ancestors: Mapping[StepId, Ancestor]
    ahead: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The attempt did its work."""

    outputs: JsonObject
    outputs_hash: Sha256
    inputs_hash: Sha256
    logs_ref: Sha256 | None = None
    artifacts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed. ``retry_delay_ms`` is ``None`` when it must not be tried again."""

    error_code: ErrorCode
    error_message: str
    retry_delay_ms: int | None
    inputs_hash: Sha256 | None = None
    logs_ref: Sha256 | None = None
    artifacts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The attempt was stopped because its run is being cancelled."""

    logs_ref: Sha256 | None = None
    artifacts: tuple[ArtifactRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The attempt was stopped because its worker shuts down; the step is queued again at once."""

    logs_ref: Sha256 | None = None
    artifacts: tuple[ArtifactRef, ...] = ()


Outcome = Succeeded | Failed | Stopped | Released


@dataclass(frozen=True, slots=True, kw_only=True)
class RanAhead:
    """A step of a pure plugin that was run before anybody took it."""

    step_no: int
    outcome: Succeeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How an attempt ended, and what was run ahead after it: first attempts that all succeeded."""

    step_no: int
    attempt: int
    outcome: Outcome
    ahead: Sequence[RanAhead] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a worker process got settled in a run, and what has to happen after that commit.

    ``settled`` are the attempts whose endings were accepted, each as (step_no, attempt): the guard found that
    they held their steps. ``claims`` are the steps that the process has now; ``drained`` tells that some of
    them had been ready before. ``late`` tells that those may go on who have held their slots for long. The
    rest is as in :class:`Change`.
    """

    settled: frozenset[tuple[int, int]]
    claims: tuple[Claim, ...]
    drained: bool = False
    late: bool = False
    ready_pools: frozenset[str] = frozenset()
    undecided: bool = False
    run_ended: bool = False
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a transition did to the run, for what has to happen after its commit.

    ``accepted`` is false when the guard found another state: nothing was changed.
    ``ready_pools`` need a dispatch. ``undecided`` tells that steps wait for their ``when``
    to be evaluated. ``next`` is a step claimed in the same transaction (hand-off).
    ``keys`` are concurrency keys of which a place was left, or for which a step began to wait.
    ``to_stop`` tells that steps of a cancelled run may still run.
    """

    accepted: bool
    ready_pools: frozenset[str] = frozenset()
    undecided: bool = False
    next: Claim | None = None
    run_ended: bool = False
    keys: frozenset[str] = frozenset()
    to_stop: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """A pending step whose predecessors have ended and whose ``when`` decides now."""

    step_no: int
    step_id: StepId
    when: str
    inputs: JsonObject
    ancestors: Mapping[StepId, Ancestor]
