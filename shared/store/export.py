"""Runs with all that belongs to them, each read from a cursor, in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from uuid import UUID

from shared.domain.models import Attempt, JsonObject, Run, RunFilter, RunId, Sha256, Step, TenantId
from shared.store.db import Snapshot
from shared.store.events import Event
from shared.store.queries import load
from shared.store.runs import as_run
from shared.store.steps import as_attempt, as_step

_SQL = load("export")

_RUNS, _STEPS, _PLAIN = 8, 32, 200
"""So many rows are held at a time: inputs may have a megabyte, outputs a quarter of one, others are short."""


def list_runs(
    snapshot: Snapshot, tenant: TenantId, wanted: RunFilter
) -> Iterator[tuple[Run, Sha256, JsonObject]]:
    """Read runs, each with the hash of its version's definition and its inputs."""
    for row in snapshot.stream(_SQL["list_runs"], _parameters(tenant, wanted), batch=_RUNS):
        yield as_run(row), row[18], json.loads(row[19])


def list_steps(snapshot: Snapshot, tenant: TenantId, wanted: RunFilter) -> Iterator[tuple[RunId, Step]]:
    """Read the steps of those runs, in topological order."""
    for row in snapshot.stream(_SQL["list_steps"], _parameters(tenant, wanted), batch=_STEPS):
        outputs = None if row[11] is None else json.loads(row[11])
        yield _run_id(row[0]), as_step((*row[1:11], outputs, *row[12:]))


def list_attempts(
    snapshot: Snapshot, tenant: TenantId, wanted: RunFilter
) -> Iterator[tuple[tuple[RunId, int], Attempt]]:
    """Read the attempts at those steps, by run and ``step_no``, first to last."""
    for row in snapshot.stream(_SQL["list_attempts"], _parameters(tenant, wanted), batch=_PLAIN):
        yield (_run_id(row[0]), row[1]), as_attempt(row[2:])


def list_events(snapshot: Snapshot, tenant: TenantId, wanted: RunFilter) -> Iterator[tuple[RunId, Event]]:
    """Read the events of those runs, in order."""
    for row in snapshot.stream(_SQL["list_events"], _parameters(tenant, wanted), batch=_PLAIN):
        yield _run_id(row[0]), Event(seq=row[1], line=row[2], hash=row[3])


def _parameters(tenant: TenantId, wanted: RunFilter) -> dict[str, object]:
    return {
        "tenant": tenant,
        "dag_id": wanted.dag_id,
        "status": wanted.status,
        "from_utc": wanted.from_utc,
        "to_utc": wanted.to_utc,
    }


@lru_cache(maxsize=16)
def _run_id(text: str) -> RunId:
    """Read the id of a run, which all its rows have."""
    return RunId(UUID(text))
