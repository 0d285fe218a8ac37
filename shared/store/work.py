"""What a worker does with steps: settle (claim and complete), decide, renew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never
from uuid import UUID

from shared.domain.models import (
    Ancestor,
    ArtifactRef,
    Change,
    Claim,
    Ended,
    Failed,
    Json,
    JsonObject,
    Progress,
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
    """Who takes steps in the same transaction, from which pools, and how many.

    A claim is good for ``lease_ms``. As many as ``sure`` of the settled steps make way for a next one, and as
    many as ``late`` of them only if nobody waits for a slot of the ``pools``. There
    are ``free`` slots for some more of those that are unlocked together: for this ``share`` of them at most,
    which is that of the worker in the slots of the fleet. The worker runs ahead steps of the plugins that are
    ``pure``, by what ``uses`` says.
    """

    worker_id: WorkerId
    lease_ms: int
    pools: frozenset[str] = frozenset()
    pure: frozenset[str] = frozenset()
    sure: int = 0
    late: int = 0
    free: int = 0
    share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a worker process has to tell of a run: steps that messages ask it to claim, and endings."""

    run_id: RunId
    claims: Sequence[int] = ()
    ended: Sequence[Ended] = ()
    handoff: Handoff


def settle(cur: Cursor, tenant: TenantId, reports: Sequence[Report]) -> dict[RunId, Progress]:
    """Claim the queued steps that messages asked for, and take note of how attempts ended.

    Claiming is the only way a step becomes running: Redis may deliver a message twice, and the
    second claim finds no queued row. An ending is guarded by its attempt: a late one changes nothing.

    The reports are of different runs and of one worker. Of several those are left out that another
    transaction is at; a single one waits for its turn.
    """
    handoff = reports[0].handoff
    cur.execute(
        _SQL["settle"],
        {
            "tenant": tenant,
            "told": json.dumps([_told(place, report) for place, report in enumerate(reports)]),
            "share": handoff.share,
            "worker_id": handoff.worker_id,
            "lease_ms": handoff.lease_ms,
        },
    )
    told: dict[int, list[dict[str, Any]]] = {}
    for place, of_it in cur.fetchall():
        told.setdefault(place, []).append(of_it)
    return {
        reports[place].run_id: _progress(tenant, reports[place].run_id, rows) for place, rows in told.items()
    }


def _told(place: int, report: Report) -> JsonObject:
    handoff = report.handoff
    return {
        "place": place,
        "run_id": str(report.run_id),
        "claims": list(report.claims),
        # In the order in which leases are renewed: so neither waits for the other in a circle.
        "ended": [_ending(one) for one in sorted(report.ended, key=_step_no)],
        "pools": list(handoff.pools),
        "pure": list(handoff.pure),
        "sure": handoff.sure,
        "late": handoff.late,
        "free": handoff.free,
    }


def _progress(tenant: TenantId, run_id: RunId, rows: Sequence[Mapping[str, Any]]) -> Progress:
    first = rows[0]
    taken = (_taken(tenant, run_id, row["claimed"], row["ahead"] or ()) for row in rows if row["claimed"])
    return Progress(
        settled=frozenset((step_no, attempt) for step_no, attempt in first["settled"]),
        ready_pools=frozenset(first["ready_pools"]),
        drained=bool(first["drained"]),
        late=bool(first["late"]),
        undecided=bool(first["undecided"]),
        # NULL: there is no such run.
        run_ended=first["run_status"] is not None and RunStatus(first["run_status"]).is_terminal,
        keys=frozenset(first["keys"]),
        claims=tuple(claim for claim in taken if claim is not None),
    )


def _taken(tenant: TenantId, run_id: RunId, claimed: JsonObject, ahead: Sequence[JsonObject]) -> Claim | None:
    claim = _claim(tenant, run_id, tuple(claimed.values()))
    if claim is None or not ahead:
        return claim
    following = (_claim(tenant, run_id, tuple(one.values())) for one in ahead)
    return replace(claim, ahead=tuple(one for one in following if one is not None))


def _step_no(ended: Ended) -> int:
    return ended.step_no


def _ending(ended: Ended) -> JsonObject:
    outcome = ended.outcome
    told: dict[str, Json] = {"step_no": ended.step_no, "attempt": ended.attempt}
    if outcome.logs_ref is not None:
        told["logs_ref"] = outcome.logs_ref
    if outcome.artifacts:
        told["artifacts"] = [_artifact(artifact) for artifact in outcome.artifacts]
    match outcome:
        case Succeeded():
            told |= {"ending": "succeeded", **_success(outcome)}
            if ended.ahead:
                told["ahead"] = [{"step_no": ran.step_no, **_success(ran.outcome)} for ran in ended.ahead]
        case Failed():
            told |= {
                "ending": "failed" if outcome.retry_delay_ms is None else "retrying",
                "inputs_hash": outcome.inputs_hash,
                "error_code": outcome.error_code,
                "error_message": outcome.error_message,
                "delay_ms": outcome.retry_delay_ms,
            }
        case Stopped():
            told |= {"ending": "cancelled", "error_code": "CANCELLED"}
        case Released():
            told["ending"] = "released"
        case _:
            assert_never(outcome)
    return told


def _success(outcome: Succeeded) -> JsonObject:
    return {
        "outputs": outcome.outputs,
        "outputs_hash": outcome.outputs_hash,
        "inputs_hash": outcome.inputs_hash,
    }


def _artifact(artifact: ArtifactRef) -> JsonObject:
    return {
        "name": artifact.name,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "content_type": artifact.content_type,
    }


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
