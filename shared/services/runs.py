"""Start, read, list and cancel runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from shared.domain.hashing import hash_json
from shared.domain.inputs import check_inputs, problems_of_inputs
from shared.domain.models import Change, DagId, JsonObject, Run, RunFilter, RunId, Sha256, TenantId
from shared.domain.states import RunStatus
from shared.errors import (
    DagDisabled,
    DagNotFound,
    Problem,
    RunAlreadyFinished,
    RunNotFound,
    RunTokenConflict,
    TooManyQueuedSteps,
)
from shared.ids import new_run_id
from shared.store import dags, limits
from shared.store import runs as store
from shared.store.dags import Startable
from shared.store.db import Cursor, Database, Transactions


def start(
    db: Transactions,
    tenant: TenantId,
    *,
    dag_id: DagId,
    version: str | None,
    inputs: JsonObject,
    run_token: str | None,
    trace_id: str,
    created_by: str,
) -> tuple[Run, bool, Change]:
    """Start a run of a version (the highest active one, if none is named).

    A run token makes this idempotent for good: the first start with it makes the
    run, all others get that run and ``False``, however many come at once. With
    another DAG or other inputs they get :class:`RunTokenConflict`. Raises
    :class:`TooManyQueuedSteps` where the tenant has a limit and the run would go over it.
    """
    inputs_hash = hash_json(inputs)
    with db.transaction(tenant) as cur:
        if run_token is not None:
            first = store.get_by_token(cur, tenant, run_token)
            if first is not None:
                return _replay(first, dag_id, inputs_hash), False, Change(accepted=False)
        start = partial(
            store.start,
            cur,
            tenant,
            new_run_id(),
            dag_id=dag_id,
            version=version,
            inputs=inputs,
            inputs_hash=inputs_hash,
            run_token=run_token,
            trace_id=trace_id,
            created_by=created_by,
        )
        started = start(checked=None)
        if started.must_check:
            chosen = _active(started.found, dag_id, version)
            if chosen.inputs_schema is not None:
                check_inputs(chosen.inputs_schema, inputs)
            if chosen.queue_limited:
                first = _wait_for_room(cur, tenant, chosen, run_token)
                if first is not None:
                    return _replay(first, dag_id, inputs_hash), False, Change(accepted=False)
            started = start(checked=chosen.dag_version_id)
        if started.run is not None:
            return started.run, True, started.change
        # Another start with this token committed in between; it is visible now.
        first = store.get_by_token(cur, tenant, run_token or "")
        if first is None:
            raise RunTokenConflict("the run token is in use")
        return _replay(first, dag_id, inputs_hash), False, Change(accepted=False)


def _wait_for_room(cur: Cursor, tenant: TenantId, chosen: Startable, run_token: str | None) -> Run | None:
    """Take turns with the tenant's other starts, and refuse one too many with TooManyQueuedSteps.

    Gives the run that a start with the same token has made meanwhile: that one needs no room.
    """
    limit = limits.lock_queue_limit(cur, tenant)
    if limit is None:
        return None
    more = limits.count_first_steps(cur, tenant, chosen.dag_version_id)
    queued = limits.count_queued(cur, tenant, at_most=limit + 1)
    if queued + more <= limit:
        return None
    first = None if run_token is None else store.get_by_token(cur, tenant, run_token)
    if first is None:
        raise TooManyQueuedSteps(limit=limit, queued=queued, more=more)
    return first


def inputs_refused(
    db: Transactions, tenant: TenantId, *, dag_id: DagId, version: str | None, inputs: JsonObject
) -> list[Problem]:
    """Tell why the version that a start would take does not take these inputs, if there is one."""
    with db.transaction(tenant) as cur:
        found = dags.find_startable(cur, tenant, dag_id, version)
    if found is None or not found.active or found.inputs_schema is None:
        return []
    return problems_of_inputs(found.inputs_schema, inputs)


def _active(found: Startable | None, dag_id: DagId, version: str | None) -> Startable:
    if found is None:
        named = f"version {version} of {dag_id}" if version else f"DAG {dag_id}"
        raise DagNotFound(f"no {named}")
    if not found.active:
        raise DagDisabled(
            f"version {version} of {dag_id} is disabled"
            if version
            else f"all versions of {dag_id} are disabled"
        )
    return found


def _replay(first: Run, dag_id: DagId, inputs_hash: Sha256) -> Run:
    if first.dag_id != dag_id or first.inputs_hash != inputs_hash:
        raise RunTokenConflict(f"the run token belongs to run {first.run_id}, of another DAG or other inputs")
    return first


def get(db: Transactions, tenant: TenantId, run_id: RunId) -> Run:
    """Read one run, or raise :class:`RunNotFound`."""
    with db.statement(tenant) as cur:
        return _get(cur, tenant, run_id)


def get_with_steps(db: Transactions, tenant: TenantId, run_id: RunId) -> tuple[Run, str]:
    """Read a run and all its steps as of one moment, or raise :class:`RunNotFound`.

    The steps come as the JSON array that the API shows: there may be 10,000 of them, and PostgreSQL
    writes them in a fraction of the time, and without keeping the threads of this process from anything.
    """
    with db.statement(tenant) as cur:
        found = store.get_with_steps(cur, tenant, run_id)
    if found is None:
        raise RunNotFound(f"no run {run_id}")
    return found


def list_page(
    db: Transactions,
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
    with db.statement(tenant) as cur:
        return store.list_runs(cur, tenant, wanted, after=after, limit=limit)


@contextmanager
def stream(db: Database, tenant: TenantId, wanted: RunFilter) -> Iterator[Iterator[Run]]:
    """Open all runs as of one moment, newest first."""
    with db.snapshot(tenant) as snapshot:
        yield store.stream_runs(snapshot, tenant, wanted)


def cancel(db: Transactions, tenant: TenantId, run_id: RunId, *, reason: str | None) -> tuple[Run, Change]:
    """Request a cancellation: what has not begun is cancelled at once, what runs is told to stop.

    Idempotent. Raises :class:`RunNotFound`, and :class:`RunAlreadyFinished` for a
    run that completed or failed.
    """
    with db.statement(tenant) as cur:
        status = store.cancel(cur, tenant, run_id, reason)
    if status is None:
        raise RunNotFound(f"no run {run_id}")
    if status in (RunStatus.COMPLETED, RunStatus.FAILED):
        raise RunAlreadyFinished(f"run {run_id} has {status}")
    ended = status.is_terminal
    return get(db, tenant, run_id), Change(accepted=True, run_ended=ended, to_stop=not ended)


def _get(cur: Cursor, tenant: TenantId, run_id: RunId) -> Run:
    found = store.get(cur, tenant, run_id)
    if found is None:
        raise RunNotFound(f"no run {run_id}")
    return found
