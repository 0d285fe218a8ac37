"""The thread that turns commits into doorbells, so that no request and no step waits for Redis."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog
from celery import Celery

from shared.domain.models import RunId, TenantId
from shared.errors import Unavailable
from shared.messaging import cancel_hints, event_hints
from shared.messaging.complaint import Complaint
from shared.messaging.doorbell import send, send_decide
from shared.messaging.run_traces import RunTraces
from shared.store import dispatch
from shared.store.db import Database
from shared.store.dispatch import Use

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_HINTS = 10_000
"""More than this means that PostgreSQL or Redis is away; the sweeper finds the rest in the ledger."""

GATHER_SECONDS = 0.003
"""What nobody waits for at this moment is done for some of it at a time, such as to tell of new events."""

CHARGE_SECONDS = 0.1
"""Who has had a slot without a message is charged for it, but there is no room for a message where it was."""

REFILL_SECONDS = 0.015
"""A pick costs about what a claim does, and one refills half a queue: what messages leave in this time shares
one, unless half of them are gone before. Two messages a slot are out, so that no slot waits for it."""

MAX_CHARGED_MS = 60_000.0
"""A message is charged no more: a tenant whose steps take hours would pay for a burst of them for hours. How
many of those may run at a time is a matter of its limits, since a slot is not taken back."""


@dataclass(slots=True)
class _Hints:
    """What has happened since the thread looked last; equal hints are one."""

    ready: dict[tuple[str, TenantId], float] = field(default_factory=dict)
    """Pools with the tenants that got ready steps there, and until when somebody else may take them."""
    runs: set[tuple[TenantId, RunId]] = field(default_factory=set)
    """Runs with decisions to make."""
    places: set[tuple[TenantId, str]] = field(default_factory=set)
    """Tenants with concurrency keys that have a place to give away, or somebody who wants one."""
    cancelled: set[RunId] = field(default_factory=set)
    """Runs with steps that run and are to be stopped."""
    freed: dict[tuple[str, TenantId], Use] = field(default_factory=dict)
    """Pools of which slots were freed, with what the tenants have had of them."""
    written: set[TenantId] = field(default_factory=set)
    """Tenants with new events."""
    refill: float = math.inf
    """When to pick for freed slots."""
    due: float = math.inf
    """When the first of them is to be served."""

    def __len__(self) -> int:
        pressing = len(self.ready) + len(self.runs) + len(self.places) + len(self.cancelled)
        return pressing + len(self.freed) + len(self.written)

    @property
    def full(self) -> bool:
        return len(self) >= MAX_HINTS


class Dispatcher:
    """Takes hints from any thread, returns at once, and rings the doorbells from a thread of its own.

    The thread begins with the first hint, in each process anew. A hint that is lost, by
    an error or an exit, costs time only: the sweeper finds what it told of.
    """

    def __init__(self, db: Database, app: Celery, *, slots: int = 1) -> None:
        """``slots``: how many the process has for steps, if it has any."""
        self._db = db
        self._app = app
        self._slots = slots
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
        self._unheard: dict[TenantId, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def steps_ready(self, tenant: TenantId, pools: Collection[str], *, within: float = 0.0) -> None:
        """Dispatch from these pools: the tenant got ready steps there.

        That may wait for as many seconds as ``within`` while others are likely to take the steps.
        """
        due = time.monotonic() + within
        with self._changed:
            for pool in pools:
                if self._has_room(self._hints.ready, (pool, tenant)):
                    self._hints.ready[pool, tenant] = min(due, self._hints.ready.get((pool, tenant), due))
                    self._wake(due)

    def leave(self, tenant: TenantId, *, for_seconds: float) -> None:
        """Leave the tenant's ready steps for longer to those who are at them."""
        until = time.monotonic() + for_seconds
        with self._changed:
            for hint, due in self._hints.ready.items():
                if hint[1] == tenant and due > time.monotonic():
                    self._hints.ready[hint] = max(due, until)

    def slot_freed(self, pool: str, tenant: TenantId, *, used_ms: float, messages: int) -> None:
        """Charge the tenant with its use of a slot, and dispatch from the pool soon if anything waits there.

        ``messages``: 1, or 0 when no pick has sent what the slot was taken by.
        """
        with self._changed:
            if self._has_room(self._hints.freed, (pool, tenant)):
                use = Use(messages, min(used_ms, MAX_CHARGED_MS))
                self._hints.freed[pool, tenant] = self._hints.freed.get((pool, tenant), Use(0, 0.0)) + use
                gone = sum(of_it.messages for of_it in self._hints.freed.values())
                wait = 0.0 if gone >= self._slots else REFILL_SECONDS if gone else CHARGE_SECONDS
                refill = time.monotonic() + wait
                self._hints.refill = min(self._hints.refill, refill)
                self._wake(self._hints.refill)

    def keys_changed(self, tenant: TenantId, keys: Collection[str]) -> None:
        """Give away places of these concurrency keys soon: one was left, or somebody wants one."""
        with self._changed:
            for key in keys:
                if self._has_room(self._hints.places, (tenant, key)):
                    self._hints.places.add((tenant, key))
                    self._wake(time.monotonic())

    def undecided(self, tenant: TenantId, run_id: RunId) -> None:
        """Have a worker evaluate the ``when`` of steps of this run soon."""
        with self._changed:
            if self._has_room(self._hints.runs, (tenant, run_id)):
                self._hints.runs.add((tenant, run_id))
                self._wake(time.monotonic())

    def cancelled(self, run_id: RunId) -> None:
        """Have the workers that run steps of this run look at once whether to stop them."""
        with self._changed:
            if self._has_room(self._hints.cancelled, run_id):
                self._hints.cancelled.add(run_id)
                self._wake(time.monotonic())

    def events_written(self, tenant: TenantId) -> None:
        """Tell soon whoever streams the tenant's events that there are new ones."""
        if self._unheard.get(tenant, 0.0) > time.monotonic():
            return
        with self._changed:
            if tenant not in self._hints.written and self._has_room(self._hints.written, tenant):
                self._hints.written.add(tenant)
                self._wake(time.monotonic() + GATHER_SECONDS)

    def close(self, *, within_seconds: float = 5.0) -> None:
        """Serve the hints taken so far and end the thread, or leave it behind after ``within_seconds``."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(within_seconds)

    def _has_room(self, hints: Collection[object], hint: object) -> bool:
        """Tell whether a hint can be kept, and count one that cannot; the caller holds the lock."""
        if hint not in hints and (self._hints.full or self._closed):
            self.dropped.note()
            return False
        return True

    def _wake(self, due: float) -> None:
        """Wake the thread, or begin it, to serve a hint when it is due; the caller holds the lock."""
        if due >= self._hints.due:
            return
        self._hints.due = due
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="dispatcher", daemon=True)
            self._thread.start()
        self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not len(self._hints):
                    if self._closed:
                        return
                    self._changed.wait()
                while (left := self._hints.due - time.monotonic()) > 0 and not self._closed:
                    self._changed.wait(left)
                hints, self._hints = self._hints, _Hints()
                self._keep_for_later(hints)
            try:
                cancel_hints.send(self._app, hints.cancelled)
                self._tell_of_events(hints.written)
                self._give_places(hints)
                self._ring(hints)
                send_decide(self._app, list(hints.runs), self.traces)
            except Unavailable as error:
                # The rest of the hints would wait for the same time-out, one by one.
                self.failed.note(error)
            except Exception as error:
                # The thread must outlive what nobody foresaw, or every later hint would be lost with it.
                self.failed.note(error)
                LOGGER.exception("dispatch_failed")

    def _keep_for_later(self, hints: _Hints) -> None:
        """Leave out those that others may take still; the caller holds the lock."""
        if self._closed:
            return
        now, later = time.monotonic(), self._hints
        later.ready = {hint: due for hint, due in hints.ready.items() if due > now}
        for hint in later.ready:
            del hints.ready[hint]
        later.due = min(later.ready.values(), default=math.inf)
        if hints.refill > now:
            pools = {pool for pool, _ in hints.ready}
            later.freed = {hint: use for hint, use in hints.freed.items() if hint[0] not in pools}
            for hint in later.freed:
                del hints.freed[hint]
            if later.freed:
                later.refill = hints.refill
                later.due = min(later.due, later.refill)

    def _tell_of_events(self, tenants: Collection[TenantId]) -> None:
        """Tell of new events, and be silent for a while about those of whom nobody hears."""
        unheard = event_hints.send(self._app, list(tenants))
        if len(self._unheard) >= MAX_HINTS:
            self._unheard.clear()
        until = time.monotonic() + event_hints.UNHEARD_SECONDS
        self._unheard.update((tenant, until) for tenant in unheard)

    def _give_places(self, hints: _Hints) -> None:
        """Give away places of keys; whoever gets one is ready."""
        for tenant, key in hints.places:
            with self._db.statement(tenant) as cur:
                hints.ready |= {(pool, tenant): 0.0 for pool in dispatch.admit(cur, tenant, key)}

    def _ring(self, hints: _Hints) -> None:
        """Pick once from each pool that anything was hinted of."""
        ready: defaultdict[str, set[TenantId]] = defaultdict(set)
        used: defaultdict[str, dict[TenantId, Use]] = defaultdict(dict)
        for pool, tenant in hints.ready:
            ready[pool].add(tenant)
        for (pool, tenant), use in hints.freed.items():
            used[pool][tenant] = use
        for pool in ready.keys() | used.keys():
            # The function looks at all tenants with rights of its own, whichever role calls it.
            with self._db.statement(None) as cur:
                picked = dispatch.pick(cur, pool, ready[pool], used[pool])
            for backlog in picked.again:
                self.steps_ready(backlog.tenant, {backlog.pool})
            if picked.bells:
                send(self._app, picked.bells, self.traces)
