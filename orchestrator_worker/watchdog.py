"""Notices that this worker has gone deaf: messages wait that it could take, and it takes none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from shared.errors import QueueUnavailable
from shared.messaging.complaint import Complaint
from shared.messaging.queue_keys import QueueKeys

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

LONGEST_PERIOD_SECONDS = 1.0
RECONNECTING_SECONDS = 15.0
"""Celery may take so long to let go of a connection on which nobody answers, and to make another."""


class Ears(Protocol):
    """What takes messages, seen from outside."""

    @property
    def heard(self) -> int:
        """How many messages it has taken so far."""
        ...

    @property
    def all_taken(self) -> bool:
        """Whether it has no slot for another one."""
        ...

    def reconnect(self) -> None:
        """Have it connect to Redis anew. Safe in any thread; returns at once."""
        ...


class Watchdog:
    """Compares what waits in Redis, by a connection of its own, with what this worker takes.

    A worker that has a free slot and takes nothing from a queue that is not empty for
    ``deaf_after_ms`` is deaf, whatever its connection looks like. It is made to connect anew; if that
    does not help, either, the process is given up: a new one has no past. A worker that is idle or
    fully busy is not suspected, nor is one whose Redis takes no commands: that is for Redis to end.
    """

    def __init__(
        self,
        queue_keys: QueueKeys,
        queues: Sequence[str],
        ears: Ears,
        *,
        deaf_after_ms: int,
        draining: Callable[[], bool],
        give_up: Callable[[], None],
        reconnecting_seconds: float = RECONNECTING_SECONDS,
    ) -> None:
        self._queue_keys = queue_keys
        self._queues = queues
        self._ears = ears
        self._deaf_after_seconds = deaf_after_ms / 1000
        self._reconnecting_seconds = reconnecting_seconds
        self._period = min(LONGEST_PERIOD_SECONDS, self._deaf_after_seconds / 4)
        self._draining = draining
        self._give_up = give_up
        self._heard = -1
        self._suspected_at: float | None = None
        self._looked_at = float("-inf")
        self._reconnected = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.deaf = Complaint("worker_deaf", every_seconds=0)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. One that hangs is left behind."""
        self._closed.set()
        self._thread.join(1.0)
        self._queue_keys.close()

    def look(self) -> None:
        """Look once, and act if it is time."""
        now = time.monotonic()
        slept, self._looked_at = now - self._looked_at > 4 * self._period, now
        if self._listens() or slept:
            self._suspected_at = None
            return
        if self._suspected_at is None:
            self._suspected_at = now
        elif now - self._suspected_at >= self._patience_seconds() and self._redis_is_well():
            self._suspected_at = None
            self._act()

    def _patience_seconds(self) -> float:
        if self._reconnected:
            return max(self._deaf_after_seconds, self._reconnecting_seconds)
        return self._deaf_after_seconds

    def _listens(self) -> bool:
        heard = self._ears.heard
        if heard != self._heard:
            self._heard = heard
            self._reconnected = False
            return True
        if self._ears.all_taken:
            return True
        try:
            return self._queue_keys.waiting(self._queues) == 0
        except QueueUnavailable:
            return True  # As far as anybody can tell: there is nothing to be heard.

    def _redis_is_well(self) -> bool:
        try:
            self._queue_keys.check_writable()
        except QueueUnavailable:
            return False
        return True

    def _act(self) -> None:
        if self._reconnected:
            self.deaf.note(then="exit")
            self._closed.set()
            self._give_up()
        else:
            self.deaf.note(then="reconnect")
            self._reconnected = True
            self._ears.reconnect()

    def _watch(self) -> None:
        while not self._closed.wait(self._period):
            if self._draining():
                return
            try:
                self.look()
            except Exception:
                LOGGER.exception("watchdog_failed")
