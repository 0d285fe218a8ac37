"""Steps and attempts in the ledger, as read by people and clients."""

from __future__ import annotations

from collections.abc import Iterator

from shared.domain.models import Attempt, RunId, Step, StepId, TenantId
from shared.domain.states import AttemptStatus, ErrorCode, StepStatus
from shared.store.db import Cursor, Row, Snapshot
from shared.store.queries import load

_SQL = load("steps")


def list_steps(cur: Cursor, tenant: TenantId, run_id: RunId, *, after_no: int, limit: int) -> list[Step]:
    """Read a page of a run's steps in topological order, after ``after_no`` (-1: from the first)."""
    cur.execute(_SQL["list_steps"], _listed(tenant, run_id, after_no, limit))
    return [as_step(row) for row in cur.fetchall()]


def stream_steps(snapshot: Snapshot, tenant: TenantId, run_id: RunId) -> Iterator[Step]:
    """Read all steps of a run in topological order, few of them in memory at a time."""
    return map(as_step, snapshot.stream(_SQL["list_steps"], _listed(tenant, run_id, -1, None)))


def _listed(tenant: TenantId, run_id: RunId, after_no: int, limit: int | None) -> dict[str, object]:
    return {"tenant": tenant, "run_id": str(run_id), "after_no": after_no, "max_rows": limit}


def get_step(cur: Cursor, tenant: TenantId, run_id: RunId, step_id: StepId) -> Step | None:
    """Read one step of a run."""
    cur.execute(_SQL["get_step"], {"tenant": tenant, "run_id": str(run_id), "step_id": step_id})
    row = cur.fetchone()
    return None if row is None else as_step(row)


def list_attempts(cur: Cursor, tenant: TenantId, run_id: RunId, step_no: int) -> list[Attempt]:
    """Read the attempts of a step, first to last."""
    cur.execute(_SQL["list_attempts"], {"tenant": tenant, "run_id": str(run_id), "step_no": step_no})
    return [as_attempt(row) for row in cur.fetchall()]


def _error_code(value: str | None) -> ErrorCode | None:
    return None if value is None else ErrorCode(value)


def as_step(row: Row) -> Step:
    """Give the columns of a query of whole steps their types."""
    return Step(
        step_id=row[0],
        step_no=row[1],
        status=StepStatus(row[2]),
        uses=row[3],
        pool=row[4],
        attempt=row[5],
        error_code=_error_code(row[6]),
        error_message=row[7],
        inputs_hash=row[8],
        outputs_hash=row[9],
        outputs=row[10],
        queued_utc=row[11],
        started_utc=row[12],
        ended_utc=row[13],
        due_utc=row[14],
    )


def as_attempt(row: Row) -> Attempt:
    """Give the columns of a query of attempts their types."""
    return Attempt(
        attempt=row[0],
        status=AttemptStatus(row[1]),
        worker_id=row[2],
        started_utc=row[3],
        ended_utc=row[4],
        error_code=_error_code(row[5]),
        error_message=row[6],
        logs_ref=row[7],
        outputs_hash=row[8],
    )
