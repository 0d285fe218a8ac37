"""A steady load, whatever the answers take: how long do single requests wait?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.api_client import ApiClient
from bench.results import Latency
from bench.shapes import Shape

ONE_STEP = Shape(name="one-step", layers=(1,), what="one step that does nothing")
RATE = 200
"""Requests a second, half of them starts and half of them looks at a run."""
SECONDS = 30.0
SHORT_SECONDS = 1.0
CONNECTIONS = 16

START, LOOK = "POST /runs", "GET /runs/{id}"

Tell = Callable[[str], None]


def steady(clients: Sequence[ApiClient], *, seconds: float, tell: Tell) -> list[Latency]:
    """Send ``RATE`` requests a second for ``seconds``, each at its own time; tell how long each kind took.

    A request's time counts from when it was due, not from when a connection was free for it: a server that
    stalls makes every request wait that was due meanwhile, and all of them count.
    """
    clients[0].post("/dags", ONE_STEP.definition())
    begun = time.perf_counter() + 0.1
    total = int(RATE * seconds)

    def share(number: int) -> list[tuple[str, float]]:
        client, run_id, taken = clients[number], "", list[tuple[str, float]]()
        for place in range(number, total, len(clients)):
            due = begun + place / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            # Each connection takes turns, so that half of all are starts, spread evenly.
            start = not run_id or (place // len(clients)) % 2 == number % 2
            if start:
                run_id = str(client.post("/runs", {"dagId": ONE_STEP.name})["runId"])
            else:
                client.get(f"/runs/{run_id}")
            taken.append((START if start else LOOK, time.perf_counter() - due))
        return taken

    with ThreadPoolExecutor(max_workers=len(clients)) as threads:
        taken = [one for shares in threads.map(share, range(len(clients))) for one in shares]
    found = [
        Latency(what=kind, seconds=tuple(sorted(s for name, s in taken if name == kind)))
        for kind in (START, LOOK)
    ]
    for one in found:
        tell(f"{one.what:<16} {len(one.seconds)} requests, p99 {1_000 * one.percentile(99):.1f} ms")
    return found
