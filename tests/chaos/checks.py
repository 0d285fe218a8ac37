"""What must hold when the faults of a round are over and all runs have ended."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from psycopg2.extensions import cursor as Cursor

from shared.services.verify import broken_rules
from shared.store.verify import plan_for_whole_tables
from tests.chaos.history import History
from tests.chaos.shapes import Shape
from tests.support.limits_held import check_limits_held

Rows = dict[tuple[str, str], tuple[str, str]]
"""The run and its status by tenant and run token."""
OURS = ("web", "worker", "sweeper")
EXCUSED = re.compile("Frequent restarts detected")
"""Celery's own warning that it will now pause a second before it connects again."""
MAX_SHOWN = 5


def ledger_problems(cur: Cursor) -> Iterator[str]:
    """Hold the ledger to its rules, and to no limit that was passed at any moment."""
    cur.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    plan_for_whole_tables(cur)
    for broken in broken_rules(cur)[:MAX_SHOWN]:
        yield f"not so: {broken.rule}: {broken.tenant} run {broken.run_id} {broken.place}"
    cur.execute(
        "SELECT tenant, max_running_steps FROM orch.tenant_limits WHERE max_running_steps IS NOT NULL"
    )
    try:
        check_limits_held(cur, max_running=dict(cur.fetchall()))
    except AssertionError as error:
        yield str(error)
    cur.execute("ROLLBACK")


def history_problems(cur: Cursor, history: History, shapes: dict[str, Shape]) -> Iterator[str]:
    """Hold what clients were told against the ledger: nothing lost, nothing made up, nothing twice."""
    cur.execute(
        "SELECT tenant, run_token, run_id::text, status::text FROM orch.runs WHERE run_token IS NOT NULL"
    )
    rows: Rows = {(tenant, token): (run_id, status) for tenant, token, run_id, status in cur.fetchall()}
    yield from history.wrong[:MAX_SHOWN]
    for call in history.worse_than_unavailable()[:MAX_SHOWN]:
        yield f"{call.what}: {call.status}" + ("" if call.retry_after else " without Retry-After")
    for key, start in history.starts.items():
        found = rows.pop(key, None)
        if found is None:
            if start.acknowledged:
                yield f"{key}: acknowledged as {start.acknowledged}, and lost"
            continue
        run_id, status = found
        if start.acknowledged - {run_id}:
            yield f"{key}: {start.acknowledged} were acknowledged, {run_id} is there"
        may_end = {"cancelled"} if start.cancelled else set(shapes[start.shape].ends)
        if start.asked_to_cancel and not start.cancelled and not start.too_late_to_cancel:
            may_end |= {"cancelled"}
        if status not in may_end:
            yield f"{key}: a run of {start.shape} is {status}, which may be {may_end}"
    if made_up := list(rows)[:MAX_SHOWN]:
        yield f"nobody asked for {made_up}"


def effect_problems(cur: Cursor, sink: Path) -> Iterator[str]:
    """Hold what commands did against the attempts: each success did its work, no attempt did it twice."""
    done = Counter(sink.read_text(encoding="utf-8").split()) if sink.exists() else Counter[str]()
    cur.execute(_COMMANDS)
    known = set()
    for run_id, step_id, attempt, status in cur.fetchall():
        known.add(name := f"{run_id}/{step_id}/{attempt}")
        if status == "succeeded" and not done[name]:
            yield f"{name} succeeded and did nothing"
    for name, times in done.items():
        if times > 1:
            yield f"{name} was done {times} times"
        if name not in known:
            yield f"{name} was done and is not in the ledger"


def artifact_problems(cur: Cursor, store: Path) -> Iterator[str]:
    """Hold each file of the store to its name, and each reference to a file."""
    kept = {path.name: path for path in store.glob("[0-9a-f][0-9a-f]/*")}
    for name, path in kept.items():
        if hashlib.sha256(path.read_bytes()).hexdigest() != name:
            yield f"the artifact {name} has another content"
    cur.execute("SELECT tenant, encode(sha256, 'hex'), size_bytes FROM orch.artifacts")
    for tenant, name, size in cur.fetchall():
        if name not in kept:
            yield f"the artifact {name} of {tenant} is gone"
        elif kept[name].stat().st_size != size:
            yield f"the artifact {name} of {tenant} has not {size} bytes"


def log_problems(folder: Path, read: dict[Path, int]) -> Iterator[str]:
    """Look through what was logged since the last look: no traceback, no token, no password."""
    for path in sorted(folder.glob("*.log")):
        if not path.name.startswith(OURS):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        new, read[path] = text[read.get(path, 0) :], len(text)
        seen = defaultdict[str, int](int)
        for line in new.splitlines():
            for what in ("Traceback (most recent call last)", "eyJhbGciOi"):
                if what in line and not EXCUSED.search(line):
                    seen[f"{path.name} has {what!r}: {line[:1500]}"] += 1
        yield from list(seen)[:MAX_SHOWN]


_COMMANDS = """
SELECT a.run_id::text, d.step_id, a.attempt, a.status::text FROM orch.attempts AS a
INNER JOIN orch.runs AS r ON a.tenant = r.tenant AND a.run_id = r.run_id
INNER JOIN orch.dag_steps AS d
    ON r.tenant = d.tenant AND r.dag_version_id = d.dag_version_id AND a.step_no = d.step_no
WHERE d.uses = 'command'
"""
