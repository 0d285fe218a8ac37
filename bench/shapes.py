"""The shapes that are measured: layers of steps, each step after every step of the layer before."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

from shared.domain.models import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A DAG of steps that do nothing, and how many runs of it are started at once.

    Of two layers that follow each other one has a single step, so that Celery's canvas
    can say the same: a chain of tasks and groups, where a group before a task is a chord.
    """

    name: str
    layers: tuple[int, ...]
    what: str
    runs: int = 1
    sleep_ms: int = 0
    """How long each step sleeps; 0: it does nothing. Peers know only the latter."""

    @property
    def steps(self) -> int:
        """How many steps end until the shape is done."""
        return sum(self.layers) * self.runs

    def definition(self, version: str = "1.0.0") -> JsonObject:
        """Write it as a DAG for POST /dags."""
        layers = [
            [f"s{number:04}-{place:04}" for place in range(size)] for number, size in enumerate(self.layers)
        ]
        body: JsonObject = (
            {"uses": "sleep", "with": {"ms": self.sleep_ms}} if self.sleep_ms else {"uses": "noop"}
        )
        return {
            "dagId": self.name,
            "version": version,
            "steps": [{"id": step, **body} for layer in layers for step in layer],
            "edges": [
                {"from": before, "to": after}
                for one, next_one in pairwise(layers)
                for before, after in product(one, next_one)
            ],
        }


CHAIN40 = Shape(name="chain40", layers=(1,) * 40, what="40 steps, one after another")
CHAIN200 = Shape(name="chain200", layers=(1,) * 200, what="200 steps, one after another")
FAN200 = Shape(name="fan200", layers=(1, 200, 1), what="1 step, then 200 side by side, then 1")
DIAMOND = Shape(name="diamond", layers=(10, 1) * 10, what="10 layers of 10 steps, each followed by a join")
RUNS100X5 = Shape(
    name="runs100x5", layers=(1,) * 5, runs=100, what="100 runs of a 5-step chain, started at once"
)
SHAPES = {shape.name: shape for shape in (CHAIN40, CHAIN200, FAN200, DIAMOND, RUNS100X5)}

LONG_CHAIN = Shape(name="chain10000", layers=(1,) * 10_000, what="10,000 steps, one after another")
WIDE_FAN = Shape(name="fan9998", layers=(1, 9_998, 1), what="1 step, then 9,998 side by side, then 1")
LARGE = {shape.name: shape for shape in (LONG_CHAIN, WIDE_FAN)}
"""Held against ``CHAIN40`` in the same run: a step should cost the same in a run of any size."""

SHORT = (
    Shape(name="chain40", layers=(1,) * 40, what=CHAIN40.what),
    Shape(name="fan20", layers=(1, 20, 1), what="1 step, then 20 side by side, then 1"),
    Shape(name="diamond3", layers=(5, 1) * 3, what="3 layers of 5 steps, each followed by a join"),
    Shape(name="runs10x5", layers=(1,) * 5, runs=10, what="10 runs of a 5-step chain, started at once"),
)
"""Small ones, which only prove that the benchmark works."""
