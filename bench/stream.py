"""The event stream: how long after it happened an event is at its clients, and what clients cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.orchestrator import Orchestrator
from bench.processes import stopped_after
from bench.results import Crowd, Latency, Streamed
from bench.shapes import Shape
from bench.subject import BenchError

TWO_STEPS = Shape(name="two-steps", layers=(1, 1), what="two steps, one after the other")
EVENTS_OF_A_RUN: Final = 8
"""It begins; each of its steps is queued, runs and succeeds; it completes."""
_STOP_S: Final = 20.0
_ARRIVE_S: Final = 1.0
_HEALTH_S: Final = 0.25

Tell = Callable[[str], None]


CROWDS: Final = (
    Crowd(active=100, idle=0, events_a_second=500, seconds=20.0),
    Crowd(active=1_000, idle=1_000, events_a_second=10, seconds=20.0),
)
SHORT_CROWD: Final = Crowd(active=5, idle=5, events_a_second=40, seconds=1.0)


def stream(ours: Orchestrator, crowds: tuple[Crowd, ...], *, tell: Tell) -> list[Streamed]:
    """Measure each crowd; BenchError if a client missed an event, or lost its connection."""
    ours.more_clients(1)[0].post("/dags", TWO_STEPS.definition())
    return [_measure(ours, crowd, tell) for crowd in crowds]


def _measure(ours: Orchestrator, crowd: Crowd, tell: Tell) -> Streamed:
    reader = subprocess.Popen(
        [sys.executable, "-m", "bench.stream_reader"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with stopped_after(reader, within_s=_STOP_S):
        assert reader.stdin is not None
        assert reader.stdout is not None
        before = _Web.now(ours)
        active, idle = ours.account(), ours.account("bench-idle")
        wanted = {
            "host": ours.address[0],
            "port": ours.address[1],
            "active": crowd.active,
            "idle": crowd.idle,
            "active_as": active,
            "idle_as": idle,
        }
        reader.stdin.write(json.dumps(wanted).encode() + b"\n")
        reader.stdin.flush()
        connect_seconds = float(_answer(reader)["ready"])
        joined = _Web.now(ours)
        runs, took, health = _load(ours, crowd)
        time.sleep(_ARRIVE_S)
        worked = _Web.now(ours)
        reader.stdin.close()
        found = _answer(reader)
    lines = set(found["lines"])
    if found["broken"] or lines != {runs * EVENTS_OF_A_RUN}:
        raise BenchError(f"{found['broken']} streams broke; of {runs * EVENTS_OF_A_RUN} events came {lines}")
    result = Streamed(
        crowd=crowd,
        events_a_second=runs * EVENTS_OF_A_RUN / took,
        delays=Latency(what="an event", seconds=tuple(sorted(found["delays"]))),
        health=Latency(what="health", seconds=tuple(sorted(health))),
        connect_seconds=connect_seconds,
        kilobytes_a_client=(joined.kilobytes - before.kilobytes) / (crowd.active + crowd.idle),
        cpu_share=(worked.cpu_s - joined.cpu_s) / (took + _ARRIVE_S),
    )
    p50, p99 = (1_000 * result.delays.percentile(percent) for percent in (50, 99))
    rate = f"{crowd.active} clients, {result.events_a_second:.0f} events a second"
    tell(f"stream           {rate}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    return result


def _load(ours: Orchestrator, crowd: Crowd) -> tuple[int, float, list[float]]:
    """Start runs at an even pace; give their number, the seconds, and how long health took meanwhile."""
    client, looker = ours.more_clients(2)
    runs_a_second = crowd.events_a_second / EVENTS_OF_A_RUN
    total = max(1, int(runs_a_second * crowd.seconds))
    health: list[float] = []
    begun = next_look = time.perf_counter()
    for number in range(total):
        time.sleep(max(0.0, begun + number / runs_a_second - time.perf_counter()))
        client.post("/runs", {"dagId": TWO_STEPS.name})
        if time.perf_counter() >= next_look:
            looked = time.perf_counter()
            looker.get("/admin/health")
            health.append(time.perf_counter() - looked)
            next_look = looked + _HEALTH_S
    return total, time.perf_counter() - begun, health


def _answer(reader: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert reader.stdout is not None
    line = reader.stdout.readline()
    if not line:
        raise BenchError("the clients of the stream ended; what they wrote above says why")
    answer: dict[str, Any] = json.loads(line)
    return answer


@dataclass(frozen=True, slots=True)
class _Web:
    """The web process that serves: its memory, and the CPU time that it has used."""

    kilobytes: int
    cpu_s: float

    @classmethod
    def now(cls, ours: Orchestrator) -> _Web:
        master = ours.process("web")
        (pid,) = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        ticks = int(user) + int(system)
        return cls(int(status.partition("VmRSS:")[2].split()[0]), ticks / _TICKS)


_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""In these the kernel counts CPU time, so many a second."""
