"""Where the time of a step goes: CPU of each program, calls of the transition, commits and WAL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg2

from bench.measure import WARM_UP
from bench.orchestrator import Orchestrator, orchestrator
from bench.results import Budget
from bench.shapes import SHAPES, SHORT, Shape
from bench.steady import Tell

ROUNDS: Final = 10
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
    for _ in range(WARM_UP):
        ours.measure(shape)
    cpu_before, before = _cpu(ours), _counted(cur)
    taken = sum(ours.measure(shape) for _ in range(rounds))
    cpu_after, after = _cpu(ours), _counted(cur)
    steps = rounds * shape.steps
    calls, call_ms, commits, syncs, wal_bytes = (
        (now - then) / steps for now, then in zip(after, before, strict=True)
    )
    found = Budget(
        shape=shape,
        ms=1_000 * taken / steps,
        cpu_ms={name: 1_000 * (now - cpu_before[name]) / steps for name, now in cpu_after.items()},
        calls=calls,
        call_ms=call_ms,
        commits=commits,
        syncs=syncs,
        wal_bytes=wal_bytes,
    )
    cpu = ", ".join(f"{name} {ms:.2f}" for name, ms in found.cpu_ms.items())
    tell(f"budget           {shape.name}: {found.ms:.2f} ms a step; CPU, ms: {cpu}")
    return found


def _cpu(ours: Orchestrator) -> Mapping[str, float]:
    return {**ours.cpu_seconds(), "client": time.process_time()}


def _counted(cur: psycopg2.extensions.cursor) -> list[float]:
    time.sleep(_FLUSH_S)
    cur.execute(_COUNTED)
    (row,) = cur.fetchall()
    return [float(one) for one in row]
