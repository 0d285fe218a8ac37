"""What will be done, round by round: a matter of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from tests.chaos.fault import Fault

FIRST_AFTER_S = 1.0
APART_S = 1.2
SHORTEST_S, LONGEST_S = 1.5, 4.5
"""How long a fault lasts that has to be healed: both sides of a lease, and of the time for a connection."""
OVERLAPPING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A fault, and from when to when it lasts, in seconds since the round began."""

    fault: Fault
    begins_s: float
    ends_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Faults that are made while clients work."""

    number: int
    seed: str
    faults: tuple[Planned, ...]

    @property
    def name(self) -> str:
        return " + ".join(planned.fault.name for planned in self.faults)


def rounds(seed: str, faults: list[Fault], *, together: bool) -> Iterator[Round]:
    """Plan rounds without end: every fault in an order drawn from the seed, then all again in another.

    ``together``: three overlapping faults a round; else one a round, and every third round three.
    """
    random = Random(seed)
    cards: list[Fault] = []
    for number in count(1):
        size = OVERLAPPING if together or number % 3 == 0 else 1
        if len(cards) < size:
            cards += random.sample(faults, len(faults))
        drawn, cards = cards[:size], cards[size:]
        planned, begins = [], FIRST_AFTER_S
        for fault in drawn:
            lasts = random.uniform(SHORTEST_S, LONGEST_S) if fault.lasts else 0.0
            planned.append(Planned(fault=fault, begins_s=begins, ends_s=begins + lasts))
            begins += random.uniform(0, APART_S)
        yield Round(number=number, seed=f"{seed}/{number}", faults=tuple(planned))
