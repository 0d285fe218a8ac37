"""Fair dispatch: what does a pick cost, of ten tenants and of ten thousand?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from bench.orchestrator import Orchestrator
from bench.results import Picks
from bench.steady import Tell
from bench.subject import BenchError
from shared import migrations
from shared.domain.models import TenantId
from shared.services.dispatch import Use, settle_and_pick
from shared.store.db import Database

TENANTS: Final = (10, 1_000, 10_000)
SHORT_TENANTS: Final = (10,)
SLOTS: Final = (8, 64)
"""Of the workers that are alive: one of them, or eight."""
STEPS: Final = 5_000
"""So many are picked of each number of tenants, of more that are ready."""
SHORT_STEPS: Final = 200
USED_MS: Final = 5.0
"""What each message is said to have had of its slot."""
_POOL: Final = "default"
_DATABASE: Final = "bench_tenants"
_FILL: Final = (
    "TRUNCATE orch.steps, orch.tenant_queues, orch.pool_clocks, orch.workers",
    # Of no run: dispatch does not ask for it.
    """
    INSERT INTO orch.steps (tenant, run_id, step_no, status, pool, waiting, queued_utc)
    SELECT 't' || t, uuidv7(), n, 'queued', %(pool)s, 0, clock_timestamp()
    FROM generate_series(1, %(each)s) AS n, generate_series(1, %(tenants)s) AS t
    """,
    """
    INSERT INTO orch.tenant_queues (tenant, pool, cost_ms)
    SELECT 't' || t, %(pool)s, %(used_ms)s FROM generate_series(1, %(tenants)s) AS t
    """,
    """
    INSERT INTO orch.workers (worker_id, pools, slots, seen_utc)
    VALUES ('bench', ARRAY[%(pool)s], %(slots)s, clock_timestamp() + INTERVAL '1 day')
    """,
    "ANALYZE orch.steps, orch.tenant_queues",
)
_CLAIM_ALL: Final = (
    "UPDATE orch.steps SET status = 'running', sent_utc = NULL, queued_utc = NULL"
    " WHERE pool = %(pool)s AND status = 'queued' AND sent_utc IS NOT NULL"
)


def tenants(ours: Orchestrator, *, short: bool, tell: Tell) -> list[Picks]:
    """Pick steps of each number of tenants, in a database of their own that no worker looks at.

    BenchError if one of the tenants, who all have ready steps and the same weight, gets more than its turn.
    """
    numbers, steps = (SHORT_TENANTS, SHORT_STEPS) if short else (TENANTS, STEPS)
    with _database(ours) as url, closing(psycopg2.connect(url)) as owner, owner.cursor() as cur:
        owner.autocommit = True
        db = Database(url, role="orch_service", size=1, application_name="bench")
        with closing(db):
            return [_measure(cur, db, number, slots, steps, tell) for number in numbers for slots in SLOTS]


def _measure(cur: Any, db: Database, number: int, slots: int, steps: int, tell: Tell) -> Picks:
    each = 2 + steps // number
    wanted = {"pool": _POOL, "each": each, "tenants": number, "slots": slots, "used_ms": USED_MS}
    for statement in _FILL:
        cur.execute(statement, wanted)
    taken, picked, used = list[float](), Counter[TenantId](), dict[TenantId, Use]()
    while picked.total() < steps:
        begun = time.perf_counter()
        bells = settle_and_pick(db, _POOL, ready=list(used), used=used).bells
        taken.append(time.perf_counter() - begun)
        if not bells:
            raise BenchError("nothing was picked, though every tenant has ready steps")
        turns = Counter(bell.tenant for bell in bells)
        picked += turns
        used = {tenant: Use(count, count * USED_MS) for tenant, count in turns.items()}
        cur.execute(_CLAIM_ALL, wanted)
    least = min(picked.values()) if len(picked) == number else 0
    if max(picked.values()) - least > 1:
        raise BenchError(f"of {number} tenants with equal rights one got {max(picked.values())}, one {least}")
    found = Picks(tenants=number, slots=slots, steps=picked.total(), seconds=tuple(sorted(taken)))
    rate = f"{found.steps_a_second:,.0f} steps a second, {found.ms_a_pick:.2f} ms a pick"
    tell(f"tenants          {number:,} tenants, {slots} slots: {rate}")
    return found


@contextmanager
def _database(ours: Orchestrator) -> Iterator[str]:
    """Lend the URL of a new database with the schema, on the stack's PostgreSQL."""
    url = urlunsplit(urlsplit(ours.owner_url)._replace(path=f"/{_DATABASE}"))
    with closing(psycopg2.connect(ours.owner_url)) as owner, owner.cursor() as cur:
        owner.autocommit = True
        cur.execute(f"CREATE DATABASE {_DATABASE}")
        try:
            migrations.upgrade(url)
            yield url
        finally:
            cur.execute(f"DROP DATABASE {_DATABASE}")
