"""Runs started at an even pace: how long until the API has answered, and until the first step runs?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, cast

from bench.api_client import ApiClient
from bench.orchestrator import Orchestrator, at
from bench.processes import wait_until
from bench.results import Latency
from bench.steady import CONNECTIONS, ONE_STEP, START, Tell
from shared.domain.models import JsonObject

RATE: Final = 50
"""Runs a second."""
SECONDS: Final = 30.0
SHORT_SECONDS: Final = 1.0
FIRST: Final = "to the first step running"
_RESOLUTION_S: Final = 0.001
"""The ledger cuts times off after the millisecond; that much is added, so that none is told too short."""
_END_S: Final = 30.0


def first_step(ours: Orchestrator, *, short: bool, tell: Tell) -> list[Latency]:
    """Start ``RATE`` runs a second, each at its own time, and look afterwards when each began.

    Both times count from when the request was due. The second ends with the ``startedUtc`` of the run's
    step, by the clock of the same machine.
    """
    ours.publish(ONE_STEP)
    clients = ours.more_clients(CONNECTIONS)
    total = int(RATE * (SHORT_SECONDS if short else SECONDS))
    begun, epoch = time.perf_counter() + 0.1, time.time() + 0.1

    def share(number: int) -> list[tuple[str, float, float]]:
        started = []
        for place in range(number, total, len(clients)):
            due = place / RATE
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            run = clients[number].post("/runs", {"dagId": ONE_STEP.name})
            started.append((str(run["runId"]), epoch + due, time.perf_counter() - begun - due))
        return started

    with ThreadPoolExecutor(max_workers=len(clients)) as threads:
        started = [one for shares in threads.map(share, range(len(clients))) for one in shares]
    wait_until(lambda: _none_runs(clients[0]), within_s=_END_S, what="the end of all runs")
    waited = [
        (at(step, "startedUtc") - due + _RESOLUTION_S)
        for run, due, _ in started
        for step in steps_of(clients[0], run)
    ]
    found = [
        Latency(what=START, seconds=tuple(sorted(took for _, _, took in started))),
        Latency(what=FIRST, seconds=tuple(sorted(waited))),
    ]
    for one in found:
        p50, p99 = (1_000 * one.percentile(percent) for percent in (50, 99))
        tell(f"first-step       {one.what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return found


def steps_of(client: ApiClient, run: str) -> Sequence[JsonObject]:
    """Read the steps of a run, in topological order."""
    return cast("Sequence[JsonObject]", client.get(f"/runs/{run}")["steps"])


def _none_runs(client: ApiClient) -> bool:
    query = {"dagId": ONE_STEP.name, "status": "running", "page_size": "1"}
    return not client.get("/runs", query)["items"]
