"""More worker processes: how many more steps a second, and what is full when it is no more?"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.orchestrator import Orchestrator, orchestrator
from bench.results import Scaled
from bench.sessions import sessions
from bench.shapes import Shape
from bench.steady import Tell

WORKERS: Final = (1, 2, 4)
SHORT_WORKERS: Final = (2,)
_WIDE: Final = Shape(
    name="wide", layers=(1, 100, 1), runs=20, what="20 runs of 1 step, then 100, then 1; they do nothing"
)
_LONG: Final = Shape(name="long", layers=(1,) * 40, runs=50, what="50 runs of a chain of 40; they do nothing")
_WIDE_ASLEEP: Final = replace(_WIDE, name="wide-asleep", sleep_ms=20, what="as wide; each step sleeps 20 ms")
_LONG_ASLEEP: Final = replace(_LONG, name="long-asleep", sleep_ms=20, what="as long; each step sleeps 20 ms")
SHAPES: Final = (_WIDE, _WIDE_ASLEEP, _LONG, _LONG_ASLEEP)
SHORT_SHAPES: Final = tuple(replace(shape, layers=(1, 5, 1), runs=2) for shape in SHAPES)


def scale(folder: Path, *, repeat: int, short: bool, tell: Tell) -> list[Scaled]:
    """Measure each shape on a stack of its own for each number of workers, after a round to warm up."""
    found = []
    for number in SHORT_WORKERS if short else WORKERS:
        with orchestrator(folder / f"workers-{number}", workers=number) as ours:
            found += [
                _measure(ours, number, shape, repeat, tell) for shape in (SHORT_SHAPES if short else SHAPES)
            ]
    return found


def _measure(ours: Orchestrator, workers: int, shape: Shape, repeat: int, tell: Tell) -> Scaled:
    ours.measure(shape)
    before, client = ours.cpu_seconds(), time.process_time()
    with sessions(ours) as seen:
        seconds = [ours.measure(shape) for _ in range(repeat)]
    used = {name: second - before[name] for name, second in ours.cpu_seconds().items()}
    used["client"] = time.process_time() - client
    taken = sum(seconds)
    found = Scaled(
        workers=workers,
        shape=shape,
        seconds=taken / repeat,
        cores={name: second / taken for name, second in used.items()},
        sessions=seen.mean(),
    )
    cores = ", ".join(f"{name} {share:.2f}" for name, share in found.cores.items())
    busy = ", ".join(f"{what} {number:.1f}" for what, number in found.sessions.items())
    tell(f"scale            {workers} x {shape.name}: {found.steps_a_second:.0f} steps a second")
    tell(f"                 cores: {cores}; sessions: {busy}")
    return found
