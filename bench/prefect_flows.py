"""Prefect as its users write it: a flow of tasks, those side by side given to the task runner.

Run by an interpreter that has Prefect: ``python -m bench.prefect_flows``; its environment names the server.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from bench.peer_lines import serve
from bench.shapes import Shape

SIDE_BY_SIDE = 8
"""Flow runs at a time, where a shape is more than one."""


# A key for a cache would only be worked out for nothing.
@task(cache_policy=NO_CACHE)
def noop() -> None:
    """Do nothing, as the plugin noop does."""


@flow
def run(layers: Sequence[int]) -> None:
    """Take the layers one after another."""
    for size in layers:
        if size == 1:
            noop()
        else:
            for end in [noop.submit() for _ in range(size)]:
                end.result()


def measure(shape: Shape) -> float:
    """Take a shape from its submission to its end, and tell the seconds; raises what a task raised."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(min(shape.runs, SIDE_BY_SIDE)) as threads:
        for end in [threads.submit(run, shape.layers) for _ in range(shape.runs)]:
            end.result()
    return time.perf_counter() - begun


if __name__ == "__main__":
    serve(measure)
