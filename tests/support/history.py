"""A tenant with a past: as many events as a test wants, written by the ledger's own function."""

from __future__ import annotations

import psycopg2

_WRITE = """
DO $$
BEGIN
    FOR n IN 1..{count} LOOP
        PERFORM orch.record(r, 'run.updated', '{{}}') FROM orch.runs AS r WHERE r.run_id = '{run_id}';
    END LOOP;
END $$"""


def write_history(owner_url: str, run_id: str, count: int, *, at_once: int = 2_000) -> None:
    """Add so many events to a run, in transactions of at most ``at_once`` events."""
    with psycopg2.connect(owner_url) as owner, owner.cursor() as cur:
        for begun in range(0, count, at_once):
            cur.execute(_WRITE.format(count=min(at_once, count - begun), run_id=run_id))
            owner.commit()
