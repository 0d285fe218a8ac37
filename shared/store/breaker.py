"""Who may still ask a server that was silent: one caller at a time, now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

PAUSE_SECONDS: Final = 0.5
"""With the time that a try takes, a server that is back is found within two seconds."""


class Breaker:
    """Refuses callers from when a server was silent until it is known to answer again.

    Without it every thread of a process would wait for its whole deadline, in turns, and
    nobody would be left to tell callers that the server is away.
    """

    def __init__(
        self, *, pause_seconds: float = PAUSE_SECONDS, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause_seconds = pause_seconds
        self._now = now
        self._lock = threading.Lock()
        self._next_try = 0.0
        self.is_open = False
        """Whether callers have to ask ``may_try`` first."""

    def may_try(self) -> bool:
        """Tell whether the caller is the one to try the server; it must then tell how that went."""
        with self._lock:
            if not self.is_open:
                return True
            now = self._now()
            if now < self._next_try:
                return False
            # Who tries and never tells (its thread was ended) must not keep all others out.
            self._next_try = now + 10 * self._pause_seconds
            return True

    def silent(self) -> None:
        """Take note that the server did not answer in time."""
        with self._lock:
            self.is_open = True
            self._next_try = self._now() + self._pause_seconds

    def answered(self) -> None:
        """Take note that the server did answer, be it with an error."""
        with self._lock:
            self.is_open = False
