"""Many steps that are told of an ending together fare as few do, each by itself."""

from __future__ import annotations

import psycopg2
import pytest

from shared.domain.models import DagSpec, JsonObject
from tests.support.graphs import graph
from tests.support.ledger import Ledger, failed, succeeded

KINDS: dict[str, JsonObject] = {
    "plain": {},
    "big": {"pool": "big"},
    "disabled": {"disabled": True},
    "asks": {"when": "true"},
    "key": {"concurrencyKey": "k"},
    "after-failure": {"runOn": "failure"},
    "always": {"runOn": "always"},
    "joins": {},
    "behind": {},
}
FATE = """
SELECT
    regexp_replace(d.step_id, '-[0-9]+$', '') AS kind, s.status, s.error_code, s.waiting, s.upstream_failed,
    s.pool, s.attempt, s.undecided_utc IS NULL, s.queued_utc IS NULL, s.sent_utc, s.ended_utc IS NULL,
    s.outputs_hash IS NULL, s.lease_until IS NULL
FROM orch.steps AS s
INNER JOIN orch.dag_steps AS d USING (tenant, step_no)
INNER JOIN orch.runs AS r ON r.run_id = s.run_id AND r.dag_version_id = d.dag_version_id
WHERE r.dag_id = %s AND d.step_id LIKE '%%-%%'
"""


def fan(name: str, copies: int) -> DagSpec:
    """Write a DAG with so many steps of each kind behind a root; some wait for others as well."""
    steps = [f"{kind}-{number}" for kind in KINDS for number in range(copies) if kind != "behind"]
    edges = [f"root>{step}" for step in steps]
    edges += [f"other>joins-{number}" for number in range(copies)]
    edges += [f"disabled-{number}>behind-{number}" for number in range(copies)]
    options = {
        f"{kind}-{number}": options for kind, options in KINDS.items() for number in range(copies) if options
    }
    return graph(" ".join(edges), dag_id=name, options=options)


@pytest.mark.parametrize("handoff", [frozenset(), frozenset({"default"})], ids=["none taken", "one taken"])
@pytest.mark.parametrize("succeeds", [True, False], ids=["succeeded", "failed"])
def test_a_wide_wave_does_to_each_step_what_a_narrow_one_does(
    ledger: Ledger, owner_url: str, handoff: frozenset[str], succeeds: bool
) -> None:
    fates: list[set[tuple[object, ...]]] = []
    readiness: list[tuple[object, ...]] = []
    sizes: list[int] = []
    for name, copies in (("narrow", 2), ("wide", 40)):
        run = ledger.start(fan(name, copies))
        root = ledger.claimed(run, "root")
        change = ledger.complete(root, succeeded() if succeeds else failed(), handoff=handoff)
        readiness.append((change.ready_pools, change.keys, change.undecided, change.next is not None))
        with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
            cur.execute(FATE, [name])
            rows = cur.fetchall()
        connection.close()
        sizes.append(len(rows))
        fates.append(set(rows))
    assert sizes == [2 * len(KINDS), 40 * len(KINDS)]
    assert fates[0] == fates[1]
    assert readiness[0] == readiness[1]
    assert {str(fate[1]) for fate in fates[0]} >= {"skipped", "pending", "queued"}
