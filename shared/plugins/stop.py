"""The one way to tell a running attempt that it has to end, and why."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

logger = logging.getLogger(__name__)


class StopReason(StrEnum):
    """Why an attempt has to end before its plugin is done."""

    TIMEOUT = "timeout"
    """The step's ``timeoutMs`` has passed."""
    CANCELLED = "cancelled"
    """The run is being cancelled."""
    RELEASED = "released"
    """The worker shuts down and gives the step back."""
    LEASE_LOST = "lease_lost"
    """The worker may no longer act for this step: another one may already have it."""


class Stop:
    """A request to end one attempt, seen by all threads that work on it.

    The first reason stands; a later one changes nothing. The deadline is part of it: once
    it has passed, the reason is ``TIMEOUT`` whether or not anybody asked. Callbacks are
    run once, in the thread that makes the request; the deadline's come from a timer
    thread that exists only while there are callbacks to run.
    """

    __slots__ = (
        "_callbacks",
        "_deadline",
        "_event",
        "_lock",
        "_on_hold",
        "_reason",
        "_timer",
        "held_until",
    )

    def __init__(self, *, timeout_seconds: float | None = None) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._reason: StopReason | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._timer: threading.Timer | None = None
        self._deadline: float | None = None
        self._on_hold: Callable[[], None] = lambda: None
        self.held_until: float | None = None
        """In monotonic time, until when the attempt is surely this worker's; ``None``: nobody said."""
        if timeout_seconds is not None:
            self.limit_to(timeout_seconds)

    @property
    def reason(self) -> StopReason | None:
        """Tell why to stop, or ``None`` to go on."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.request(StopReason.TIMEOUT)
        return self._reason

    def request(self, reason: StopReason) -> None:
        """Ask the attempt to end. Only the first request counts."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, []
            timer, self._timer = self._timer, None
        self._event.set()
        if timer is not None:
            timer.cancel()
        for callback in callbacks:
            try:
                callback()
            except Exception:
                # The caller may be the thread that renews every lease of the process:
                # one plugin's mistake must neither end it nor hide the other callbacks.
                logger.exception("a callback of a stopped attempt failed")

    def hold_until(self, moment: float) -> None:
        """Take note that the attempt stays this worker's until ``moment``, in monotonic time."""
        self.held_until = moment
        try:
            self._on_hold()
        except Exception:
            # As with a stop: the caller renews every lease of the process.
            logger.exception("a callback of an attempt whose lease was renewed failed")

    def call_on_hold(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` run whenever ``held_until`` has been put off; it replaces the one before."""
        self._on_hold = callback

    def limit_to(self, seconds: float) -> None:
        """Set the deadline ``seconds`` from now, unless an earlier one is set already."""
        deadline = time.monotonic() + seconds
        with self._lock:
            if self._deadline is None or deadline < self._deadline:
                self._deadline = deadline
                if self._callbacks:
                    self._arm()

    def remaining_seconds(self) -> float | None:
        """Tell how much time is left, never below zero; ``None`` when there is no deadline."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def wait(self, seconds: float) -> bool:
        """Sleep for ``seconds``, or less when a stop is requested; tell whether it is."""
        remaining = self.remaining_seconds()
        self._event.wait(seconds if remaining is None else min(seconds, remaining))
        return self.reason is not None

    def call_on_stop(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` run when a stop is requested, at once if it is already.

        Returns a function that takes the callback back. After that function has returned the
        callback is not begun any more, but one that was begun may still be running.
        """
        if self.reason is None:
            with self._lock:
                if self._reason is None:
                    self._callbacks.append(callback)
                    if self._timer is None:
                        self._arm()
                    return lambda: self._forget(callback)
        callback()
        return lambda: None

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
            if not self._callbacks and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _arm(self) -> None:
        """Start the timer for the deadline; the caller holds the lock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadline is not None:
            delay = max(0.0, self._deadline - time.monotonic())
            timer = threading.Timer(min(delay, threading.TIMEOUT_MAX), self.request, (StopReason.TIMEOUT,))
            timer.daemon = True
            self._timer = timer
            timer.start()
