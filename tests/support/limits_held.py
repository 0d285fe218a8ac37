"""How many steps of a tenant, and with a concurrency key, ran at a time: never more than they may."""

from __future__ import annotations

from collections import defaultdict

from psycopg2.extensions import cursor as Cursor

_ATTEMPTS = """
SELECT a.tenant, d.concurrency_key, d.concurrency_limit, a.started_utc, a.ended_utc, a.run_id, d.step_id
FROM orch.attempts AS a
JOIN orch.runs AS r USING (tenant, run_id)
JOIN orch.dag_steps AS d USING (tenant, dag_version_id, step_no)
"""
_LEASED = """
SELECT s.tenant, s.concurrency_key, count(*), min(d.concurrency_limit), max(d.concurrency_limit)
FROM orch.steps AS s
JOIN orch.runs AS r USING (tenant, run_id)
JOIN orch.dag_steps AS d USING (tenant, dag_version_id, step_no)
WHERE s.concurrency_key IS NOT NULL
AND (s.lease_until IS NOT NULL OR (s.status = 'queued' AND s.sent_utc IS DISTINCT FROM 'infinity'))
GROUP BY s.tenant, s.concurrency_key
"""

Peaks = dict[tuple[str, str | None], int]
"""By tenant and key; the key is ``None`` for all steps of the tenant."""


def peaks(cur: Cursor) -> Peaks:
    """Count the most attempts that overlapped, from when they began and ended by the ledger.

    The cursor is the owner's: it sees all tenants. An attempt that ends in the
    millisecond in which another begins does not overlap with it.
    """
    cur.execute(_ATTEMPTS)
    turns = defaultdict(list)
    for tenant, key, _limit, started, ended, _run, _step in cur.fetchall():
        for line in {None, key}:
            turns[tenant, line].append((started, 1))
            if ended is not None:
                turns[tenant, line].append((ended, -1))
    most: Peaks = {}
    for line, of_line in turns.items():
        running = most[line] = 0
        for _, change in sorted(of_line):
            running += change
            most[line] = max(most[line], running)
    return most


def check_limits_held(cur: Cursor, *, max_running: dict[str, int] | None = None) -> None:
    """Raise ``AssertionError`` unless no limit was passed at any moment.

    ``max_running`` has the limits of tenants that stood all the while; the limits of keys
    are in the ledger. Of a key with several the greatest is looked at.
    """
    cur.execute(
        "SELECT tenant, concurrency_key, max(concurrency_limit) FROM orch.dag_steps"
        " WHERE concurrency_key IS NOT NULL GROUP BY tenant, concurrency_key"
    )
    allowed: dict[tuple[str, str | None], int] = {(row[0], row[1]): row[2] for row in cur.fetchall()}
    allowed |= {(tenant, None): most for tenant, most in (max_running or {}).items()}
    for line, most in peaks(cur).items():
        assert most <= allowed.get(line, most), f"{line}: {most} ran at a time, {allowed[line]} may"
    cur.execute(_LEASED)
    for tenant, key, held, _least, most in cur.fetchall():
        assert held <= most, f"{tenant}/{key}: {held} hold one of {most} places"
