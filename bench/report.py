"""Write the results as Markdown, for the terminal and for docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import report_goals
from bench.markdown import mebibytes, milliseconds, seconds, table
from bench.measure import WARM_UP
from bench.orchestrator import FIRST_LOOK_SHARE, PAUSE_S, PAUSE_SHARE, SUBMITTERS
from bench.results import Comparison, Growth, Latency, Replayed, Results, Storm, Streamed
from bench.steady import CONNECTIONS, RATE, SECONDS
from bench.stream import IDLE_TENANTS, STARTERS
from bench.stream_reader import RECONNECT_S
from bench.stream_storm import PAUSE_S as STORM_PAUSE_S

_PERCENTS = (50, 95, 99, 100)
_FIRST_LOOK = f"{FIRST_LOOK_SHARE:.0%}"
_PAUSE = f"{1_000 * PAUSE_S:.0f} ms"
_SHARE = f"{PAUSE_SHARE:.0%}"
_METHOD = f"""\
Ours is timed by a client of the REST API, from just before `POST /runs` to the answer that shows the run's
end, on a stack that `orch up` started in a new data folder with its default settings: one web process, one
worker with 8 slots, durable commits, row-level security, events and their hash chain. The client keeps its
connection. It looks whether `GET /runs?status=running` comes back empty, which costs the same for a run of
any size, and for many: first after {_FIRST_LOOK} of the shortest time that the shape has taken by its runs'
own `startedUtc` and `endedUtc`, then every {_PAUSE}, or every {_SHARE} of the time passed where that is
longer. A look that comes late makes our figure larger, never smaller. Many runs are posted over
{SUBMITTERS} connections. Each run is checked afterwards: it completed, and every step succeeded.

Celery is timed in the calling process, from `apply_async()` to the return of `get()`, on its default
settings, with Redis as broker and result backend: a Redis of its own, set up as ours is. The canvas (a
`chain` of tasks and groups, which Celery turns into chords) is built before its clock starts. It is not
durable, and keeps no history.
"""
_PEERS = {
    "DBOS": """\
DBOS runs its steps in the calling process, and is timed there, from the call of the workflow to its return:
it has no server, and no request is sent. It is as durable as ours, on a PostgreSQL of its own, set up as ours
is, and keeps its history as it does by default. Its fastest ways: plain functions; steps that run at once on
4 threads; many runs started with `start_workflow`; no ping before each use of a connection. Tried by hand,
and slower: for steps side by side coroutines (for chains they are level), and for these and many runs a queue
with two or three worker processes.
""",
    "Prefect": """\
Prefect is timed in the calling process, too, from the call of the flow to its return, with a server of its
own on the system's PostgreSQL (it wants an extension that the embedded one comes without), set up as ours is.
Tasks that run at once are given to its default task runner, many flows are called on 8 threads, its cache is
off, and nothing below a warning is logged. It is slow, so that one round has to do.
""",
}
_ROUNDS = f"""\
Every step does nothing. The subjects take turns, round by round, after {WARM_UP} to warm up. The seconds
are medians, with the fastest and the slowest round; a ratio is the median of the rounds' own ratios,
because the speed of a shared machine drifts. Above 1, ours is faster. The best peer at a shape is the one
with the smallest ratio."""


_UNKNOWN = """\
Our worker knows of the plugin `noop` that it has no effect and is done at once. It runs some such steps
ahead, and settles them in one transaction with the step before. These are the same shapes, measured in the
same rounds, of steps of which it does not know that: `sleep` for 0 ms. Each of them has a start that is
durable before it runs. What runs a command or sends a request is of this kind."""


_STEADY = f"""\
{RATE} requests a second for {SECONDS:.0f} s, half of them `POST /runs` of a DAG with one step, half of them
`GET /runs/{{id}}` of such a run, over {CONNECTIONS} kept connections, while the worker executes what was
started. Each request has its time to be sent, and counts from then, so that a stall counts for all that
were due meanwhile. Client, servers and worker share the machine."""


_STREAM = f"""\
WebSockets to the one web process that `orch up` starts, all of a crowd open at a time; the idle ones are of
up to {IDLE_TENANTS} other tenants. The events are those of runs of two steps that the worker executes,
started at an even pace over {STARTERS} connections to the same API. A delay is counted from the time that
the event carries, which is taken within its transaction, to its arrival in a client's kernel: it contains
the commit. It is taken from the last line of each read of each client. Every client must have got each event
once, all in the same order, or there is no result. Clients, load, servers and worker share the machine."""


_COMMITS = """\
The same without the time in the event: when some of the clients learnt that a run has begun, counted from
when its `POST /runs` was sent, and from when its answer was there. The event is committed between the two, so
that the delay from the commit itself lies between them, too. Below zero, a client learnt of the run before
whoever started it."""


_STORMS = f"""\
The web process is killed, with the one that would start it again, below all of these clients, while
{1 / STORM_PAUSE_S:.0f} runs a second are started. The clients try to connect every {1_000 * RECONNECT_S:.0f}
ms, all of them at once, and go on from their cursors. The seconds count from the kill; each client must have
got each event once, all in the same order."""


_REPLAYS = """\
One client asks for everything since a tenant's first event, while new runs are started. Each line that comes
is put into the hash chain of its run; the heads of all chains must be those of the ledger, or there is no
result."""


def document(results: Results, *, machine: Mapping[str, str], command: str, date: str, repeat: int) -> str:
    """Write docs/benchmarks.md."""
    parts = [
        "# Benchmarks\n\nWritten by `make bench`; do not edit.",
        "\n".join([_METHOD, *(words for peer, words in _PEERS.items() if peer in _peers(results)), _ROUNDS]),
        "\n".join(f"- {what}: {value}" for what, value in machine.items()),
        f"- Measured {date}, {repeat} rounds, with `{command}`",
    ]
    parts[2:] = ["\n".join(parts[2:])]
    return "\n\n".join([*parts, *tables(results)]) + "\n"


def _peers(results: Results) -> set[str]:
    return {peer for one in results.comparisons for peer in one.peers}


def tables(results: Results) -> list[str]:
    """Write a table of the comparisons and one of the growth, as far as they were measured."""
    parts: list[str] = []
    if results.comparisons:
        parts += ["## Shapes", _comparison_table(results.comparisons), _legend(results.comparisons)]
        unknown = [one for one in (each.of_unknown() for each in results.comparisons) if one is not None]
        parts += ["### Steps that may have effects", _UNKNOWN, _comparison_table(unknown)] if unknown else []
    if results.growths:
        parts += ["## Cost of a step as runs grow", _growth_table(results.growths)]
    if results.latencies:
        parts += ["## Single requests under a steady load", _STEADY, _latency_table(results.latencies)]
    if results.streams is not None:
        parts += ["## The event stream", _STREAM, _crowd_table(results.streams.crowds)]
        parts += [_COMMITS, _commit_table(results.streams.crowds)]
        parts += ["### A server that dies", _STORMS, _storm_table(results.streams.storms)]
        parts += ["### The past", _REPLAYS, _replay_table(results.streams.replays)]
    return parts + report_goals.tables(results.goals)


def _crowd_table(crowds: Sequence[Streamed]) -> str:
    head = [
        "clients that get each event",
        "idle clients beside",
        "events a second",
        "delay p50, ms",
        "p95",
        "p99",
        "slowest",
        "health p99, ms",
        "connected in, s",
        "memory a client, kB",
        "CPU of the web process",
    ]
    rows = [
        [
            f"{one.crowd.active:,}",
            f"{one.crowd.idle:,}",
            f"{one.events_a_second:.0f}",
            *milliseconds(one.delays, _PERCENTS),
            f"{1_000 * one.health.percentile(99):.1f}",
            f"{one.connect_seconds:.1f}",
            f"{one.kilobytes_a_client:.1f}",
            f"{one.cpu_share:.0%}",
        ]
        for one in crowds
    ]
    return table(head, rows)


def _commit_table(crowds: Sequence[Streamed]) -> str:
    head = ["clients", "events a second", "milliseconds from", "p50", "p95", "p99", "slowest"]
    rows = [
        [f"{one.crowd.active:,}", f"{one.events_a_second:.0f}", since, *milliseconds(latency, _PERCENTS)]
        for one in crowds
        for since, latency in (("the request", one.after_request), ("the answer", one.after_answer))
    ]
    return table(head, rows)


def _storm_table(storms: Sequence[Storm]) -> str:
    head = ["clients", "events", "API answers after, s", "all connected", "all got an event", "503s"]
    rows = [
        [
            f"{one.clients:,}",
            str(one.events),
            f"{one.answers_after:.1f}",
            f"{one.connected_after:.1f}",
            f"{one.live_after:.1f}",
            str(one.refused),
        ]
        for one in storms
    ]
    return table(head, rows)


def _replay_table(replays: Sequence[Replayed]) -> str:
    head = ["events", "seconds", "events a second", "memory of the web process, MiB", "growth"]
    rows = [
        [
            f"{one.events:,}",
            f"{one.seconds:.1f}",
            f"{one.events / one.seconds:,.0f}",
            mebibytes(one.kilobytes_before),
            mebibytes(one.kilobytes_most - one.kilobytes_before),
        ]
        for one in replays
    ]
    return table(head, rows)


def _latency_table(latencies: Sequence[Latency]) -> str:
    head = ["milliseconds", "requests", "p50", "p90", "p99", "slowest"]
    rows = [
        [
            one.what,
            f"{len(one.seconds):,}",
            *milliseconds(one, (50, 90, 99, 100)),
        ]
        for one in latencies
    ]
    return table(head, rows)


def _comparison_table(comparisons: Sequence[Comparison]) -> str:
    peers = list(comparisons[0].peers)
    head = [
        "seconds",
        "Orchestrator",
        "steps a second",
        *peers,
        *(f"ratio to {_short(peer)}" for peer in peers),
        *(["best peer"] if peers else []),
    ]
    rows = [
        [
            one.shape.name,
            seconds(one.ours),
            f"{one.shape.steps / one.ours.median:,.0f}",
            *(seconds(one.peers[peer]) for peer in peers),
            *(f"{one.ratio(peer):.2f}" for peer in peers),
            *([f"{one.ratio(one.best_peer):.2f} ({_short(one.best_peer)})"] if peers else []),
        ]
        for one in comparisons
    ]
    return table(head, rows)


def _growth_table(growths: Sequence[Growth]) -> str:
    processes = list(growths[0].large_peaks)
    head = [
        "run",
        "seconds",
        "ms a step",
        "ms a step of the small run",
        "factor",
        *(f"most memory of {name}, MiB (small run)" for name in processes),
    ]
    rows = [
        [
            f"{one.large.name}: {one.large.what}",
            seconds(one.large_series),
            f"{1_000 * one.large_series.median / one.large.steps:.2f}",
            f"{1_000 * one.small_series.median / one.small.steps:.2f} ({one.small.name})",
            f"{one.factor:.2f}",
            *(f"{mebibytes(one.large_peaks[n])} ({mebibytes(one.small_peaks[n])})" for n in processes),
        ]
        for one in growths
    ]
    return table(head, rows)


def _legend(comparisons: Sequence[Comparison]) -> str:
    shapes = [f"- {one.shape.name}: {one.shape.what} ({one.shape.steps} steps)" for one in comparisons]
    lost = [f"- {sentence}; it was measured again" for one in comparisons for sentence in one.lost]
    return "\n".join(shapes + lost)


def _short(peer: str) -> str:
    return peer.rpartition(", ")[2]
