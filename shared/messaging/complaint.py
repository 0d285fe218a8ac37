"""Tell of a failure that may come back a thousand times a minute without filling the log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

LONGEST_REASON = 500
"""The text of an error may hold what caused it, and that may be a message of any size."""


@dataclass(frozen=True, slots=True)
class Noted:
    """How often something happened, and the type of the error that it was the last time."""

    count: int
    detail: str | None


class Tally:
    """What this process has complained of, by kind, until somebody takes the counts to where all see them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[str, Noted] = {}

    def add(self, kind: str, noted: Noted) -> None:
        """Count what happened."""
        with self._lock:
            before = self._noted.get(kind, Noted(0, None))
            self._noted[kind] = Noted(before.count + noted.count, noted.detail or before.detail)

    def take(self) -> Mapping[str, Noted]:
        """Give what was counted since the last call. Whoever cannot keep it has to ``add`` it again."""
        with self._lock:
            noted, self._noted = self._noted, {}
            return noted


TALLY = Tally()
"""Of this process: it has one place where its failures are counted, whoever complains of them."""


class Complaint:
    """One kind of failure: every one is counted, and told at most once in ``every_seconds``."""

    def __init__(self, event: str, *, every_seconds: float = 10.0) -> None:
        self._event = event
        self._every_seconds = every_seconds
        self._lock = threading.Lock()
        self._count = 0
        self._told_count = 0
        self._told_at = float("-inf")
        self._also: Callable[[], None] = lambda: None

    @property
    def count(self) -> int:
        """How often it has happened since the process began."""
        return self._count

    def call_on_note(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` run for every failure, told or not: it counts them where others look."""
        self._also = callback

    def note(self, error: BaseException | None = None, **facts: object) -> None:
        """Count it, and log it unless that was done a moment ago.

        ``times`` in the log line is how often it happened since the line before.
        """
        self._also()
        # The type alone: the text of an error may hold what is a tenant's.
        TALLY.add(self._event, Noted(1, None if error is None else type(error).__name__))
        with self._lock:
            self._count += 1
            now = time.monotonic()
            if now - self._told_at < self._every_seconds:
                return
            times, self._told_count, self._told_at = self._count - self._told_count, self._count, now
        reason = None if error is None else f"{type(error).__name__}: {error}"[:LONGEST_REASON]
        LOGGER.warning(self._event, times=times, reason=reason, **facts)
