"""Memory of the processes, and bytes of the ledger: at the start, and after many steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg2

from bench.orchestrator import Orchestrator, orchestrator
from bench.results import Footprint, Written
from bench.shapes import CHAIN40, Shape
from bench.steady import Tell
from bench.usage import Memory, memory

STEPS: Final = (1_000, 100_000)
SHORT_STEPS: Final = (40, 80)
_RUNS_AT_ONCE: Final = 25
_SIZES: Final = """
SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid), pg_current_wal_lsn() - '0/0'
FROM pg_class AS c WHERE c.relnamespace = 'orch'::regnamespace AND c.relkind = 'r'
"""


def footprint(folder: Path, *, short: bool, tell: Tell) -> Footprint:
    """Measure the processes of a new stack, and its worker again after few steps and after many.

    The steps are those of chains of 40. What the ledger grew by between few and many is told, too.
    """
    few, many = SHORT_STEPS if short else STEPS
    with orchestrator(folder / "footprint") as ours:
        idle = {name: memory(pid) for name, pid in ours.processes().items()}
        for name, found in idle.items():
            tell(f"memory           {name} idle: {_told(found)}")
        worker = {}
        _run(ours, few)
        worker[few] = memory(ours.process("worker-1"))
        before = _sizes(ours)
        _run(ours, many - few)
        worker[many] = memory(ours.process("worker-1"))
        after = _sizes(ours)
    for number, found in worker.items():
        tell(f"memory           worker after {number:,} steps: {_told(found)}")
    written = {
        table: Written(
            table_bytes=(size.table_bytes - before[table].table_bytes) / (many - few),
            index_bytes=(size.index_bytes - before[table].index_bytes) / (many - few),
        )
        for table, size in after.items()
    }
    return Footprint(idle=idle, worker=worker, written=written)


def _run(ours: Orchestrator, steps: int) -> None:
    runs = -(-steps // CHAIN40.steps)
    while runs > 0:
        ours.measure(_chains(min(runs, _RUNS_AT_ONCE)))
        runs -= _RUNS_AT_ONCE


def _chains(runs: int) -> Shape:
    return replace(CHAIN40, runs=runs)


def _sizes(ours: Orchestrator) -> Mapping[str, Written]:
    with closing(psycopg2.connect(ours.owner_url)) as owner, owner.cursor() as cur:
        cur.execute(_SIZES)
        rows = cur.fetchall()
    sizes = {
        table: Written(table_bytes=float(own), index_bytes=float(index)) for table, own, index, _ in rows
    }
    return sizes | {"WAL": Written(table_bytes=float(rows[0][3]), index_bytes=0.0)}


def _told(found: Memory) -> str:
    return f"{found.resident / 1_024:.1f} MiB, {found.own / 1_024:.1f} of its own"
