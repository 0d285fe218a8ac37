"""What is measured: something that can take a shape from its submission to its end."""

from __future__ import annotations

from typing import Protocol

from bench.shapes import Shape

TIMEOUT_S = 120.0
"""For one measurement; then the benchmark gives up."""


class BenchError(Exception):
    """The benchmark cannot go on; its message is for the person who runs it."""


class DidNotEnd(BenchError):
    """A peer lost something on the way: not all of its tasks' ends were seen in time."""


class Subject(Protocol):
    """One of those that are compared."""

    @property
    def name(self) -> str: ...

    @property
    def slow(self) -> bool:
        """Tell whether it takes so long that one round, after one to warm up, has to do."""
        ...

    def measure(self, shape: Shape) -> float:
        """Submit the shape and wait until it is done; return the seconds. Raises BenchError if it fails."""
        ...
