"""DBOS as its users write it: a workflow of steps in the calling process, steps side by side on threads.

Run by an interpreter that has DBOS: ``python -m bench.dbos_flows URL``. Of all settings tried these were the
fastest on two cores. For steps side by side, faster than coroutines: plain functions on 4 threads, each with
the number that the workflow reserved for it, as DBOS wants it for steps that run at once. Faster than a queue
with two worker processes: 100 workflows started in the calling process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from dbos import DBOS

from bench.peer_lines import serve
from bench.shapes import Shape

SIDE_BY_SIDE = 4
_threads = ThreadPoolExecutor(SIDE_BY_SIDE)


def noop() -> None:
    """Do nothing, as the plugin noop does."""


step = DBOS.step()(noop)


@DBOS.workflow()
def run(layers: Sequence[int]) -> None:
    """Take the layers one after another; each step's end is in the database before the next layer begins."""
    for size in layers:
        if size == 1:
            step()
        else:
            _side_by_side(size)


def _side_by_side(size: int) -> None:
    steps = [DBOS.reserve_step() for _ in range(size)]
    ends = [_threads.submit(copy_context().run, step.run, None, noop) for step in steps]
    for end in ends:
        end.result()


def measure(shape: Shape) -> float:
    """Take a shape from its submission to its end, and tell the seconds; raises what a step raised."""
    begun = time.perf_counter()
    if shape.runs == 1:
        run(shape.layers)
    else:
        handles = [DBOS.start_workflow(run, shape.layers) for _ in range(shape.runs)]
        for handle in handles:
            handle.get_result()
    return time.perf_counter() - begun


def main(argv: list[str]) -> None:
    """Launch DBOS on the database at the URL, and serve."""
    _, url = argv
    DBOS(
        config={
            "name": "bench",
            "system_database_url": url,
            # Each use of a connection would begin with a round trip to see whether it still works.
            "db_engine_kwargs": {"pool_pre_ping": False},
            "log_level": "WARNING",
        }
    )
    DBOS.launch()
    try:
        serve(measure)
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv)
