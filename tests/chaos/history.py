"""What clients did and what they were told: each call is noted before the next one is made."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

UNAVAILABLE = 503


class Call(NamedTuple):
    """One call and its answer; no status: there was no answer, and what it did is unknown."""

    what: str
    begun: float
    ended: float
    status: int | None
    retry_after: bool = True


@dataclass(slots=True)
class Start:
    """All that is known of one run token of a tenant."""

    shape: str
    acknowledged: set[str] = field(default_factory=set)
    """The runs that answers named: one, if all is well."""
    cancelled: bool = False
    """A cancellation was accepted."""
    asked_to_cancel: bool = False
    too_late_to_cancel: bool = False
    """A cancellation was refused, since the run had ended by itself."""


@dataclass(slots=True)
class History:
    """Calls and starts of all tenants. Safe in any thread."""

    calls: list[Call] = field(default_factory=list)
    starts: dict[tuple[str, str], Start] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """Answers that must not be, whatever fails."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)

    def start(self, tenant: str, token: str, shape: str) -> Start:
        """Note that a start is about to be asked for; give the place for what becomes of it."""
        with self._lock:
            return self.starts.setdefault((tenant, token), Start(shape=shape))

    def object_to(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)

    def statuses(self) -> Counter[str]:
        return Counter(str(call.status or "no answer") for call in self.calls)

    def failed_outside(self, begin: float, end: float, *, since: int) -> list[Call]:
        """List the calls that failed before a fault or after it, counted from the call ``since``."""
        return [
            call
            for call in self.calls[since:]
            if (call.status is None or call.status == UNAVAILABLE)
            and (call.ended < begin or call.begun > end)
        ]

    def worse_than_unavailable(self) -> list[Call]:
        """List the answers that no fault excuses: other 5xx, and 503 that does not say when to come back."""
        return [
            call
            for call in self.calls
            if call.status is not None
            and call.status >= 500
            and (call.status != UNAVAILABLE or not call.retry_after)
        ]


def now() -> float:
    """Give the clock of histories and rounds."""
    return time.monotonic()
