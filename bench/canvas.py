"""Celery's canvas as its users write it: the app, its one task, the shapes as chains and groups."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from celery import Celery, Signature, chain, group

from bench.shapes import Shape

NOOP = "bench.noop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A worker's pool, and how many tasks it runs at a time."""

    kind: str
    concurrency: int

    @property
    def name(self) -> str:
        return f"Celery canvas, {self.kind} -c{self.concurrency}"


PREFORK = Pool(kind="prefork", concurrency=2)
THREADS = Pool(kind="threads", concurrency=8)


def make_app(url: str) -> Celery:
    """Build an app with Celery's defaults: Redis carries the messages and keeps the results."""
    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True

    # Shared, as is the default, it would also be added to the other apps of this process.
    @app.task(name=NOOP, shared=False)
    def noop() -> None:
        """Do nothing, as the plugin noop does."""

    return app


def canvas(app: Celery, shape: Shape) -> Signature:
    """Write one run of a shape; a group that a task follows becomes a chord with that task as its body."""
    noop = app.tasks[NOOP]
    return chain(
        *(noop.si() if size == 1 else group(noop.si() for _ in range(size)) for size in shape.layers), app=app
    )


def main(argv: list[str]) -> None:
    """Run a worker: ``python -m bench.canvas URL POOL CONCURRENCY``."""
    _, url, pool, concurrency = argv
    make_app(url).worker_main(
        [
            "worker",
            f"--pool={pool}",
            f"--concurrency={concurrency}",
            "--loglevel=warning",
            f"--hostname={pool}@bench",
        ]
    )


if __name__ == "__main__":
    main(sys.argv)
