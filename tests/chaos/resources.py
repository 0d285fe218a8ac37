"""What the processes of a stack hold while nothing happens: it must not grow for as long as they live."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.embedded.process_tree import descendants, start_ticks

MAX_MORE_DESCRIPTORS = 32
"""A process opens its connections as it needs them, one a thread and some."""
MAX_MORE_THREADS = 16
WARM_AFTER_S = 180.0
MAX_MIB_A_MINUTE = 1.0
NOISE_MIB = 8.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at a moment."""

    at: float
    descriptors: int
    threads: int
    memory_mib: float


@dataclass(slots=True)
class Resources:
    """Looks at the processes when all is quiet, and compares each with itself."""

    first: dict[tuple[int, int], Held] = field(default_factory=dict)
    """By pid and the time of its start."""
    warm: dict[tuple[int, int], Held] = field(default_factory=dict)

    def look(self, programs: Mapping[str, int]) -> Iterator[str]:
        """Tell which of the programs, by their pids, and of their children hold more and more."""
        for name, top in programs.items():
            for pid in (top, *descendants(top)):
                held, started = _held(pid), start_ticks(pid)
                if held is not None and started is not None:
                    yield from self._compare(name, (pid, started), held)

    def _compare(self, name: str, process: tuple[int, int], held: Held) -> Iterator[str]:
        first = self.first.setdefault(process, held)
        if held.descriptors > first.descriptors + MAX_MORE_DESCRIPTORS:
            yield f"{name}: {held.descriptors} descriptors are open, {first.descriptors} were at first"
        if held.threads > first.threads + MAX_MORE_THREADS:
            yield f"{name}: {held.threads} threads, {first.threads} at first"
        if held.at - first.at < WARM_AFTER_S:
            return
        warm = self.warm.setdefault(process, held)
        minutes = (held.at - warm.at) / 60
        if held.memory_mib > warm.memory_mib + NOISE_MIB + MAX_MIB_A_MINUTE * minutes:
            yield f"{name}: {held.memory_mib:.0f} MiB, {warm.memory_mib:.0f} {minutes:.0f} minutes before"

    def table(self, programs: Mapping[str, int]) -> Iterator[str]:
        """Tell of each program that has lived for long how its memory went."""
        for name, pid in programs.items():
            started = start_ticks(pid)
            warm = None if started is None else self.warm.get((pid, started))
            held = _held(pid)
            if warm is not None and held is not None and held.at > warm.at:
                slope = (held.memory_mib - warm.memory_mib) / (held.at - warm.at) * 60
                yield f"{name}: {held.memory_mib:.0f} MiB, {slope:+.2f} MiB a minute"


def _held(pid: int) -> Held | None:
    """Look at a process; ``None`` if it has ended meanwhile."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    if "VmRSS" not in status:
        return None
    memory = int(status["VmRSS"].split()[0]) / 1024
    return Held(time.monotonic(), descriptors, int(status["Threads"]), memory)
