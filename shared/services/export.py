"""Read runs with all that belongs to them, at one moment and piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.domain.models import Attempt, JsonObject, Run, RunFilter, RunId, Sha256, Step, TenantId
from shared.store import export as store
from shared.store.db import Database, Snapshot
from shared.store.events import Event

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """A run and what belongs to it: first all steps have to be taken, then all events, then the next run."""

    run: Run
    spec_hash: Sha256
    inputs: JsonObject
    steps: Iterator[tuple[Step, list[Attempt]]]
    events: Iterator[Event]


@contextmanager
def open_runs(db: Database, tenant: TenantId, wanted: RunFilter) -> Iterator[Iterator[WholeRun]]:
    """Open the wanted runs by ``started_utc`` and ``run_id``, as of one moment.

    A few rows are in memory at any time, however many runs there are and however large they are.
    """
    with db.snapshot(tenant) as snapshot:
        yield _in_step(snapshot, tenant, wanted)


class _Ahead(Generic[K, T]):
    """Items that come in the order of their keys, taken key by key."""

    def __init__(self, items: Iterator[tuple[K, T]]) -> None:
        self._items = items
        self._next = next(items, None)

    def of(self, key: K) -> Iterator[T]:
        """Take the items of ``key``, which must be the next ones."""
        while self._next is not None and self._next[0] == key:
            item = self._next[1]
            self._next = next(self._items, None)
            yield item


def _in_step(snapshot: Snapshot, tenant: TenantId, wanted: RunFilter) -> Iterator[WholeRun]:
    """Read four cursors in step: one query for all would repeat each run for each of its rows."""
    runs = store.list_runs(snapshot, tenant, wanted)
    steps = _Ahead(store.list_steps(snapshot, tenant, wanted))
    attempts = _Ahead(store.list_attempts(snapshot, tenant, wanted))
    events = _Ahead(store.list_events(snapshot, tenant, wanted))
    for run, spec_hash, inputs in runs:
        yield WholeRun(
            run=run,
            spec_hash=spec_hash,
            inputs=inputs,
            steps=_steps(run, steps, attempts),
            events=_events(run, events),
        )


def _steps(
    run: Run, steps: _Ahead[RunId, Step], attempts: _Ahead[tuple[RunId, int], Attempt]
) -> Iterator[tuple[Step, list[Attempt]]]:
    count = 0
    for step in steps.of(run.run_id):
        count += 1
        made = list(attempts.of((run.run_id, step.step_no)))
        _expect_all(run, "attempts", len(made), step.attempt)
        yield step, made
    _expect_all(run, "steps", count, run.step_count)


def _events(run: Run, events: _Ahead[RunId, Event]) -> Iterator[Event]:
    count = 0
    for event in events.of(run.run_id):
        count += 1
        yield event
    _expect_all(run, "events", count, run.seq)


def _expect_all(run: Run, what: str, count: int, expected: int) -> None:
    """Rather fail than give less than there is, should the cursors ever fall out of step."""
    if count != expected:
        raise LookupError(f"{count} of the {expected} {what} of run {run.run_id} were read")
