"""On a fleet that has nothing else to do: how long does a step that is ready wait for its worker?"""

from __future__ import annotations

import time
from typing import Final

from bench.first_step import steps_of
from bench.orchestrator import Orchestrator, at
from bench.processes import wait_until
from bench.results import Latency
from bench.shapes import Shape
from bench.steady import Tell
from shared.domain.models import JsonObject

RUNS: Final = 100
SHORT_RUNS: Final = 3
FAN: Final = Shape(
    name="ready", layers=(1, 3), sleep_ms=150, what="a step, then three side by side; each sleeps 150 ms"
)
"""Each step takes longer than a worker's time slice, so that it hands none on: all of them cross Redis."""
FIRST, UNLOCKED = "a run's first step", "a step behind another"
_PAUSES_S: Final = (0.05, 0.13, 0.21)
"""Between runs, of several lengths, so that the sweeper's beat is met at all of its moments."""
_END_S: Final = 30.0


def ready(ours: Orchestrator, *, short: bool, tell: Tell) -> list[Latency]:
    """Run one run after another; tell the time from ``queuedUtc`` to ``startedUtc`` of their steps."""
    ours.publish(FAN)
    (client,) = ours.more_clients(1)
    first, unlocked = list[float](), list[float]()
    for number in range(SHORT_RUNS if short else RUNS):
        run = str(client.post("/runs", {"dagId": FAN.name})["runId"])
        wait_until(
            lambda run=run: client.get(f"/runs/{run}")["status"] == "completed",  # type: ignore[misc]
            within_s=_END_S,
            what="the end of a run",
        )
        begin, *others = (_waited(step) for step in steps_of(client, run))
        first.append(begin)
        unlocked += others
        time.sleep(_PAUSES_S[number % len(_PAUSES_S)])
    found = [Latency(what=FIRST, seconds=tuple(sorted(first)))]
    found.append(Latency(what=UNLOCKED, seconds=tuple(sorted(unlocked))))
    for one in found:
        p50, p95 = (1_000 * one.percentile(percent) for percent in (50, 95))
        tell(f"ready            {one.what}: p50 {p50:.0f} ms, p95 {p95:.0f} ms")
    return found


def _waited(step: JsonObject) -> float:
    return at(step, "startedUtc") - at(step, "queuedUtc")
