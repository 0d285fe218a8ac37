"""Why a step is where it is, in the ledger."""

from __future__ import annotations

from uuid import UUID

from shared.domain.explanation import Active, Facts, Fleet
from shared.domain.models import RunId, StepId, TenantId
from shared.domain.states import ErrorCode, StepStatus
from shared.store.db import Cursor, Row, one
from shared.store.queries import load

_SQL = load("explain")


def get_facts(cur: Cursor, tenant: TenantId, run_id: RunId, step_id: StepId) -> Facts | None:
    """Read what the ledger knows of one step."""
    cur.execute(_SQL["get_facts"], {"tenant": tenant, "run_id": str(run_id), "step_id": step_id})
    row = cur.fetchone()
    if row is None:
        return None
    return Facts(
        step_no=row[0],
        status=StepStatus(row[1]),
        attempt=row[2],
        pool=row[3],
        waiting=row[4],
        undecided=row[5],
        queued_utc=row[6],
        sent_utc=row[7],
        due_utc=row[8],
        ended_utc=row[9],
        error_code=None if row[10] is None else ErrorCode(row[10]),
        error_message=row[11],
        cancel_requested_utc=row[12],
        cancel_reason=row[13],
        key=row[14],
        places=row[15],
        waits_for_place=row[16],
    )


def open_predecessors(
    cur: Cursor, tenant: TenantId, run_id: RunId, step_no: int, *, limit: int
) -> list[tuple[StepId, StepStatus]]:
    """Read the first predecessors of a step that have not ended, in topological order."""
    cur.execute(
        _SQL["open_predecessors"],
        {"tenant": tenant, "run_id": str(run_id), "step_no": step_no, "max_rows": limit},
    )
    return [(row[0], StepStatus(row[1])) for row in cur.fetchall()]


def count_ahead(cur: Cursor, tenant: TenantId, run_id: RunId, facts: Facts, *, at_most: int) -> int:
    """Count the tenant's queued steps that come before this one in its pool, up to about ``at_most``."""
    cur.execute(
        _SQL["count_ahead"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "step_no": facts.step_no,
            "pool": facts.pool,
            "queued_utc": facts.queued_utc,
            "sent_utc": facts.sent_utc,
            "max_rows": at_most,
        },
    )
    return int(one(cur.fetchone())[0])


def listeners(cur: Cursor, pool: str | None) -> Fleet:
    """Count the workers heard of lately that listen on a pool; all, when none is named."""
    cur.execute(_SQL["listeners"], {"pool": pool})
    row = one(cur.fetchone())
    return Fleet(workers=int(row[0]), slots=int(row[1]))


def count_in_line(cur: Cursor, tenant: TenantId, run_id: RunId, facts: Facts, *, at_most: int) -> int:
    """Count the steps that have waited for longer than this one for a place of its key, up to ``at_most``."""
    cur.execute(
        _SQL["count_in_line"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "step_no": facts.step_no,
            "key": facts.key,
            "queued_utc": facts.queued_utc,
            "max_rows": at_most,
        },
    )
    return int(one(cur.fetchone())[0])


def placed_steps(cur: Cursor, tenant: TenantId, key: str, *, limit: int) -> list[Active]:
    """Read the tenant's steps that have a place of a concurrency key."""
    cur.execute(_SQL["placed_steps"], {"tenant": tenant, "key": key, "max_rows": limit})
    return _active(cur.fetchall())


def active_steps(cur: Cursor, tenant: TenantId, *, limit: int) -> list[Active]:
    """Read the tenant's steps that run or are sent to be run."""
    cur.execute(_SQL["active_steps"], {"tenant": tenant, "max_rows": limit})
    return _active(cur.fetchall())


def _active(rows: list[Row]) -> list[Active]:
    return [Active(run_id=RunId(UUID(row[0])), step_id=row[1], status=StepStatus(row[2])) for row in rows]
