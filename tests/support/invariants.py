"""What must hold of the ledger at any moment, and after everything has ended."""

from __future__ import annotations

from psycopg2.extensions import cursor as Cursor

from shared.services.verify import broken_rules
from shared.store.verify import plan_for_whole_tables


def check_invariants(cur: Cursor, *, ended: bool = True) -> None:
    """Raise ``AssertionError`` naming what is broken. The cursor is the owner's: it sees all tenants.

    With ``ended``, every run must have come to its end: the rules then leave no lease, no due time and
    no mark of a message behind.
    """
    plan_for_whole_tables(cur)
    broken = broken_rules(cur)
    assert not broken, f"{len(broken)} broken, the first: {broken[:5]}"
    if ended:
        cur.execute("SELECT run_id, started_utc FROM orch.runs WHERE status = 'running' LIMIT 5")
        assert not (running := cur.fetchall()), f"these have not ended: {running}"


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
