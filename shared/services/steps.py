"""Read the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.domain.models import Attempt, RunId, Step, StepId, TenantId
from shared.errors import NotFound, RunNotFound, StepNotFound
from shared.store import runs
from shared.store import steps as store
from shared.store.db import Cursor, Database


def list_page(db: Database, tenant: TenantId, run_id: RunId, *, after_no: int, limit: int) -> list[Step]:
    """Read a page of steps in topological order, after ``step_no`` ``after_no`` (-1: from the first)."""
    with db.transaction(tenant) as cur:
        found = store.list_steps(cur, tenant, run_id, after_no=after_no, limit=limit)
        if not found and runs.get(cur, tenant, run_id) is None:
            raise RunNotFound(f"no run {run_id}")
        return found


@contextmanager
def stream(db: Database, tenant: TenantId, run_id: RunId) -> Iterator[Iterator[Step]]:
    """Open all steps of a run as of one moment, in topological order, or raise :class:`RunNotFound`."""
    with db.snapshot(tenant) as snapshot:
        if runs.get(snapshot, tenant, run_id) is None:
            raise RunNotFound(f"no run {run_id}")
        yield store.stream_steps(snapshot, tenant, run_id)


def get(db: Database, tenant: TenantId, run_id: RunId, step_id: StepId) -> tuple[Step, list[Attempt]]:
    """Read a step and its attempts; raises :class:`RunNotFound` or :class:`StepNotFound`."""
    with db.transaction(tenant) as cur:
        step = store.get_step(cur, tenant, run_id, step_id)
        if step is None:
            raise absent(cur, tenant, run_id, step_id)
        return step, store.list_attempts(cur, tenant, run_id, step.step_no)


def absent(cur: Cursor, tenant: TenantId, run_id: RunId, step_id: StepId) -> NotFound:
    """Say what is not there: the step, or the whole run."""
    if runs.get(cur, tenant, run_id) is None:
        return RunNotFound(f"no run {run_id}")
    return StepNotFound(f"run {run_id} has no step {step_id}")
