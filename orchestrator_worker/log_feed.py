"""Shows the logs of running attempts while they grow, from a thread of its own that no step waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from orchestrator_worker.step_context import AttemptLog
from shared.domain.models import Claim
from shared.errors import Unavailable
from shared.messaging.complaint import Complaint
from shared.messaging.live_log import LiveLogs, LogKey, Piece

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

TICK_SECONDS = 0.25
PIECE_BYTES = 262_144
KEEP_EVERY_SECONDS = 30.0


@dataclass(slots=True)
class _Shown:
    """A log that grows, how much of it was published, and when."""

    log: AttemptLog
    bytes: int = 0
    at: float = 0.0


class LogFeed:
    """Copies growing logs to Redis, the first ``max_bytes`` of each; 0 turns it off.

    Best effort: the log in the worker's memory is the original, so what cannot be sent
    waits there for the next turn, and is never missing from the artifact. An attempt
    that logs nothing, or ends within a turn, costs nothing here.
    """

    def __init__(self, live: LiveLogs, *, max_bytes: int) -> None:
        self._live = live
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._shown: dict[LogKey, _Shown] = {}
        self._ended: set[LogKey] = set()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self.failed = Complaint("live_logs_not_published")
        """Turns in which Redis took nothing; the next one tries again."""

    @contextmanager
    def showing(self, claim: Claim, log: AttemptLog) -> Iterator[None]:
        """Show the log of an attempt within the block, once there is something in it."""
        if not self._max_bytes:
            yield
            return
        key = LogKey(claim.tenant, claim.run_id, claim.step_no, claim.attempt)
        log.on_first_write = partial(self._begin, key, log)
        try:
            yield
        finally:
            log.on_first_write = None
            self._end(key)

    def close(self) -> None:
        """End the thread. One that hangs in Redis is left behind."""
        with self._changed:
            self._closed.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _begin(self, key: LogKey, log: AttemptLog) -> None:
        with self._changed:
            self._shown[key] = _Shown(log)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="log-feed", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _end(self, key: LogKey) -> None:
        if key not in self._shown:
            return
        with self._changed:
            if self._shown.pop(key).bytes:
                self._ended.add(key)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (self._shown or self._ended or self._closed.is_set()):
                    self._changed.wait()
            if self._closed.wait(TICK_SECONDS):
                return
            try:
                self.publish_once()
            except Unavailable as error:
                self.failed.note(error)
            except Exception as error:
                # The thread must outlive what nobody foresaw, or no later log would be shown.
                self.failed.note(error)
                LOGGER.exception("log_feed_failed")

    def publish_once(self) -> None:
        """Publish what has come since the last turn, or raise QueueUnavailable and leave it to the next."""
        with self._changed:
            shown, ended = dict(self._shown), set(self._ended)
        now, pieces, keep = time.monotonic(), dict[LogKey, Piece](), set[LogKey]()
        for key, one in shown.items():
            data = one.log.piece(one.bytes, min(PIECE_BYTES, self._max_bytes - one.bytes))
            if data:
                pieces[key] = Piece(one.bytes, data)
            elif one.bytes and now - one.at > KEEP_EVERY_SECONDS:
                keep.add(key)
        if pieces or keep or ended:
            self._live.publish(pieces, keep=keep, ended=ended)
        for key in (*pieces, *keep):
            shown[key].bytes += len(pieces[key].data) if key in pieces else 0
            shown[key].at = now
        with self._changed:
            self._ended -= ended
