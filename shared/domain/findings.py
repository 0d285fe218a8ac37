"""All that is wrong with a definition, and the one error that tells it."""

from __future__ import annotations

from collections.abc import Iterable

from shared.errors import DagCycle, InvalidDag, Problem

MAX_PROBLEMS = 100
"""So many are listed, the others counted. 10,000 wrong steps make no 1 MB answer."""


class Findings:
    """Collects problems, each with the error that it would be if it were alone."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._problems: list[Problem] = []
        self._count = 0
        self._kinds: set[type[InvalidDag]] = set()
        self._cycle: DagCycle | None = None
        self.extend(problems)

    def add(self, place: str, message: str, kind: type[InvalidDag] = InvalidDag) -> None:
        """Note one problem."""
        self._count += 1
        self._kinds.add(kind)
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(Problem(place, message))

    def extend(self, problems: Iterable[Problem], within: str = "") -> None:
        """Note problems whose places are ``within`` another."""
        for problem in problems:
            joint = "." if within and problem.field and not problem.field.startswith(("[", ".")) else ""
            self.add(within + joint + problem.field, problem.message)

    def check_range(self, place: str, value: float, least: float, most: float, unit: str = "") -> None:
        """Note it unless ``least <= value <= most``."""
        if not least <= value <= most:
            self.add(place, f"must be {least:,} to {most:,} {unit}".rstrip())

    def add_cycle(self, cycle: DagCycle) -> None:
        """Note a cycle; as the only problem it is raised as it is."""
        self._cycle = cycle
        for problem in cycle.problems:
            self.add(problem.field, problem.message, DagCycle)

    def raise_any(self) -> None:
        """Raise what was found, if anything was."""
        if not self._count:
            return
        if self._cycle is not None and self._count == 1:
            raise self._cycle
        kind = InvalidDag
        if len(self._kinds) == 1:
            kind = next(iter(self._kinds))
        first = min(self._problems)
        raise kind(f"{first.field}: {first.message}", self._problems, found=self._count)
