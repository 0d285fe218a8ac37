"""Runs in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from shared.domain.models import Change, DagId, JsonObject, Run, RunFilter, RunId, Sha256, TenantId
from shared.domain.states import RunStatus
from shared.store.dags import Startable, as_startable
from shared.store.db import Cursor, Row, Snapshot, one
from shared.store.queries import load

_SQL = load("runs")
_NO_CHANGE = Change(accepted=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that has been started; or none, if something must be looked at first, or its token is taken."""

    run: Run | None
    change: Change
    must_check: bool
    """Whether whoever asked has to look at ``found``, and to ask for a start of it then."""
    found: Startable | None
    """The version that was to be started, unless it was named by its id; ``None`` also if there is none."""


def start(
    cur: Cursor,
    tenant: TenantId,
    run_id: RunId,
    *,
    dag_id: DagId,
    version: str | None,
    checked: int | None,
    inputs: JsonObject,
    inputs_hash: Sha256,
    run_token: str | None,
    trace_id: str,
    created_by: str,
) -> Started:
    """Start a run of what ``find_startable`` finds if nothing has to be looked at before.

    ``checked`` is the id of the version in which everything has been looked at: a run of it is started.
    """
    cur.execute(
        _SQL["start"],
        {
            "tenant": tenant,
            "run_id": str(run_id),
            "dag_id": dag_id,
            "version": version,
            "checked": checked,
            "inputs": json.dumps(inputs),
            "inputs_hash": inputs_hash,
            "run_token": run_token,
            "trace_id": trace_id,
            "created_by": created_by,
        },
    )
    row = one(cur.fetchone())
    run = None if row[0] is None else as_run(row)
    return Started(
        run=run,
        change=_NO_CHANGE if run is None else _change(run, row[18:21]),
        must_check=row[21],
        found=None if row[22] is None else as_startable(row[22:]),
    )


def _change(run: Run, row: Row) -> Change:
    return Change(
        accepted=True,
        ready_pools=frozenset(row[0]),
        undecided=bool(row[1]),
        run_ended=run.status.is_terminal,
        keys=frozenset(row[2]),
    )


def get(cur: Cursor, tenant: TenantId, run_id: RunId) -> Run | None:
    """Read one run."""
    cur.execute(_SQL["get"], {"tenant": tenant, "run_id": str(run_id)})
    row = cur.fetchone()
    return None if row is None else as_run(row)


def get_with_steps(cur: Cursor, tenant: TenantId, run_id: RunId) -> tuple[Run, str] | None:
    """Read one run, and all its steps in topological order as the API shows them: a JSON array."""
    cur.execute(_SQL["get_with_steps"], {"tenant": tenant, "run_id": str(run_id)})
    row = cur.fetchone()
    return None if row is None else (as_run(row), row[18])


def get_by_token(cur: Cursor, tenant: TenantId, run_token: str) -> Run | None:
    """Read the run that a token started."""
    cur.execute(_SQL["get_by_token"], {"tenant": tenant, "run_token": run_token})
    row = cur.fetchone()
    return None if row is None else as_run(row)


def list_runs(
    cur: Cursor,
    tenant: TenantId,
    wanted: RunFilter,
    *,
    after: tuple[datetime, RunId | None] | None,
    limit: int,
) -> list[Run]:
    """Read a page of runs, newest first.

    ``after`` is (started_utc, run_id) of the last one seen; without ``run_id``, the page
    begins with those that started earlier.
    """
    cur.execute(_SQL["list_runs"], _listed(tenant, wanted, after, limit))
    return [as_run(row) for row in cur.fetchall()]


def stream_runs(snapshot: Snapshot, tenant: TenantId, wanted: RunFilter) -> Iterator[Run]:
    """Read all runs, newest first, few of them in memory at a time."""
    return map(as_run, snapshot.stream(_SQL["list_runs"], _listed(tenant, wanted, None, None)))


def _listed(
    tenant: TenantId, wanted: RunFilter, after: tuple[datetime, RunId | None] | None, limit: int | None
) -> dict[str, object]:
    after_utc, after_run_id = after or (None, None)
    return {
        "tenant": tenant,
        "dag_id": wanted.dag_id,
        "status": wanted.status,
        "from_utc": wanted.from_utc,
        "to_utc": wanted.to_utc,
        "after_utc": after_utc,
        "after_run_id": None if after_run_id is None else str(after_run_id),
        "max_rows": limit,
    }


def cancel(cur: Cursor, tenant: TenantId, run_id: RunId, reason: str | None) -> RunStatus | None:
    """Request a cancellation; the run's status then, ``None`` when there is no such run."""
    cur.execute(_SQL["cancel"], {"tenant": tenant, "run_id": str(run_id), "reason": reason})
    status = one(cur.fetchone())[0]
    return None if status is None else RunStatus(status)


def as_run(row: Row) -> Run:
    """Give the columns that every query of whole runs begins with their types."""
    return Run(
        run_id=RunId(UUID(row[0])),
        trace_id=row[1],
        dag_id=row[2],
        dag_version=row[3],
        status=RunStatus(row[4]),
        inputs_hash=row[5],
        outputs_hash=row[6],
        run_token=row[7],
        created_by=row[8],
        started_utc=row[9],
        ended_utc=row[10],
        cancel_requested_utc=row[11],
        cancel_reason=row[12],
        step_count=row[13],
        open_steps=row[14],
        failed_steps=row[15],
        ledger_head=row[16],
        seq=row[17],
    )
