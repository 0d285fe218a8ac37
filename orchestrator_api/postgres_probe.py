"""Ask PostgreSQL whether it is there, and for the fleet, without waiting long for the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from shared.errors import StoreUnavailable
from shared.services import health
from shared.store.db import Database

TIMEOUT_SECONDS = 1.0


def postgres_probe(db: Database, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Callable[[], int]:
    """Make a function that counts the live workers, or raises StoreUnavailable after a second.

    A server that is frozen, and not down, answers nothing, not even its own time-outs. So a thread
    waits for it, at most one whoever asks, and ends when the server goes on. ``db`` should
    be for this alone: else a flood of requests would look like a server that is away.
    """
    lock = threading.Lock()
    last: Future[int] = Future()
    last.set_result(0)

    def ask(answer: Future[int]) -> None:
        try:
            answer.set_result(health.live_workers(db))
        except BaseException as error:  # noqa: BLE001  # Raised again where the answer is waited for.
            answer.set_exception(error)

    def probe() -> int:
        nonlocal last
        with lock:
            if last.done():
                last = Future()
                threading.Thread(target=ask, args=(last,), name="postgres-probe", daemon=True).start()
            answer = last
        try:
            return answer.result(timeout_seconds)
        except TimeoutError:
            raise StoreUnavailable("PostgreSQL does not answer") from None

    return probe
