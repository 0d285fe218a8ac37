"""The thread that turns commits into doorbells, so that no request and no step waits for Redis."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from celery import Celery

from shared.domain.models import RunId, TenantId
from shared.errors import Unavailable
from shared.messaging.complaint import Complaint
from shared.messaging.doorbell import send, send_decide
from shared.messaging.run_traces import RunTraces
from shared.store import dispatch
from shared.store.db import Database

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_HINTS = 10_000
"""More than this means that PostgreSQL or Redis is away; the sweeper finds the rest in the ledger."""

GATHER_SECONDS = 0.003
"""A pick costs about what a claim does, and one refills half a queue: slots that become free within a
few steps' time share one. Two messages a slot are out, so that no slot waits for it."""

T = TypeVar("T")


@dataclass(slots=True)
class _Hints:
    """What has happened since the thread looked last; equal hints are one."""

    ready: set[tuple[str, TenantId]] = field(default_factory=set)
    """Pools with the tenants that got ready steps there."""
    runs: set[tuple[TenantId, RunId]] = field(default_factory=set)
    """Runs with decisions to make."""
    freed: set[str] = field(default_factory=set)
    """Pools of which a slot was freed."""

    @property
    def pressing(self) -> bool:
        """Tell whether somebody waits for what is hinted at."""
        return bool(self.ready or self.runs)

    @property
    def full(self) -> bool:
        return len(self.ready) + len(self.runs) >= MAX_HINTS


class Dispatcher:
    """Takes hints from any thread, returns at once, and rings the doorbells from a thread of its own.

    The thread begins with the first hint, in each process anew. A hint that is lost, by
    an error or an exit, costs time only: the sweeper finds what it told of.
    """

    def __init__(self, db: Database, app: Celery) -> None:
        self._db = db
        self._app = app
        self.traces = RunTraces()
        """The traces of runs, for their messages."""
        self.failed = Complaint("doorbells_not_sent")
        """Picks and sends that failed; the sweeper repairs each."""
        self.dropped = Complaint("dispatch_hints_dropped")
        """Hints that found the box full, or the dispatcher closed."""
        self._reset()
        # A fork copies the box and its lock, perhaps held, but not the thread.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) is not None and method())

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._hints = _Hints()
        self._thread: threading.Thread | None = None
        self._closed = False

    def steps_ready(self, tenant: TenantId, pools: Collection[str]) -> None:
        """Dispatch from these pools soon: the tenant got ready steps there."""
        with self._changed:
            for pool in pools:
                self._take(self._hints.ready, (pool, tenant))

    def slot_freed(self, pool: str) -> None:
        """Dispatch from the pool soon, if anything there waits for a slot."""
        with self._changed:
            self._take(self._hints.freed, pool)

    def undecided(self, tenant: TenantId, run_id: RunId) -> None:
        """Have a worker evaluate the ``when`` of steps of this run soon."""
        with self._changed:
            self._take(self._hints.runs, (tenant, run_id))

    def close(self, *, within_seconds: float = 5.0) -> None:
        """Serve the hints taken so far and end the thread, or leave it behind after ``within_seconds``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(within_seconds)

    def _take(self, hints: set[T], hint: T) -> None:
        """Keep a hint and wake the thread, or count one that cannot be kept; the caller holds the lock."""
        if hint in hints:
            return
        if self._hints.full or self._closed:
            self.dropped.note()
            return
        hints.add(hint)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="dispatcher", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._hints.pressing or self._hints.freed):
                    if self._closed:
                        return
                    self._changed.wait()
                if not self._hints.pressing and not self._closed:
                    self._changed.wait(GATHER_SECONDS)
                hints, self._hints = self._hints, _Hints()
            try:
                for pool, tenant in hints.ready:
                    self._ring(pool, tenant)
                for pool in hints.freed.difference(pool for pool, _ in hints.ready):
                    self._ring(pool, None)
                for tenant, run_id in hints.runs:
                    send_decide(self._app, tenant, run_id, self.traces)
            except Unavailable as error:
                # The rest of the hints would wait for the same time-out, one by one.
                self.failed.note(error)
            except Exception as error:
                # The thread must outlive what nobody foresaw, or every later hint would be lost with it.
                self.failed.note(error)
                LOGGER.exception("dispatch_failed")

    def _ring(self, pool: str, tenant: TenantId | None) -> None:
        # The function looks at all tenants with rights of its own, whichever role calls it.
        with self._db.statement(None) as cur:
            doorbells = dispatch.pick(cur, pool, tenant)
        if doorbells:
            send(self._app, doorbells, self.traces)
