"""Hears that runs are cancelled, and has the leases of their steps renewed: that tells what to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from shared.domain.models import RunId
from shared.errors import Unavailable
from shared.messaging.cancel_hints import CancelHints
from shared.messaging.complaint import Complaint

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

GATHER_SECONDS = 0.02
"""Hints that come within this time share a renewal, however many somebody sends."""
RETRY_SECONDS = 1.0


class CancelListener:
    """Hands hints to ``look``, from a thread that no lease waits for.

    ``failed`` counts how often Redis was out of reach. Until it is back, workers learn of
    cancellations with the renewals that they make anyway.
    """

    def __init__(self, hints: CancelHints, look: Callable[[frozenset[RunId]], None]) -> None:
        self._hints = hints
        self._look = look
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancel-listener", daemon=True)
        self.failed = Complaint("cancel_hints_not_heard")

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End the thread. One that hangs in Redis is left behind."""
        self._closed.set()
        self._thread.join(1.0)
        self._hints.close()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                for runs in self._hints.hear():
                    if runs:
                        self._look(runs)
                    if self._closed.wait(GATHER_SECONDS if runs else 0):
                        return
            except Unavailable as error:
                self.failed.note(error)
            except Exception as error:
                # The thread must outlive what nobody foresaw, or no later hint would be heard.
                self.failed.note(error)
                LOGGER.exception("cancel_listener_failed")
            self._closed.wait(RETRY_SECONDS)
