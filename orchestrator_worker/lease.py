"""The leases of this process: one thread renews them all, another ends what can no longer be renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from shared.domain.models import Claim, RunId
from shared.errors import Unavailable
from shared.messaging.complaint import Complaint
from shared.plugins import Stop, StopReason
from shared.services.work import Held, Renewal
from shared.services.workers import HEARTBEAT_MS

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

LONGEST_RENEWAL_PERIOD_SECONDS = 1.0
"""A cancellation is learned with the renewal, so a lease of a minute is still renewed every second: one
statement a second and process, whatever it runs, and none while it runs only short steps."""

Renew = Callable[[Sequence[Held]], Sequence[Renewal]]


class Lease:
    """One running claim: until when it is surely ours, and how to stop it."""

    __slots__ = ("confirmed", "held", "stop")

    def __init__(self, held: Held, stop: Stop, confirmed: float) -> None:
        self.held = held
        self.stop = stop
        self.confirmed = confirmed
        """Monotonic time just before the last call that PostgreSQL is known to have granted."""


class LeaseKeeper:
    """Holds the running claims of the process and keeps their leases, or stops them in time.

    The lease is measured with the monotonic clock from *before* the call that granted it,
    so it never lasts longer here than in PostgreSQL. An attempt is stopped a margin before
    its end, by a thread that never calls PostgreSQL: a renewal that hangs holds up nothing.
    So an attempt that was cut off has ended before its successor can begin.
    """

    def __init__(
        self,
        renew: Renew,
        heartbeat: Callable[[], None],
        *,
        lease_ms: int,
        kill_grace_ms: int,
        heartbeat_ms: int = HEARTBEAT_MS,
    ) -> None:
        lease = lease_ms / 1000
        self._renew = renew
        self._heartbeat = heartbeat
        self._period = min(lease / 4, heartbeat_ms / 1000, LONGEST_RENEWAL_PERIOD_SECONDS)
        # After a failure there may be time for more than one other try.
        self._retry_period = self._period / 4
        # Time to kill a process politely, but never more than a third of the lease.
        self._usable = lease - min(lease / 3, kill_grace_ms / 1000 + 0.5)
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._watch_changed = threading.Condition(self._lock)
        self._watch_until = float("-inf")
        self._stopped: StopReason | None = None
        self._closed = threading.Event()
        self._hurry = threading.Event()
        self._wanted: set[RunId] = set()
        self._heartbeat_seconds = heartbeat_ms / 1000
        self._next_heartbeat = float("-inf")
        self._threads: list[threading.Thread] = []
        self.failed = Complaint("leases_not_renewed")
        self.lost = Complaint("lease_lost")

    def start(self) -> None:
        """Send the first heartbeat and start both threads."""
        for target, name in ((self._renew_forever, "lease-renewal"), (self._watch_forever, "lease-watch")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads. One that hangs in PostgreSQL is left behind."""
        with self._lock:
            self._closed.set()
            self._watch_changed.notify()
        self._hurry.set()
        for thread in self._threads:
            thread.join(1.0)

    @contextmanager
    def keep(self, claim: Claim, *, since: float) -> Iterator[Lease]:
        """Keep the lease of a claim within the block; ``since`` is the time just before it was granted.

        A claim whose answer came so late that its lease may be over is stopped here: its
        attempt must not even begin.
        """
        held = Held(tenant=claim.tenant, run_id=claim.run_id, step_no=claim.step_no, attempt=claim.attempt)
        lease = Lease(held, Stop(), since)
        lease.stop.hold_until(since + self._usable)
        with self._lock:
            self._leases.add(lease)
            stopped = self._stopped
            if since + self._usable < self._watch_until:
                self._watch_changed.notify()
        if self.remaining_seconds(lease) <= 0:
            self._give_up([lease])
        if stopped is not None:
            lease.stop.request(stopped)
        try:
            yield lease
        finally:
            with self._lock:
                self._leases.discard(lease)

    def remaining_seconds(self, lease: Lease) -> float:
        """Tell for how long the lease may still be used without another renewal."""
        return lease.confirmed + self._usable - time.monotonic()

    def stop_all(self, reason: StopReason) -> None:
        """Stop every attempt that runs now, or begins after this: a claim may be under way."""
        with self._lock:
            self._stopped = reason
        for lease in self._snapshot():
            lease.stop.request(reason)

    def running(self) -> int:
        """Tell how many claims are held."""
        return len(self._leases)

    def renew_soon(self, run_ids: frozenset[RunId]) -> None:
        """Renew the leases of these runs at once, if any is held, and so learn what became of the runs."""
        with self._lock:
            wanted = {lease.held.run_id for lease in self._leases} & run_ids
            self._wanted |= wanted
        if wanted:
            self._hurry.set()

    def renew_once(self) -> None:
        """Renew the leases that are not fresh or that somebody asked for; raises StoreUnavailable."""
        before = time.monotonic()
        with self._lock:
            wanted, self._wanted = self._wanted, set()
            leases = {
                lease.held: lease
                for lease in self._leases
                if before - lease.confirmed >= self._period / 2 or lease.held.run_id in wanted
            }
        if not leases:
            return
        renewals = {renewal.held: renewal for renewal in self._renew(list(leases))}
        for held, lease in leases.items():
            renewal = renewals.get(held)
            if renewal is None or not renewal.valid:
                self._give_up([lease])
                continue
            lease.confirmed = before
            lease.stop.hold_until(before + self._usable)
            if renewal.cancel_requested:
                lease.stop.request(StopReason.CANCELLED)

    def _snapshot(self) -> list[Lease]:
        with self._lock:
            return list(self._leases)

    def _renew_forever(self) -> None:
        while True:
            pause = self._retry_period
            try:
                self.renew_once()
                if time.monotonic() >= self._next_heartbeat:
                    self._heartbeat()
                    self._next_heartbeat = time.monotonic() + self._heartbeat_seconds
                pause = self._period
            except Unavailable as error:
                self.failed.note(error)
            except Exception as error:
                # Without this thread every lease of the process would run out.
                self.failed.note(error)
                LOGGER.exception("lease_renewal_failed")
            self._hurry.wait(pause)
            self._hurry.clear()
            if self._closed.is_set():
                return

    def _watch_forever(self) -> None:
        while True:
            with self._lock:
                if self._closed.is_set():
                    return
                now = time.monotonic()
                late = [lease for lease in self._leases if lease.confirmed + self._usable <= now]
                if not late:
                    first = min((lease.confirmed for lease in self._leases), default=None)
                    self._watch_until = float("inf") if first is None else first + self._usable
                    self._watch_changed.wait(None if first is None else self._watch_until - now)
                    self._watch_until = float("-inf")
            self._give_up(late)

    def _give_up(self, lost: list[Lease]) -> None:
        """Stop attempts and forget their leases: none is renewed again, even if PostgreSQL would allow it."""
        with self._lock:
            known = self._leases.intersection(lost)
            self._leases.difference_update(known)
        for lease in known:
            lease.stop.request(StopReason.LEASE_LOST)
            self.lost.note(run_id=str(lease.held.run_id), step_no=lease.held.step_no)
