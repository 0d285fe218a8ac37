"""What must hold of the ledger at any moment, and after everything has ended."""

from __future__ import annotations

import json
from hashlib import sha256

from psycopg2.extensions import cursor as Cursor

from shared.domain.states import StepStatus, is_legal

_TERMINAL = ("succeeded", "failed", "skipped", "cancelled")


def check_invariants(cur: Cursor, *, ended: bool = True) -> None:
    """Raise ``AssertionError`` naming what is broken. The cursor is the owner's: it sees all tenants.

    With ``ended``, every run must have come to its end and nothing may be left over.
    """
    cur.execute("SELECT tenant, run_id, seq, encode(ledger_head, 'hex'), status, open_steps FROM orch.runs")
    for tenant, run_id, seq, head, status, open_steps in cur.fetchall():
        assert not ended or status != "running", f"{run_id} has not ended"
        _check_run(cur, tenant, run_id, seq, head, status)
        cur.execute(
            "SELECT count(*) FROM orch.steps WHERE tenant = %s AND run_id = %s AND NOT status = ANY(%s)",
            (tenant, run_id, list(_TERMINAL)),
        )
        assert cur.fetchone() == (open_steps,), f"{run_id}: open_steps is not the recount"
    for what, query in _NEVER.items():
        cur.execute(query)
        found = cur.fetchall()
        assert not found, f"{what}: {found[:5]}"


def check_totals(cur: Cursor) -> None:
    """Raise ``AssertionError`` unless the totals, brought up to date, are what a recount gives."""
    cur.execute("SELECT orch.count_events(1000000)")
    for what, recount in _RECOUNTS.items():
        cur.execute(
            "SELECT tenant, status, sum(count)::bigint, sum(sum_ms)::bigint FROM orch.metric_totals"
            " WHERE metric = %s GROUP BY tenant, status ORDER BY tenant, status",
            (what,),
        )
        counted = cur.fetchall()
        cur.execute(recount)
        assert counted == cur.fetchall(), f"the totals of {what} are not the recount"


def _check_run(cur: Cursor, tenant: str, run_id: str, seq: int, head: str, status: str) -> None:
    cur.execute(
        "SELECT seq, line, encode(hash, 'hex') FROM orch.events"
        " WHERE tenant = %s AND run_id = %s ORDER BY seq",
        (tenant, run_id),
    )
    chain, states, ends = bytes(32), dict[str, str](), 0
    for number, (event_seq, line, digest) in enumerate(cur.fetchall(), start=1):
        event = json.loads(line)
        assert event_seq == event["seq"] == number, f"{run_id}: seq has a gap at {number}"
        assert event["tenant"] == tenant
        assert event["runId"] == str(run_id)
        chain = sha256(chain + line.encode()).digest()
        assert chain.hex() == digest, f"{run_id}: the hash chain breaks at {number}"
        assert not ends, f"{run_id}: an event after the end"
        ends += event["type"] in ("run.completed", "run.failed", "run.cancelled")
        if event["type"] == "step.updated":
            before, after = states.get(event["stepId"], "pending"), event["stepStatus"]
            assert is_legal(StepStatus(before), StepStatus(after)), f"{run_id}: {before} -> {after}"
            states[event["stepId"]] = after
    assert chain.hex() == head, f"{run_id}: the head is not the last event's hash"
    assert bool(ends) == (status != "running"), f"{run_id}: ended without its event, or the other way round"
    cur.execute(
        "SELECT d.step_id, s.status FROM orch.steps s JOIN orch.runs r USING (tenant, run_id)"
        " JOIN orch.dag_steps d USING (tenant, dag_version_id, step_no)"
        " WHERE s.tenant = %s AND s.run_id = %s",
        (tenant, run_id),
    )
    for step_id, stored in cur.fetchall():
        replayed = states.get(step_id, "pending")
        assert replayed == stored, f"{run_id}/{step_id}: the events say {replayed}, the row {stored}"


_NEVER = {
    "a step began before a predecessor had ended": """
        SELECT s.run_id, s.step_no, p.step_no
        FROM orch.steps s
        JOIN orch.runs r USING (tenant, run_id)
        JOIN orch.dag_edges e
            ON e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.to_no = s.step_no
        JOIN orch.steps p ON p.tenant = s.tenant AND p.run_id = s.run_id AND p.step_no = e.from_no
        WHERE s.started_utc IS NOT NULL AND (p.ended_utc IS NULL OR p.ended_utc > s.started_utc)""",
    "two attempts of a step won": """
        SELECT run_id, step_no FROM orch.attempts WHERE status = 'succeeded'
        GROUP BY tenant, run_id, step_no HAVING count(*) > 1""",
    "a step succeeded without an attempt that did": """
        SELECT s.run_id, s.step_no FROM orch.steps s
        WHERE s.status = 'succeeded' AND NOT EXISTS (
            SELECT 1 FROM orch.attempts a
            WHERE a.tenant = s.tenant AND a.run_id = s.run_id AND a.step_no = s.step_no
            AND a.attempt = s.attempt AND a.status = 'succeeded')""",
    "attempts of a step overlap": """
        SELECT a.run_id, a.step_no, a.attempt FROM orch.attempts a
        JOIN orch.attempts b USING (tenant, run_id, step_no)
        WHERE b.attempt = a.attempt + 1 AND (a.ended_utc IS NULL OR a.ended_utc > b.started_utc)""",
    "attempts are not numbered from 1": """
        SELECT run_id, step_no FROM orch.attempts
        GROUP BY tenant, run_id, step_no HAVING count(*) <> max(attempt) OR min(attempt) <> 1""",
    "an attempt runs although its step does not": """
        SELECT a.run_id, a.step_no, a.attempt FROM orch.attempts a
        JOIN orch.steps s USING (tenant, run_id, step_no)
        WHERE a.status = 'running' AND (s.status <> 'running' OR s.attempt <> a.attempt)""",
    "waiting is not the recount": """
        SELECT s.run_id, s.step_no FROM orch.steps s
        JOIN orch.runs r USING (tenant, run_id)
        WHERE s.status = 'pending' AND s.waiting <> (
            SELECT count(*) FROM orch.dag_edges e
            JOIN orch.steps p ON p.tenant = s.tenant AND p.run_id = s.run_id AND p.step_no = e.from_no
            WHERE e.tenant = r.tenant AND e.dag_version_id = r.dag_version_id AND e.to_no = s.step_no
            AND p.ended_utc IS NULL)""",
    "a step's times do not fit its state": """
        SELECT run_id, step_no, status FROM orch.steps
        WHERE (status = 'running') <> (lease_until IS NOT NULL)
        OR (status = 'retrying') <> (due_utc IS NOT NULL)
        OR (status IN ('succeeded', 'failed', 'skipped', 'cancelled')) <> (ended_utc IS NOT NULL)
        OR (undecided_utc IS NOT NULL AND status <> 'pending')
        OR (sent_utc IS NOT NULL AND status <> 'queued')
        OR waiting < 0""",
    "an attempt's end does not fit its state": """
        SELECT run_id, step_no, attempt FROM orch.attempts
        WHERE (status = 'running') <> (ended_utc IS NULL)""",
    "a run's end does not fit its state": """
        SELECT run_id FROM orch.runs
        WHERE (status = 'running') <> (ended_utc IS NULL) OR (status = 'running') <> (open_steps > 0)""",
    "a row of one tenant belongs to a run of another": """
        SELECT s.tenant, s.run_id FROM orch.steps s
        WHERE NOT EXISTS (SELECT 1 FROM orch.runs r WHERE r.tenant = s.tenant AND r.run_id = s.run_id)""",
}

_RECOUNTS = {
    "run": """
        SELECT tenant, status, count(*), sum(orch.elapsed_ms(started_utc, ended_utc))::bigint FROM orch.runs
        WHERE ended_utc IS NOT NULL GROUP BY tenant, status ORDER BY tenant, status""",
    "attempt": """
        SELECT tenant, status, count(*), sum(orch.elapsed_ms(started_utc, ended_utc))::bigint
        FROM orch.attempts
        WHERE ended_utc IS NOT NULL GROUP BY tenant, status ORDER BY tenant, status""",
    "retry": """
        SELECT tenant, '', count(*), 0::bigint FROM orch.events
        WHERE line LIKE '%"stepStatus":"retrying"%' GROUP BY tenant ORDER BY tenant""",
}
