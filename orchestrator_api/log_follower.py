"""Send a step's log while it grows: what Redis shows at once, the rest when the attempt has ended."""

from __future__ import annotations

import errno
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator_api.errors import TooManyFollowers
from shared.artifacts import ArtifactStore
from shared.domain.models import RunId, Sha256, StepId, TenantId
from shared.domain.states import AttemptStatus
from shared.errors import QueueUnavailable, Unavailable
from shared.messaging.live_log import START, LiveLogs, LogKey
from shared.services import logs
from shared.services.logs import Log
from shared.store.db import Database

T = TypeVar("T")

PAUSE_SECONDS: Final = 0.3
_CHUNK_BYTES = 65_536
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Interrupted(ConnectionResetError):
    """The text cannot be sent to its end: the connection is cut, or the client would take it for whole."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.ECONNRESET, why)


class Followers:
    """How many may follow at a time in this process, and whether it is about to stop."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)
        self.closing = False

    def enter(self) -> None:
        """Take a place; ``leave`` gives it back. Raises TooManyFollowers."""
        if not self._free.acquire(blocking=False):
            raise TooManyFollowers(
                "too many callers follow a log just now; try again, or read it without follow"
            )

    def leave(self) -> None:
        """Give a place back."""
        self._free.release()

    def close(self) -> None:
        """Have every follower end soon. Safe in a signal handler."""
        self.closing = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose log is followed; ``attempt`` is ``None`` for the newest one and all that follow it."""

    tenant: TenantId
    run_id: RunId
    step_id: StepId
    attempt: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where a log comes from."""

    db: Database
    live: LiveLogs
    artifacts: ArtifactStore


class LogFollower:
    """Sends every byte of a log once and in order, for as long as ``interrupted`` gives no reason to end."""

    def __init__(self, of: Subject, sources: Sources, *, interrupted: Callable[[], str | None]) -> None:
        self._of = of
        self._sources = sources
        self._interrupted = interrupted
        self._begin()

    def _begin(self) -> None:
        """Stand before the first byte of an attempt's log."""
        self._sent = 0
        self._after = START

    def text(self) -> Iterator[bytes]:
        """Send the log until the step, or the one attempt, has ended; raises Interrupted."""
        yield b""  # The head of the response goes out at once, however long the first line takes.
        number = self._of.attempt or max(self._look(None).newest, 1)
        while True:
            log = self._look(number)
            if log.status is AttemptStatus.RUNNING:
                yield from self._live(log, number)
            elif log.status is not None:
                if log.stored_as is not None:
                    yield from self._rest(log.stored_as)
                if self._of.attempt is not None:
                    return
                number += 1
                self._begin()
                continue
            elif log.step_status.is_terminal:
                return
            self._pause()

    def _look(self, number: int | None) -> Log:
        of = self._of
        return self._insist(lambda: logs.get(self._sources.db, of.tenant, of.run_id, of.step_id, number))

    def _live(self, log: Log, number: int) -> Iterator[bytes]:
        """Send what Redis has of a running attempt's log, unless something is missing before it."""
        key = LogKey(self._of.tenant, self._of.run_id, log.step_no, number)
        try:
            while True:
                pieces, self._after = self._sources.live.read(key, self._after)
                if not pieces:
                    return
                for piece in pieces:
                    more = piece.beyond(self._sent)
                    self._sent += len(more)
                    yield more
        except QueueUnavailable:
            return

    def _rest(self, sha256: Sha256) -> Iterator[bytes]:
        with self._insist(lambda: self._sources.artifacts.open(sha256)) as file:
            file.seek(self._sent)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk

    def _insist(self, read: Callable[[], T]) -> T:
        """Read from a store, again and again while it is out of reach."""
        while True:
            try:
                return read()
            except Unavailable:
                self._pause()

    def _pause(self) -> None:
        time.sleep(PAUSE_SECONDS)
        reason = self._interrupted()
        if reason is not None:
            raise Interrupted(reason)


def hung_up(environ: dict[str, object]) -> Callable[[], bool]:
    """Make a function that tells whether the client of a request has gone, without writing to it."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return lambda: False
    poll = select.poll()
    poll.register(connection, _HUNG_UP)  # type: ignore[arg-type]  # gunicorn's socket.
    return lambda: any(events & _HUNG_UP for _, events in poll.poll(0))
