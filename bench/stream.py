"""The event stream: how long after it happened an event is at its clients, and what clients cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from bench.orchestrator import Orchestrator
from bench.results import Crowd, Latency, Streamed
from bench.shapes import Shape
from bench.stream_clients import WebProcess, clients
from bench.subject import BenchError

TWO_STEPS = Shape(name="two-steps", layers=(1, 1), what="two steps, one after the other")
EVENTS_OF_A_RUN: Final = 8
"""It begins; each of its steps is queued, runs and succeeds; it completes."""
STARTERS: Final = 4
IDLE_TENANTS: Final = 100
ARRIVE_S: Final = 1.0
HEALTH_S: Final = 0.25

Tell = Callable[[str], None]


CROWDS: Final = (
    Crowd(active=100, idle=0, events_a_second=500, seconds=20.0),
    Crowd(active=1_000, idle=1_000, events_a_second=10, seconds=30.0),
)
SHORT_CROWD: Final = Crowd(active=5, idle=5, events_a_second=40, seconds=1.0)


def stream(ours: Orchestrator, crowds: tuple[Crowd, ...], *, tell: Tell) -> list[Streamed]:
    """Measure each crowd; BenchError if a client missed an event, or lost its connection."""
    ours.publish(TWO_STEPS)
    return [_measure(ours, crowd, tell) for crowd in crowds]


def _measure(ours: Orchestrator, crowd: Crowd, tell: Tell) -> Streamed:
    before = WebProcess.now(ours)
    idle_tenants = min(IDLE_TENANTS, crowd.idle)
    with clients(ours, active=crowd.active, idle=crowd.idle, idle_tenants=idle_tenants) as crowded:
        joined = WebProcess.now(ours)
        load = start_evenly(ours, crowd.events_a_second, crowd.seconds)
        time.sleep(ARRIVE_S)
        worked = WebProcess.now(ours)
        found = crowded.end()
    expected = len(load.starts) * EVENTS_OF_A_RUN
    if found.broken or found.lines != expected:
        raise BenchError(f"{found.broken} streams broke; of {expected} events came {found.lines}")
    result = Streamed(
        crowd=crowd,
        events_a_second=expected / load.seconds,
        delays=_latency("an event", found.delays),
        after_request=_latency(
            "run.started, from its request", [at - load.starts[run].asked for run, at in found.begins]
        ),
        after_answer=_latency(
            "run.started, from its answer", [at - load.starts[run].answered for run, at in found.begins]
        ),
        health=_latency("health", load.health),
        connect_seconds=crowded.connect_seconds,
        kilobytes_a_client=(joined.kilobytes - before.kilobytes) / (crowd.active + crowd.idle),
        cpu_share=(worked.cpu_s - joined.cpu_s) / (load.seconds + ARRIVE_S),
    )
    p50, p99 = (1_000 * result.delays.percentile(percent) for percent in (50, 99))
    rate = f"{crowd.active} clients, {result.events_a_second:.0f} events a second"
    tell(f"stream           {rate}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return result


@dataclass(frozen=True, slots=True)
class Start:
    """When a run was asked for, and when the answer was there, in seconds of the epoch."""

    asked: float
    answered: float


@dataclass(frozen=True, slots=True)
class Load:
    """Runs that were started, and how long health took meanwhile."""

    starts: dict[str, Start]
    seconds: float
    health: list[float]


def start_evenly(ours: Orchestrator, events_a_second: float, seconds: float) -> Load:
    """Start runs at an even pace, over a few connections, and look at the health beside."""
    runs_a_second = events_a_second / EVENTS_OF_A_RUN
    total = max(1, int(runs_a_second * seconds))
    *starters, looker = ours.more_clients(STARTERS + 1)
    begun = time.perf_counter()

    def share(number: int) -> dict[str, Start]:
        starts = {}
        for place in range(number, total, STARTERS):
            time.sleep(max(0.0, begun + place / runs_a_second - time.perf_counter()))
            asked = time.time()
            run_id = str(starters[number].post("/runs", {"dagId": TWO_STEPS.name})["runId"])
            starts[run_id] = Start(asked, time.time())
        return starts

    def look() -> list[float]:
        took = []
        for place in range(int(total / runs_a_second / HEALTH_S)):
            time.sleep(max(0.0, begun + place * HEALTH_S - time.perf_counter()))
            looked = time.perf_counter()
            looker.get("/admin/health")
            took.append(time.perf_counter() - looked)
        return took

    with ThreadPoolExecutor(STARTERS + 1) as threads:
        looking = threads.submit(look)
        shares = list(threads.map(share, range(STARTERS)))
        taken = time.perf_counter() - begun
    starts = {run: start for each in shares for run, start in each.items()}
    return Load(starts, max(taken, total / runs_a_second), looking.result())


def _latency(what: str, seconds: list[float]) -> Latency:
    return Latency(what=what, seconds=tuple(sorted(seconds)))
