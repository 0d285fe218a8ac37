"""Write what was measured beside shapes and streams."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bench.budget import ROUNDS
from bench.first_step import RATE, SECONDS
from bench.markdown import mebibytes, milliseconds, seconds, table
from bench.measure import SMALL_RUNS
from bench.ready import FAN, RUNS
from bench.results import Aged, Budget, Footprint, Goals, Latency, Picks, Scaled
from bench.scale import SHAPES
from bench.sessions import EACH_S
from bench.shapes import CHAIN40
from bench.steady import CONNECTIONS
from bench.tenants import USED_MS

_PERCENTS = (50, 95, 99, 100)

_FIRST_STEP = f"""\
{RATE} runs of a DAG with one step are started a second, for {SECONDS:.0f} s, over {CONNECTIONS} kept
connections. Each request has its time to be sent, and both times count from then: to the answer, and to the
`startedUtc` of the step, by the clock of the same machine. What `startedUtc` cuts off is less than a
millisecond; one millisecond is added."""

_READY = f"""\
{RUNS} runs, one after another with pauses, of {FAN.what}, and nothing else to do. From
`queuedUtc`, the commit that made a step ready, to `startedUtc`, in whole milliseconds. The first step of a
run crosses Redis. Those behind it are taken in the transition that unlocks them, as long as nobody else waits
for the slots."""

_BUDGET = f"""\
Of {ROUNDS} rounds of each shape on a stack that does nothing else, divided by the steps. CPU time is that of
/proc; the client's looks and all that serves them are in it. `orch.settle` is the transition that claims,
ends and hands on; it is timed by PostgreSQL (`track_functions`), without the commit, and with what it waits
for. A sync of the WAL may serve several commits."""

_SCALE = f"""\
A stack of its own for each number of worker processes (`orch up --workers`), of 8 slots each. CPU time is
that of /proc, in cores, of which the machine has {os.cpu_count()}: where that is what all take, the cores are
full. What PostgreSQL's sessions did is looked up {1 / EACH_S:.0f} times a second; told is how many did what
at a time. Transitions of one run take turns at the run's row: it is these that wait for a lock.

{{shapes}}"""

_PICKS = f"""\
`orch.pick`, as the dispatcher calls it: it charges tenants for the {USED_MS:.0f} ms that each message had of
its slot, hears that they have ready steps again, then picks up to two ready steps for each slot of the
workers that are alive, and marks them as sent. All tenants have ready steps. None may get more than its turn:
the numbers of steps that they got differ by one at the most, or there is no result. A pool has one picker at
a time, so this bounds the messages of a pool."""

_MEMORY = """\
Of a new stack, before its first request but for the look at its health; and of its worker again after steps
that do nothing. Resident memory contains libraries that processes share; their own is what would be free
if they ended."""

_WRITTEN = f"""\
By as much the ledger grew for each of these steps, in runs of {CHAIN40.steps}. To the WAL went {{wal}} bytes
a step, whatever for. Tables are measured as they are, with room for updates and with dead rows."""

_HISTORY = f"""\
Two stacks in turns: one with an empty ledger, one with finished runs of one step in it, of the same tenant
(rows of runs, inputs, steps, attempts and events, in all of their indexes, put there by SQL). A round is the
mean of {SMALL_RUNS} runs."""


def tables(goals: Goals) -> list[str]:
    """Write a section for each goal that was measured."""
    parts: list[str] = []
    if goals.first_steps:
        parts += ["## From a request to the first step", _FIRST_STEP, _latency_table(goals.first_steps)]
    if goals.ready:
        parts += ["## From ready to running", _READY, _latency_table(goals.ready)]
    if goals.budgets:
        parts += ["## The budget of a step", _BUDGET, _budget_table(goals.budgets)]
    if goals.scaled:
        shapes = "\n".join(f"- {shape.name}: {shape.what}" for shape in SHAPES)
        parts += ["## More workers", _SCALE.format(shapes=shapes), _scale_table(goals.scaled)]
    if goals.picks:
        parts += ["## Many tenants", _PICKS, _pick_table(goals.picks)]
    if goals.footprint is not None:
        wal = goals.footprint.written["WAL"].table_bytes
        parts += ["## Memory", _MEMORY, _memory_table(goals.footprint)]
        parts += ["## Bytes of a step", _WRITTEN.format(wal=f"{wal:,.0f}"), _written_table(goals.footprint)]
    if goals.aged:
        parts += ["## A ledger with a past", _HISTORY, _history_table(goals.aged)]
    return parts


def _latency_table(latencies: Sequence[Latency]) -> str:
    head = ["milliseconds", "number", "p50", "p95", "p99", "slowest"]
    return table(head, [[o.what, f"{len(o.seconds):,}", *milliseconds(o, _PERCENTS)] for o in latencies])


def _budget_table(budgets: Sequence[Budget]) -> str:
    programs = list(budgets[0].cpu_ms)
    head = ["of a step", "ms", *(f"CPU of {name}, ms" for name in programs), "CPU of all, ms"]
    head += ["calls of `orch.settle`", "ms in them", "commits", "syncs of the WAL", "bytes of WAL"]
    rows = [
        [
            one.shape.name,
            f"{one.ms:.2f}",
            *(f"{one.cpu_ms[name]:.2f}" for name in programs),
            f"{sum(one.cpu_ms.values()):.2f}",
            f"{one.calls:.2f}",
            f"{one.call_ms:.2f}",
            f"{one.commits:.2f}",
            f"{one.syncs:.2f}",
            f"{one.wal_bytes:,.0f}",
        ]
        for one in budgets
    ]
    return table(head, rows)


def _scale_table(scaled: Sequence[Scaled]) -> str:
    programs, doings = list(scaled[0].cores), list(scaled[0].sessions)
    head = ["runs", "workers", "steps a second", *(f"CPU of {name}" for name in programs), "of all"]
    head += [f"sessions that {doing}" for doing in doings]
    rows = [
        [
            one.shape.name,
            str(one.workers),
            f"{one.steps_a_second:,.0f}",
            *(f"{one.cores[name]:.2f}" for name in programs),
            f"{sum(one.cores.values()):.2f}",
            *(f"{one.sessions[doing]:.1f}" for doing in doings),
        ]
        for one in sorted(scaled, key=lambda one: one.shape.name)
    ]
    return table(head, rows)


def _pick_table(picks: Sequence[Picks]) -> str:
    head = ["tenants", "slots", "ms a pick (median)", "steps picked a second"]
    rows = [
        [f"{one.tenants:,}", str(one.slots), f"{one.ms_a_pick:.2f}", f"{one.steps_a_second:,.0f}"]
        for one in picks
    ]
    return table(head, rows)


def _memory_table(footprint: Footprint) -> str:
    rows = [(f"{name}, idle", found) for name, found in footprint.idle.items()]
    rows += [(f"worker, after {steps:,} steps", found) for steps, found in footprint.worker.items()]
    head = ["MiB", "resident", "its own"]
    return table(head, [[what, mebibytes(found.resident), mebibytes(found.own)] for what, found in rows])


def _written_table(footprint: Footprint) -> str:
    tables = {name: size for name, size in footprint.written.items() if name != "WAL"}
    rows = [
        (name, size.table_bytes, size.index_bytes)
        for name, size in tables.items()
        if round(size.table_bytes + size.index_bytes)
    ]
    rows.sort(key=lambda row: -row[1] - row[2])
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    head = ["bytes a step", "table", "indexes", "both"]
    return table(head, [[n, f"{own:,.0f}", f"{index:,.0f}", f"{own + index:,.0f}"] for n, own, index in rows])


def _history_table(aged: Sequence[Aged]) -> str:
    head = ["seconds", "finished runs", "without them", "with them", "factor"]
    rows = [
        [
            one.shape.name,
            f"{one.runs:,}",
            seconds(one.without),
            seconds(one.with_past),
            f"{one.factor:.2f}",
        ]
        for one in aged
    ]
    return table(head, rows)
