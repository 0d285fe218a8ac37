"""The shapes that are measured: layers of steps, each step after every step of the layer before."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    sleep_ms: int | None = None
    """How long each step sleeps; ``None``: it does nothing. Peers know only the latter."""

    @property
    def steps(self) -> int:
        """How many steps end until the shape is done."""
        return sum(self.layers) * self.runs

    @property
    def unknown(self) -> Shape:
        """The same of steps of which our worker does not know that they do nothing: they sleep for 0 ms."""
        return replace(self, name=f"{self.name}-unknown", sleep_ms=0)

    def definition(self, version: str = "1.0.0") -> JsonObject:
        """Write it as a DAG for POST /dags."""
        layers = [
            [f"s{number:04}-{place:04}" for place in range(size)] for number, size in enumerate(self.layers)
        ]
        body: JsonObject = (
            {"uses": "noop"} if self.sleep_ms is None else {"uses": "sleep", "with": {"ms": self.sleep_ms}}
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

FAN38 = Shape(name="fan38", layers=(1, 38, 1), what="1 step, then 38 side by side, then 1")

LONG_CHAIN = Shape(name="chain10000", layers=(1,) * 10_000, what="10,000 steps, one after another")
WIDE_FAN = Shape(name="fan9998", layers=(1, 9_998, 1), what="1 step, then 9,998 side by side, then 1")
LARGE = {large.name: (large, small) for large, small in ((LONG_CHAIN, CHAIN40), (WIDE_FAN, FAN38))}
"""Each with one like it of 40 steps, measured in the same run: a step should cost the same in both."""

SHORT = (
    Shape(name="chain40", layers=(1,) * 40, what=CHAIN40.what),
    Shape(name="fan20", layers=(1, 20, 1), what="1 step, then 20 side by side, then 1"),
    Shape(name="diamond3", layers=(5, 1) * 3, what="3 layers of 5 steps, each followed by a join"),
    Shape(name="runs10x5", layers=(1,) * 5, runs=10, what="10 runs of a 5-step chain, started at once"),
)
"""Small ones, which only prove that the benchmark works."""
