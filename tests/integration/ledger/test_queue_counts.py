"""The figures of the queues, from their indexes."""

from __future__ import annotations

from dataclasses import replace

import psycopg2
import psycopg2.errors
import pytest

from shared.domain.models import TenantId
from shared.services import health
from shared.services.health import Queue, QueueCounts
from shared.store.db import Database
from shared.store.health import queues
from tests.support.graphs import graph
from tests.support.ledger import Ledger

WIDE = graph("", steps="a b c d e", options={"e": {"pool": "big"}})


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def figures(found: list[Queue]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(queue.tenant, queue.pool): (queue.depth, queue.running) for queue in found}


def test_ready_sent_and_running_steps_are_told_apart(ledger: Ledger) -> None:
    run = ledger.start(WIDE)
    assert len(ledger.pick("default")) == 4
    ledger.claimed(run, "a")
    other = replace(ledger, tenant=TenantId("globex"))
    other.start(WIDE)
    of_acme = {("acme", "default"): (3, 1), ("acme", "big"): (1, 0)}
    with ledger.api.statement(ledger.tenant) as cur:
        assert figures(queues(cur, ledger.tenant)) == of_acme
    with ledger.service.statement(None) as cur:
        everybody = figures(queues(cur, None))
    assert everybody == {**of_acme, ("globex", "default"): (4, 0), ("globex", "big"): (1, 0)}


def test_many_queues_are_counted_as_few_are(ledger: Ledger) -> None:
    names = [f"tenant-{number:02}" for number in range(40)]
    for name in names:
        replace(ledger, tenant=TenantId(name)).start(WIDE)
    with ledger.service.statement(None) as cur:
        found = queues(cur, None)
    assert figures(found) == {
        (name, pool): (depth, 0) for name in names for pool, depth in (("default", 4), ("big", 1))
    }
    assert all(0 < queue.oldest_age_seconds < 600 for queue in found)


@pytest.mark.parametrize("asked", [None, TenantId("globex")])
@pytest.mark.parametrize("bound_to", [None, TenantId("acme")])
def test_a_tenant_cannot_ask_for_others(
    ledger: Ledger, database_url: str, bound_to: TenantId | None, asked: TenantId | None
) -> None:
    replace(ledger, tenant=TenantId("globex")).start(WIDE)
    # A connection that was never bound to a tenant has no such setting, not even an empty one.
    fresh = Database(database_url, role="orch_api", size=1, application_name="test")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), fresh.statement(bound_to) as cur:
        queues(cur, asked)
    fresh.close()


def test_long_queues_are_counted_once_a_second_and_short_ones_always(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LONG_QUEUES", 10)
    clock = Clock()
    counts = QueueCounts(now=clock)

    def depth() -> int:
        return sum(queue.depth for queue in counts.of(ledger.api, ledger.tenant))

    seen = []
    for _ in range(3):
        ledger.start(WIDE)
        seen.append(depth())
    assert seen == [5, 10, 10]
    clock.at = health.REMEMBERED_SECONDS
    assert depth() == 15
    assert counts.of(ledger.api, TenantId("globex")) == []
