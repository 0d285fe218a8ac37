"""Take the measurements: all subjects in turns, so that each meets the same states of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from bench.orchestrator import Orchestrator
from bench.results import Comparison, Growth, Series
from bench.shapes import Shape
from bench.subject import DidNotEnd, Subject
from bench.usage import forget_peak, peak

SMALL_RUNS = 5
"""A small run is over in a blink; beside a large one it is measured so many times, and their mean counts."""

WARM_UP = 3
"""Rounds that do not count. Each of our connections plans the ledger's statements when it has its first."""

SLOW_ROUNDS = 1
"""Of a peer that is slow; its ratios are those of the first rounds."""

MOST_LOST = 2
"""So often a peer may fail to end before the benchmark gives up."""

WATCHED = ("worker-1", "web, serving")
"""Processes whose memory is looked at while a large run is under way."""

Tell = Callable[[str], None]
Peaks = dict[str, int]


class _Unknowing:
    """Ours, at steps of which it does not know that they do nothing."""

    name = "the same, unknown steps"
    slow = False

    def __init__(self, ours: Subject) -> None:
        self._ours = ours

    def measure(self, shape: Shape) -> float:
        return self._ours.measure(shape.unknown)


def compare(shape: Shape, ours: Subject, peers: Sequence[Subject], *, repeat: int, tell: Tell) -> Comparison:
    """Measure a shape in ``repeat`` rounds of all subjects, after those that warm up."""
    subjects: list[Subject] = [ours, _Unknowing(ours), *peers]
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    lost: list[str] = []
    for number in range(-WARM_UP, repeat):
        for subject in subjects:
            # One round to warm up has to do for a slow one.
            if subject.slow and (number >= SLOW_ROUNDS or -WARM_UP < number < 0):
                continue
            taken = _insist(subject, shape, lost)
            tell(f"{shape.name:<10} {subject.name:<28} {taken:8.3f} s{'  (warm-up)' if number < 0 else ''}")
            if number >= 0:
                seconds[subject.name].append(taken)
    return Comparison(
        shape=shape,
        ours=Series(seconds=tuple(seconds[ours.name])),
        unknown=Series(seconds=tuple(seconds[_Unknowing.name])),
        peers={peer.name: Series(seconds=tuple(seconds[peer.name])) for peer in peers},
        lost=lost,
    )


def _insist(subject: Subject, shape: Shape, lost: list[str]) -> float:
    """Measure again after a round in which a peer lost something, and keep note of it.

    It happens: Celery with Redis loses a message or the news of a result now and then,
    which must not cost the whole benchmark.
    """
    for _ in range(MOST_LOST):
        try:
            return subject.measure(shape)
        except DidNotEnd as error:
            lost.append(str(error))
    return subject.measure(shape)


def grow(large: Shape, small: Shape, ours: Orchestrator, *, repeat: int, tell: Tell) -> Growth:
    """Measure a large run, and small ones just before it, in ``repeat`` rounds after one to warm up."""
    small_s: list[float] = []
    large_s: list[float] = []
    small_peaks: Peaks = {}
    large_peaks: Peaks = {}
    for number in range(repeat + 1):
        # Only before the first large run: memory that was needed once is kept.
        with _peaks(ours, {} if number else small_peaks):
            one = sum(ours.measure(small) for _ in range(SMALL_RUNS)) / SMALL_RUNS
        with _peaks(ours, large_peaks):
            other = ours.measure(large)
        tell(
            f"{large.name:<10} {1_000 * other / large.steps:.2f} ms a step,"
            f" {small.name} {1_000 * one / small.steps:.2f} ms a step{'' if number else '  (warm-up)'}"
        )
        if number:
            small_s.append(one)
            large_s.append(other)
    return Growth(
        large=large,
        small=small,
        large_series=Series(seconds=tuple(large_s)),
        small_series=Series(seconds=tuple(small_s)),
        large_peaks=large_peaks,
        small_peaks=small_peaks,
    )


@contextmanager
def _peaks(ours: Orchestrator, found: Peaks) -> Iterator[None]:
    """Note the most memory that the worker and the web process have during the block, if it is more."""
    pids = {name: pid for name, pid in ours.processes().items() if name in WATCHED}
    for pid in pids.values():
        forget_peak(pid)
    yield
    for name, pid in pids.items():
        found[name] = max(peak(pid), found.get(name, 0))
