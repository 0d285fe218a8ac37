"""Where the time of a step goes: CPU of each program, calls of the transition, commits and WAL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg2

from bench.orchestrator import Orchestrator, orchestrator
from bench.results import Budget
from bench.shapes import SHAPES, SHORT, Shape
from bench.steady import Tell
from bench.usage import cpu_seconds

ROUNDS: Final = 10
_WARM_UP: Final = 2
_FLUSH_S: Final = 1.5
"""Sessions hand in what they have counted once a second, when they have nothing to do."""
_COUNTED: Final = """
SELECT
    (SELECT coalesce(sum(f.calls), 0) FROM pg_stat_user_functions AS f WHERE f.funcname = 'settle'),
    (SELECT coalesce(sum(f.total_time), 0) FROM pg_stat_user_functions AS f WHERE f.funcname = 'settle'),
    (SELECT sum(d.xact_commit) FROM pg_stat_database AS d WHERE d.datname = current_database()),
    (SELECT coalesce(sum(i.fsyncs), 0) FROM pg_stat_io AS i WHERE i.object = 'wal'),
    pg_current_wal_lsn() - '0/0'
"""


def budget(folder: Path, *, short: bool, tell: Tell) -> list[Budget]:
    """Measure shapes on a stack that counts the calls of its functions, one after another.

    What the client asks for until it has seen the end is in it, and its look at every run afterwards.
    """
    shapes = SHORT[:1] if short else tuple(SHAPES.values())
    with orchestrator(folder / "budget") as ours, closing(psycopg2.connect(ours.owner_url)) as owner:
        owner.autocommit = True
        with owner.cursor() as cur:
            cur.execute("ALTER SYSTEM SET track_functions = 'pl'")
            cur.execute("SELECT pg_reload_conf()")
            return [_measure(ours, cur, shape, 1 if short else ROUNDS, tell) for shape in shapes]


def _measure(
    ours: Orchestrator, cur: psycopg2.extensions.cursor, shape: Shape, rounds: int, tell: Tell
) -> Budget:
    for _ in range(_WARM_UP):
        ours.measure(shape)
    before = _used(ours, cur)
    taken = sum(ours.measure(shape) for _ in range(rounds))
    used = {name: amount - before[name] for name, amount in _used(ours, cur).items()}
    each = {name: amount / (rounds * shape.steps) for name, amount in used.items()}
    found = Budget(
        shape=shape,
        ms=1_000 * taken / (rounds * shape.steps),
        cpu_ms={name.removeprefix("cpu "): 1_000 * s for name, s in each.items() if name.startswith("cpu ")},
        calls=each["calls"],
        call_ms=each["call ms"],
        commits=each["commits"],
        syncs=each["syncs"],
        wal_bytes=each["wal"],
    )
    cpu = ", ".join(f"{name} {ms:.2f}" for name, ms in found.cpu_ms.items())
    tell(f"budget           {shape.name}: {found.ms:.2f} ms a step; CPU, ms: {cpu}")
    return found


def _used(ours: Orchestrator, cur: psycopg2.extensions.cursor) -> Mapping[str, float]:
    cpu = {f"cpu {name}": cpu_seconds(pid) for name, pid in ours.programs().items()}
    cpu["cpu client"] = time.process_time()
    time.sleep(_FLUSH_S)
    cur.execute(_COUNTED)
    (counted,) = cur.fetchall()
    return {
        **cpu,
        **dict(zip(("calls", "call ms", "commits", "syncs", "wal"), map(float, counted), strict=True)),
    }
