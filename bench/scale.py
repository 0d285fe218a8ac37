"""More worker processes: how many more steps a second, and what is full when it is no more?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.orchestrator import Orchestrator, orchestrator
from bench.results import Scaled
from bench.shapes import Shape
from bench.steady import Tell
from bench.usage import cpu_seconds

WORKERS: Final = (1, 2, 4)
SHORT_WORKERS: Final = (2,)
_NOTHING: Final = Shape(
    name="wide", layers=(1, 100, 1), runs=20, what="20 runs of 1 step, then 100, then 1, which do nothing"
)
_SLEEPING: Final = replace(
    _NOTHING, name="wide-asleep", sleep_ms=20, what="the same, where each step sleeps 20 ms"
)
SHAPES: Final = (_NOTHING, _SLEEPING)
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
    before, client = _cpu(ours), time.process_time()
    seconds = [ours.measure(shape) for _ in range(repeat)]
    used = {name: second - before[name] for name, second in _cpu(ours).items()}
    used["client"] = time.process_time() - client
    taken = sum(seconds)
    found = Scaled(
        workers=workers, shape=shape, seconds=taken / repeat, cores={n: s / taken for n, s in used.items()}
    )
    cores = ", ".join(f"{name} {share:.2f}" for name, share in found.cores.items())
    tell(f"scale            {workers} x {shape.name}: {found.steps_a_second:.0f} steps a second; {cores}")
    return found


def _cpu(ours: Orchestrator) -> Mapping[str, float]:
    """Tell the CPU seconds that each kind of program has used so far."""
    used: dict[str, float] = {}
    for name, pid in ours.programs().items():
        kind = name.partition("-")[0]
        used[kind] = used.get(kind, 0.0) + cpu_seconds(pid)
    return used
