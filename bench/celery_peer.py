"""Celery's workers, on a Redis of their own, and the clock around its canvas."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from celery import Celery
from celery.exceptions import TimeoutError as ResultTimeoutError

from bench.canvas import Pool, canvas, make_app
from bench.processes import stopped_after, wait_until
from bench.shapes import Shape
from bench.subject import DidNotEnd
from shared.embedded import redis

_START_S = 30.0
_TIMEOUT_S = 30.0


class CeleryPeer:
    """One worker with its pool, called from this process as a user's program would call it."""

    slow = False

    def __init__(self, pool: Pool, app: Celery) -> None:
        self._pool = pool
        self._app = app

    @property
    def name(self) -> str:
        return self._pool.name

    def measure(self, shape: Shape) -> float:
        # Written before the clock starts; applied, as a user would do it, one after another.
        runs = [canvas(self._app, shape) for _ in range(shape.runs)]
        begun = time.perf_counter()
        results = [run.apply_async() for run in runs]
        try:
            for result in results:
                result.get(timeout=_TIMEOUT_S)
        except ResultTimeoutError as error:
            raise DidNotEnd(f"{self.name} did not end {shape.name} within {_TIMEOUT_S:.0f} s") from error
        return time.perf_counter() - begun

    def wait_until_ready(self) -> None:
        """Wait until the worker answers."""
        wait_until(self._answers, within_s=_START_S, what=self.name)

    def _answers(self) -> bool:
        return bool(self._app.control.ping(timeout=0.2, limit=1))


@contextmanager
def private_redis(folder: Path) -> Iterator[Path]:
    """Run a second Redis, set up exactly as the embedded one; give the path of its socket."""
    folder.mkdir(mode=0o700)
    program = redis.redis_program(folder, folder)
    with stopped_after(program.start(folder / "redis.log"), within_s=5):
        wait_until(lambda: redis.is_ready(folder), within_s=_START_S, what="the Redis for Celery")
        yield folder / redis.SOCKET_NAME


@contextmanager
def celery_peers(folder: Path, pools: tuple[Pool, ...]) -> Iterator[list[CeleryPeer]]:
    """Run a worker for each pool, each in a database of its own; they may still be starting."""
    with ExitStack() as stack:
        socket = stack.enter_context(private_redis(folder))
        peers: list[CeleryPeer] = []
        for database, pool in enumerate(pools):
            url = f"redis+socket://{socket}?virtual_host={database}"
            stack.enter_context(_worker(url, pool, folder))
            peers.append(CeleryPeer(pool, make_app(url)))
        # A result says goodbye to Redis when it is collected, which must not be after Redis has ended.
        stack.callback(gc.collect)
        yield peers


@contextmanager
def _worker(url: str, pool: Pool, folder: Path) -> Iterator[None]:
    argv = [sys.executable, "-m", "bench.canvas", url, pool.kind, str(pool.concurrency)]
    with (folder / f"{pool.kind}.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    with stopped_after(process, within_s=10):
        yield
