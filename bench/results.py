"""What was measured, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.shapes import Shape
from bench.usage import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The seconds of one subject at one shape, in the order in which they were measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def fastest(self) -> float:
        return min(self.seconds)

    @property
    def slowest(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One shape, measured for ourselves and for the peers in turns."""

    shape: Shape
    ours: Series
    peers: Mapping[str, Series]
    unknown: Series | None = None
    """Ours at ``shape.unknown``."""
    lost: Sequence[str] = ()
    """What peers did not bring to an end; it was measured again."""

    def ratio(self, peer: str) -> float:
        """Tell how many times as long the peer takes: the median over the rounds.

        The machine's speed drifts, so each round is compared with itself first. A slow
        peer takes part in the first rounds only.
        """
        rounds = zip(self.peers[peer].seconds, self.ours.seconds, strict=False)
        return median(theirs / ours for theirs, ours in rounds)

    def of_unknown(self) -> Comparison | None:
        """Hold the steps of which we do not know that they do nothing against the same peers."""
        return None if self.unknown is None else replace(self, ours=self.unknown)

    @property
    def best_peer(self) -> str:
        """Name the peer that took the shortest time, held against ours of the same rounds."""
        return min(self.peers, key=self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A large run, and a small one measured next to it each time."""

    large: Shape
    small: Shape
    large_series: Series
    small_series: Series
    large_peaks: Mapping[str, int]
    """The most resident memory that a process had during the large runs, in kilobytes; by its name."""
    small_peaks: Mapping[str, int]
    """The same during the small runs before them."""

    @property
    def factor(self) -> float:
        """Tell how much a step of the large run costs, as a multiple of one of the small run."""
        scale = self.small.steps / self.large.steps
        pairs = zip(self.large_series.seconds, self.small_series.seconds, strict=True)
        return median(scale * large / small for large, small in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long single requests of one kind took; ``seconds`` is sorted."""

    what: str
    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """Give the time that ``percent`` of the requests stayed within (nearest rank)."""
        return self.seconds[max(0, math.ceil(percent / 100 * len(self.seconds)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Who listens, and how much there is to hear: each active client gets all ``events_a_second``."""

    active: int
    idle: int
    events_a_second: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What a crowd had of it.

    ``delays`` count from the time in the event, which is before its commit; ``after_answer`` from when
    whoever started a run was told so, which is after it; ``after_request`` from before that was asked for.
    """

    crowd: Crowd
    events_a_second: float
    delays: Latency
    after_request: Latency
    after_answer: Latency
    health: Latency
    connect_seconds: float
    kilobytes_a_client: float
    cpu_share: float
    """Of one core, the web process's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storms:
    """How many clients lose their server, and how often."""

    clients: int
    repeat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """The seconds count from the death of the web process."""

    clients: int
    answers_after: float
    """The next web process answers."""
    connected_after: float
    """All clients have a stream again."""
    live_after: float
    """All clients have got an event again."""
    refused: int
    """Attempts to connect that were answered with 503."""
    events: int
    """Each client got all of them, each once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A client that began with the first event, while others were written."""

    events: int
    """Of the past."""
    seconds: float
    kilobytes_before: int
    """The web process's, before the client came."""
    kilobytes_most: int
    """The same while it was given the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """All that was measured of the event stream."""

    crowds: Sequence[Streamed]
    storms: Sequence[Storm]
    replays: Sequence[Replayed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A shape on a stack with some worker processes."""

    workers: int
    shape: Shape
    seconds: float
    cores: Mapping[str, float]
    """CPU seconds a second, of each kind of program."""
    sessions: Mapping[str, float]
    """How many of PostgreSQL's sessions did what at a time, in the mean."""

    @property
    def steps_a_second(self) -> float:
        return self.shape.steps / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a step of a shape takes; all of it in the mean over its steps."""

    shape: Shape
    ms: float
    """From the request to the end that the client saw."""
    cpu_ms: Mapping[str, float]
    """By the kind of program."""
    calls: float
    """Of the transition that settles."""
    call_ms: float
    """In these calls, with what they wait for."""
    commits: float
    syncs: float
    """Of the WAL."""
    wal_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """What picks took, each of as many steps as there was room for; ``seconds`` is sorted."""

    tenants: int
    slots: int
    steps: int
    seconds: tuple[float, ...]

    @property
    def steps_a_second(self) -> float:
        return self.steps / sum(self.seconds)

    @property
    def ms_a_pick(self) -> float:
        return 1_000 * median(self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Bytes of a table and of its indexes."""

    table_bytes: float
    index_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Memory of processes and size of the ledger."""

    idle: Mapping[str, Memory]
    """By the name of the process."""
    worker: Mapping[int, Memory]
    """The worker's, by the number of steps that it has executed."""
    written: Mapping[str, Written]
    """What a step has added, by the name of the table; and to the WAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aged:
    """A shape on an empty ledger, and on one with finished runs."""

    shape: Shape
    runs: int
    without: Series
    with_past: Series

    @property
    def factor(self) -> float:
        """Tell how much a step costs with the past, as a multiple of one without."""
        pairs = zip(self.with_past.seconds, self.without.seconds, strict=True)
        return median(one / other for one, other in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What is asked beside shapes and streams, as far as it was measured."""

    first_steps: Sequence[Latency] = ()
    ready: Sequence[Latency] = ()
    scaled: Sequence[Scaled] = ()
    picks: Sequence[Picks] = ()
    budgets: Sequence[Budget] = ()
    footprint: Footprint | None = None
    aged: Sequence[Aged] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All of one call of the benchmark."""

    comparisons: Sequence[Comparison]
    growths: Sequence[Growth]
    latencies: Sequence[Latency] = ()
    streams: Streams | None = None
    goals: Goals = Goals()
