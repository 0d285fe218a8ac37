"""What reads all steps of a run, right after the first large one, when PostgreSQL has no statistics yet."""

from __future__ import annotations

import json
import time

import psycopg2
import pytest

from shared.store import runs, work
from tests.support.graphs import graph
from tests.support.ledger import Ledger

pytestmark = pytest.mark.timed

STEPS = 10_000
WITHIN_SECONDS = 2.0
"""A fifth of it is what they take; going through the version for each step takes ten times as much."""


def test_a_large_run_is_read_quickly_before_there_are_statistics(ledger: Ledger, owner_url: str) -> None:
    names = [f"s{number}" for number in range(STEPS)]
    spec = graph("", steps=" ".join(names), options={name: {"when": "inputs.go"} for name in names})
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        for table in ("orch.steps", "orch.dag_steps"):
            cur.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    run = ledger.start(spec, inputs={"go": True})
    begun = time.monotonic()
    with ledger.api.statement(ledger.tenant) as cursor:
        found = runs.get_with_steps(cursor, ledger.tenant, run.run_id)
    with ledger.service.statement(ledger.tenant) as cursor:
        undecided = work.list_undecided(cursor, ledger.tenant, run.run_id)
    seconds = time.monotonic() - begun
    assert found is not None
    assert {step["stepId"] for step in json.loads(found[1])} == set(names)
    assert {step.step_id for step in undecided} == set(names)
    assert seconds < WITHIN_SECONDS
