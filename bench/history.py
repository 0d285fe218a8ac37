"""A ledger with a past: does a step cost more than on an empty one?"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psycopg2

from bench.measure import SMALL_RUNS
from bench.orchestrator import TENANT, Orchestrator, orchestrator
from bench.results import Aged, Series
from bench.shapes import CHAIN40, FAN200, SHORT, Shape
from bench.steady import ONE_STEP, Tell
from bench.subject import BenchError

RUNS: Final = 1_000_000
SHORT_RUNS: Final = 2_000
SHAPES: Final = (CHAIN40, FAN200)
SHORT_SHAPES: Final = SHORT[:1]
_AT_ONCE: Final = 20_000
_LIKE: Final = ("runs", "run_inputs", "steps", "attempts", "events")
"""Tables with rows of a run."""
_COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute AS a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = ''
ORDER BY a.attnum
"""
_NEW_IDS: Final = """
CREATE TEMPORARY TABLE copies ON COMMIT DROP AS
SELECT uuidv7() AS run_id, n * INTERVAL '50 milliseconds' AS age FROM generate_series(%s, %s) AS n
"""
# The sweeper need not count what is put in here: it would do that while the clock runs.
_COUNTED: Final = """
INSERT INTO orch.metric_marks AS m (tenant, xid, event_id)
SELECT %(tenant)s, pg_current_xact_id(), max(e.event_id) FROM orch.events AS e
WHERE e.tenant = %(tenant)s AND e.xid = pg_current_xact_id()
ON CONFLICT (tenant) DO UPDATE SET xid = excluded.xid, event_id = excluded.event_id
"""


def history(folder: Path, *, runs: int, repeat: int, short: bool, tell: Tell) -> list[Aged]:
    """Measure shapes in turns on two stacks, one of which has ``runs`` finished runs in its ledger."""
    with orchestrator(folder / "without") as empty, orchestrator(folder / "with") as full:
        begun = time.monotonic()
        _fill(full, runs)
        tell(f"history          {runs:,} runs are put in, in {time.monotonic() - begun:.0f} s")
        return [
            _measure(empty, full, runs, shape, repeat, tell) for shape in (SHORT_SHAPES if short else SHAPES)
        ]


def _measure(
    empty: Orchestrator, full: Orchestrator, runs: int, shape: Shape, repeat: int, tell: Tell
) -> Aged:
    seconds: dict[Orchestrator, list[float]] = {empty: [], full: []}
    for number in range(repeat + 1):
        for ours, series in seconds.items():
            taken = sum(ours.measure(shape) for _ in range(SMALL_RUNS)) / SMALL_RUNS
            if number:
                series.append(taken)
    found = Aged(
        shape=shape,
        runs=runs,
        without=Series(seconds=tuple(seconds[empty])),
        with_past=Series(seconds=tuple(seconds[full])),
    )
    tell(f"history          {shape.name}: a step costs {found.factor:.2f} of what it does on an empty ledger")
    return found


def _fill(ours: Orchestrator, runs: int) -> None:
    """Copy the rows of a run of one step, each copy with an id and times of its own.

    The hashes are those of the run that is copied, so that nobody may verify this ledger.
    """
    ours.measure(ONE_STEP)
    with closing(psycopg2.connect(ours.owner_url)) as owner, owner.cursor() as cur:
        cur.execute("SELECT run_id FROM orch.runs WHERE tenant = %s", (TENANT,))
        ((run,),) = cur.fetchall()
        # Foreign keys cost a third of the time, and nothing is asked of this ledger that a crash could undo.
        cur.execute("SET session_replication_role = replica; SET synchronous_commit = off")
        copies = [_copy(cur, table) for table in _LIKE]
        owner.commit()
        for first in range(1, runs + 1, _AT_ONCE):
            cur.execute(_NEW_IDS, (first, min(first + _AT_ONCE - 1, runs)))
            for copy in copies:
                cur.execute(copy, {"tenant": TENANT, "run": run})
            cur.execute(_COUNTED, {"tenant": TENANT})
            owner.commit()
        owner.autocommit = True
        # What autovacuum would otherwise do beside the measurement.
        cur.execute("VACUUM (ANALYZE) " + ", ".join(f"orch.{table}" for table in _LIKE))
        cur.execute("CHECKPOINT")
        cur.execute("SELECT count(*) FROM orch.runs WHERE tenant = %s AND status = 'completed'", (TENANT,))
        ((found,),) = cur.fetchall()
    if found != runs + 1:
        raise BenchError(f"the ledger has {found} runs, not {runs + 1}")


def _copy(cur: Any, table: str) -> str:
    """Write the statement that copies a run's rows in a table."""
    cur.execute(_COLUMNS, (f"orch.{table}",))
    columns = dict(cur.fetchall())
    values = [_value(name, kind) for name, kind in columns.items()]
    return (
        f"INSERT INTO orch.{table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608 - the catalogue's names
        f" FROM orch.{table} AS t, copies AS c WHERE t.tenant = %(tenant)s AND t.run_id = %(run)s"
        f" ORDER BY c.age"
    )


def _value(column: str, kind: str) -> str:
    if column == "run_id":
        return "c.run_id"
    if column == "line":
        return "replace(t.line, t.run_id::text, c.run_id::text)"
    if column in ("xid", "event_xid"):
        return "pg_current_xact_id()"
    return f"t.{column} - c.age" if kind.startswith("timestamp") else f"t.{column}"
