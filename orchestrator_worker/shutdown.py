"""How a worker ends: it claims nothing more, lets steps run for a while, then gives them back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType

import structlog
from celery.worker import state

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

LAST_RESORT_SECONDS = 10.0
EX_STUCK = 1
EX_DEAF = 75
"""That of a temporary failure: the process is to be started again."""
_NO_SIGNAL = 0
_LOOK_SECONDS = 0.1


class Shutdown:
    """The end of a worker process, begun by a signal.

    SIGTERM or SIGINT: nothing more is claimed, what runs gets ``grace_ms`` and is then given
    back. A second one, or SIGQUIT: given back at once. An attempt that heeds no request to
    stop keeps its lease, so that no other worker can begin before this process is gone.
    """

    def __init__(
        self, *, grace_ms: int, kill_grace_ms: int, release: Callable[[], None], running: Callable[[], int]
    ) -> None:
        self._running = running
        self._grace_seconds = grace_ms / 1000
        self._last_resort_seconds = kill_grace_ms / 1000 + LAST_RESORT_SECONDS
        self._release = release
        self._wake_loop: Callable[[], None] = lambda: None
        # SimpleQueue.put is the one hand-over between threads that a signal handler may call.
        self._signals: SimpleQueue[int] = SimpleQueue()
        self._draining = threading.Event()
        self._finished = threading.Event()

    @property
    def draining(self) -> bool:
        """Tell whether the process is on its way out: then nothing more is claimed."""
        return self._draining.is_set()

    def install(self, wake_loop: Callable[[], None]) -> None:
        """Take over the signals of this process; ``wake_loop`` makes Celery's loop take a turn."""
        self._wake_loop = wake_loop
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._run, name="shutdown", daemon=True).start()

    def give_up(self) -> None:
        """End the process in order, for want of another way to mend it, with a status that says so."""
        # A loop that is stuck does not heed it; then this process ends as one that is stuck.
        state.should_stop = EX_DEAF  # type: ignore[assignment]  # The exit status; the stubs saw only None.
        self._signals.put(_NO_SIGNAL)
        self._wake_loop()

    def finished(self) -> None:
        """Tell that the process is about to exit by itself."""
        self._finished.set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Celery looks at this flag at each turn of its loop and stops taking messages.
        state.should_stop = 0  # type: ignore[assignment]  # The exit status; the stubs saw only None.
        self._signals.put(number)
        self._wake_loop()

    def _run(self) -> None:
        first = self._signals.get()
        self._draining.set()
        given_up = first == _NO_SIGNAL
        LOGGER.info("worker_draining", signal=None if given_up else signal.Signals(first).name)
        if given_up:
            self._wait_while_running()
        elif first != signal.SIGQUIT:
            try:
                self._signals.get(timeout=self._grace_seconds)
            except Empty:
                LOGGER.info("worker_grace_over")
        self._release()
        if not self._finished.wait(self._last_resort_seconds):
            LOGGER.error("worker_stuck")
            os._exit(EX_DEAF if given_up else EX_STUCK)

    def _wait_while_running(self) -> None:
        """Wait for what runs, within the grace time: a loop that is stuck would not."""
        until = time.monotonic() + self._grace_seconds
        while self._running() and time.monotonic() < until:
            try:
                self._signals.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            return
