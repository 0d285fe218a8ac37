"""A table in partitions by run id: what does a transaction pay for them? ``python -m bench.partitions``

It tries what docs/scaling.md has on paper, on tables of its own: the ledger has no partitions.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
import psycopg2

from bench.orchestrator import orchestrator

NUMBERS: Final = (0, 8, 32, 128, 512)
TRANSACTIONS: Final = 2_000
RUNS: Final = 2_000
# As the processes of the stack have it, so that a function's plans are those of any run.
_SESSION: Final = (
    "SET plan_cache_mode = force_generic_plan; SET jit = off;"
    " SET enable_seqscan = off; SET enable_bitmapscan = off"
)
_TABLE: Final = (
    "CREATE TABLE parts.steps (tenant text, run_id uuid, step_no integer, status text,"
    " PRIMARY KEY (tenant, run_id, step_no))"
)
_FILL: Final = """
INSERT INTO parts.steps SELECT 'bench', md5(r::text)::uuid, s, 'queued'
FROM generate_series(1, %s) AS r, generate_series(1, 5) AS s;
ANALYZE parts.steps
"""
_TRANSITION: Final = """
CREATE FUNCTION parts.transition(p_run uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM parts.steps WHERE tenant = 'bench' AND run_id = p_run AND step_no = 1;
    UPDATE parts.steps SET status = 'running' WHERE tenant = 'bench' AND run_id = p_run AND step_no = 2;
END $$
"""


@click.command()
def main() -> None:
    """Time transactions of a lookup and an update by key, for growing numbers of partitions."""
    with (
        tempfile.TemporaryDirectory(prefix="orch-bench-") as folder,
        orchestrator(Path(folder) / "data") as ours,
        closing(psycopg2.connect(ours.owner_url)) as owner,
        owner.cursor() as cur,
    ):
        owner.autocommit = True
        cur.execute(_SESSION)
        for number in NUMBERS:
            click.echo(f"{number:>4} partitions: {_measure(cur, number):.3f} ms a transaction")


def _measure(cur: Any, number: int) -> float:
    cur.execute("CREATE SCHEMA parts")
    cur.execute(_TABLE + (" PARTITION BY RANGE (run_id)" if number else ""))
    for place, (first, beyond) in enumerate(_ranges(number)):
        ids = f"FROM ({first}) TO ({beyond})"
        cur.execute(f"CREATE TABLE parts.steps_{place} PARTITION OF parts.steps FOR VALUES {ids}")
    cur.execute(_FILL, (RUNS,))
    cur.execute(_TRANSITION)
    begun = time.perf_counter()
    for place in range(TRANSACTIONS):
        cur.execute("SELECT parts.transition(md5(%s)::uuid)", (str(1 + place % RUNS),))
    taken = time.perf_counter() - begun
    cur.execute("DROP SCHEMA parts CASCADE")
    return 1_000 * taken / TRANSACTIONS


def _ranges(number: int) -> Iterator[tuple[str, str]]:
    """Divide all ids into ranges of the same size, as SQL."""
    bounds = [f"'{place * 2**32 // number:08x}-0000-0000-0000-000000000000'" for place in range(number)]
    return pairwise([*bounds, "MAXVALUE"])


if __name__ == "__main__":
    main()
