"""What a worker does with steps: claim, complete, decide, renew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

from shared.domain.models import (
    Ancestor,
    ArtifactRef,
    Change,
    Claim,
    Failed,
    JsonObject,
    Outcome,
    Released,
    RetryPolicy,
    RunId,
    StepId,
    Stopped,
    Succeeded,
    TenantId,
    Undecided,
    WorkerId,
)
from shared.domain.states import RunStatus, StepStatus
from shared.store.db import Cursor, Row, one
from shared.store.queries import load

_SQL = load("work")


@dataclass(frozen=True, slots=True)
class Held:
    """A step that this process holds by an attempt."""

    tenant: TenantId
    run_id: RunId
    step_no: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What became of a lease: still valid or taken away, and whether the run is being cancelled."""

    held: Held
    valid: bool
    cancel_requested: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """Who takes an unlocked step in the same transaction, from which pools; no pools: nobody."""

    pools: frozenset[str]
    worker_id: WorkerId
    lease_ms: int


def claim(
    cur: Cursor, tenant: TenantId, run_id: RunId, step_no: int, *, worker_id: WorkerId, lease_ms: int
) -> Claim | None:
    """Take a queued step for one attempt with a lease of ``lease_ms``.

    Claiming is the only way a step becomes running. Redis may deliver a message
    twice; the second claim finds no queued row and returns ``None``.
    """
    cur.execute(
        _SQL["claim"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "step_no": step_no,
            "worker_id": worker_id,
            "lease_ms": lease_ms,
        },
    )
    return _claim(tenant, run_id, one(cur.fetchone()))


def complete(
    cur: Cursor,
    tenant: TenantId,
    run_id: RunId,
    step_no: int,
    attempt: int,
    outcome: Outcome,
    handoff: Handoff,
) -> Change:
    """Take note of how an attempt ended, guarded by the attempt: a late one changes nothing."""
    cur.execute(
        _SQL["complete"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "step_no": step_no,
            "attempt": attempt,
            "logs_ref": outcome.logs_ref,
            "handoff_pools": list(handoff.pools),
            "worker_id": handoff.worker_id,
            "lease_ms": handoff.lease_ms,
            **_ending(outcome),
        },
    )
    return _change(tenant, run_id, one(cur.fetchone()))


_NOTHING: Mapping[str, object] = {
    "outputs": None,
    "outputs_hash": None,
    "inputs_hash": None,
    "error_code": None,
    "error_message": None,
    "delay_ms": None,
    "artifacts": None,
}


def _ending(outcome: Outcome) -> dict[str, object]:
    match outcome:
        case Succeeded():
            return {
                **_NOTHING,
                "ending": "succeeded",
                "outputs": json.dumps(outcome.outputs),
                "outputs_hash": outcome.outputs_hash,
                "inputs_hash": outcome.inputs_hash,
                "artifacts": _artifacts(outcome.artifacts),
            }
        case Failed():
            return {
                **_NOTHING,
                "ending": "failed" if outcome.retry_delay_ms is None else "retrying",
                "inputs_hash": outcome.inputs_hash,
                "error_code": outcome.error_code,
                "error_message": outcome.error_message,
                "delay_ms": outcome.retry_delay_ms,
                "artifacts": _artifacts(outcome.artifacts),
            }
        case Stopped():
            return {
                **_NOTHING,
                "ending": "cancelled",
                "error_code": "CANCELLED",
                "artifacts": _artifacts(outcome.artifacts),
            }
        case Released():
            return {**_NOTHING, "ending": "released", "artifacts": _artifacts(outcome.artifacts)}
        case _:
            assert_never(outcome)


def _artifacts(artifacts: Sequence[ArtifactRef]) -> str | None:
    if not artifacts:
        return None
    return json.dumps(
        [
            {"name": a.name, "sha256": a.sha256, "size_bytes": a.size_bytes, "content_type": a.content_type}
            for a in artifacts
        ]
    )


def list_undecided(cur: Cursor, tenant: TenantId, run_id: RunId) -> list[Undecided]:
    """Read the steps of a run that wait for their ``when``, with all that it may look at."""
    cur.execute(_SQL["list_undecided"], {"tenant": tenant, "run_id": str(run_id)})
    return [
        Undecided(
            step_no=row[0], step_id=row[1], when=row[2], inputs=row[3] or {}, ancestors=_ancestors(row[4])
        )
        for row in cur.fetchall()
    ]


def decide(
    cur: Cursor,
    tenant: TenantId,
    run_id: RunId,
    *,
    unlock: Sequence[int],
    skip: Sequence[int],
    handoff: Handoff,
) -> Change:
    """Unlock or skip undecided steps by what their ``when`` said; decided ones stay as they are."""
    cur.execute(
        _SQL["decide"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "unlock": list(unlock),
            "skip": list(skip),
            "handoff_pools": list(handoff.pools),
            "worker_id": handoff.worker_id,
            "lease_ms": handoff.lease_ms,
        },
    )
    return _change(tenant, run_id, one(cur.fetchone()))


def renew(cur: Cursor, held: Sequence[Held], *, lease_ms: int) -> list[Renewal]:
    """Renew leases of ``lease_ms`` from now, all in one statement; one answer for each."""
    ordered = sorted(held, key=lambda h: (h.tenant, h.run_id, h.step_no))
    cur.execute(
        _SQL["renew"],
        {
            "tenants": [h.tenant for h in ordered],
            "run_ids": [str(h.run_id) for h in ordered],
            "step_nos": [h.step_no for h in ordered],
            "attempts": [h.attempt for h in ordered],
            "lease_ms": lease_ms,
        },
    )
    cancelled = {
        Held(TenantId(row[0]), RunId(UUID(row[1])), row[2], row[3]): bool(row[4]) for row in cur.fetchall()
    }
    return [Renewal(held=h, valid=h in cancelled, cancel_requested=cancelled.get(h, False)) for h in ordered]


def _change(tenant: TenantId, run_id: RunId, row: Row) -> Change:
    if not row[0]:
        return Change(accepted=False)
    return Change(
        accepted=True,
        ready_pools=frozenset(row[1]),
        undecided=bool(row[2]),
        run_ended=RunStatus(row[3]).is_terminal,
        next=_claim(tenant, run_id, row[4:]),
        keys=frozenset(row[22]),
    )


def _claim(tenant: TenantId, run_id: RunId, row: Row) -> Claim | None:
    if row[0] is None:
        return None
    return Claim(
        tenant=tenant,
        run_id=run_id,
        step_no=row[0],
        step_id=row[1],
        attempt=row[2],
        tries=row[3],
        dag_id=row[4],
        dag_version=row[5],
        trace_id=row[6],
        uses=row[7],
        params=row[8],
        when=row[9],
        retry=RetryPolicy(
            max_attempts=row[10], initial_delay_ms=row[11], max_delay_ms=row[12], multiplier=row[13]
        ),
        timeout_ms=row[14],
        pool=row[15],
        inputs=row[16] or {},
        ancestors=_ancestors(row[17]),
    )


def _ancestors(value: Mapping[str, JsonObject] | None) -> dict[StepId, Ancestor]:
    ancestors: dict[StepId, Ancestor] = {}
    for step_id, seen in (value or {}).items():
        outputs = seen["outputs"]
        if not isinstance(outputs, Mapping):
            raise TypeError(f"outputs of {step_id} are no object")
        ancestors[StepId(step_id)] = Ancestor(status=StepStatus(str(seen["status"])), outputs=outputs)
    return ancestors
