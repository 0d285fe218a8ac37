"""Tenants that have work share a fleet's slots by their weights, whatever else they do."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest

from shared.domain.models import DagSpec, RunId, TenantId, TenantLimits
from shared.services import limits, runs
from shared.store.db import Row
from tests.integration.worker.fleet import Fleet, chain, wide
from tests.support.eventually import eventually

pytestmark = pytest.mark.timed

A, B = TenantId("acme"), TenantId("bold")
SLOTS = 8


def start(fleet: Fleet, tenant: TenantId, spec: DagSpec) -> RunId:
    """Publish a DAG of a tenant, and start a run of it."""
    return fleet.start(fleet.publish(spec, tenant=tenant), tenant=tenant)


def chained(fleet: Fleet) -> timedelta:
    """Have a run of ten steps of the tenant ``B``, one after another; how long it took."""
    run_id = start(fleet, B, chain(10, "chained", "sleep", ms=100))
    eventually(lambda: runs.get(fleet.db, B, run_id).status.is_terminal, within=30)
    run = runs.get(fleet.db, B, run_id)
    assert run.ended_utc is not None
    return run.ended_utc - run.started_utc


class Slots:
    """What the tenants have had of the slots, by the ledger."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def now(self) -> datetime:
        """Read PostgreSQL's clock."""
        return self._ask("SELECT clock_timestamp()")[0][0]  # type: ignore[no-any-return]

    def begun(self, tenant: TenantId) -> int:
        """Count the attempts of a tenant."""
        return self._count("tenant = %(tenant)s", tenant=tenant)

    def ended(self) -> int:
        """Count the attempts that have ended."""
        return self._count("ended_utc IS NOT NULL")

    def busy(self) -> set[object]:
        """Tell who holds a slot or has a message out."""
        return {
            row[0]
            for row in self._ask(
                "SELECT tenant FROM orch.steps WHERE lease_until IS NOT NULL"
                " UNION SELECT tenant FROM orch.steps WHERE sent_utc IS NOT NULL AND status = 'queued'"
            )
        }

    def first(self, tenant: TenantId, since: datetime) -> datetime:
        """When the first of the tenant's steps of later than that began."""
        query = (
            "SELECT min(started_utc) FROM orch.attempts WHERE tenant = %(tenant)s AND started_utc > %(since)s"
        )
        return self._ask(query, tenant=tenant, since=since)[0][0]  # type: ignore[no-any-return]

    def shares_of_next(self, span: timedelta) -> dict[TenantId, float]:
        """Tell which part of the slot time of the next while each tenant has."""
        since = self.now()
        eventually(lambda: self.now() - since > span, within=2 * span.total_seconds())
        return self.shares(since, self.now())

    def shares(self, since: datetime, until: datetime) -> dict[TenantId, float]:
        """Tell which part of the slot time between two moments each tenant has had."""
        seconds = Counter[TenantId]()
        for tenant, began, ended in self._ask(
            "SELECT tenant, started_utc, ended_utc FROM orch.attempts"
            " WHERE started_utc < %(until)s AND coalesce(ended_utc, %(until)s) > %(since)s",
            since=since,
            until=until,
        ):
            seconds[tenant] += (min(ended or until, until) - max(began, since)).total_seconds()
        return {tenant: each / seconds.total() for tenant, each in seconds.items()}

    def _count(self, condition: str, **parameters: object) -> int:
        return int(self._ask(f"SELECT count(*) FROM orch.attempts WHERE {condition}", **parameters)[0][0])

    def _ask(self, query: str, **parameters: object) -> list[Row]:
        with self._fleet.service_db.statement(None) as cur:
            cur.execute(query, parameters)
            return cur.fetchall()


def jain(shares: dict[TenantId, float], of: int) -> float:
    """Jain's index: 1 when all shares are equal, 1 / of when one has it all."""
    assert len(shares) == of, shares
    return sum(shares.values()) ** 2 / (of * sum(share**2 for share in shares.values()))


def test_who_comes_behind_ten_thousand_steps_begins_at_once_and_gets_its_half(fleet: Fleet) -> None:
    slots = Slots(fleet)
    fleet.sweeper()
    fleet.worker(ORCH_WORKER_CONCURRENCY=str(SLOTS))
    chained(fleet)
    alone = chained(fleet)
    start(fleet, A, wide(10_000, "sleep", ms=100))
    eventually(lambda: slots.ended() > 2 * SLOTS, within=30)

    behind = chained(fleet)
    assert behind < 2 * alone + timedelta(seconds=2), (alone, behind)

    since = slots.now()
    start(fleet, B, wide(200, "sleep", ms=100))
    eventually(lambda: slots.begun(B) > 150, within=30)

    first = slots.first(B, since)
    assert first - since < timedelta(seconds=1), first - since
    shares = slots.shares(first, slots.now())
    assert 0.45 < shares[B] < 0.55, shares


@pytest.mark.parametrize("others", ["short steps that are handed over", "long steps"])
def test_a_share_is_one_of_time_and_not_of_messages(fleet: Fleet, others: str) -> None:
    slots = Slots(fleet)
    fleet.sweeper()
    fleet.worker(ORCH_WORKER_CONCURRENCY=str(SLOTS))
    if others == "long steps":
        start(fleet, A, wide(500, "sleep", ms=700))
    else:
        for number in range(20):
            start(fleet, A, chain(500, f"chain-{number}", "sleep", ms=3))
    start(fleet, B, wide(2_000, "sleep", ms=40))
    eventually(lambda: min(slots.begun(A), slots.begun(B)) > 2 * SLOTS, within=30)
    # A burst of long steps was sent before it was known what they cost: the other tenant is made up for it.
    shares = slots.shares_of_next(timedelta(seconds=6))
    assert 0.4 < shares[B] < 0.6, shares


def test_five_tenants_have_equal_shares_and_weights_are_followed(fleet: Fleet) -> None:
    slots = Slots(fleet)
    fleet.sweeper()
    fleet.worker(ORCH_WORKER_CONCURRENCY=str(SLOTS))
    five = [TenantId(f"t{number}") for number in range(5)]
    for number, tenant in enumerate(five):
        start(fleet, tenant, wide(3_000, "sleep", ms=25 + 25 * number))
    eventually(lambda: all(slots.begun(tenant) > SLOTS for tenant in five), within=30)
    shares = slots.shares_of_next(timedelta(seconds=6))
    assert jain(shares, 5) > 0.95, shares

    # The longer ones: the ledger does not see what a claim takes, and a share pays for that, too.
    *rest, heavy, light = five
    limits.put(fleet.db, heavy, TenantLimits(weight=3))
    for tenant in rest:
        limits.put(fleet.db, tenant, TenantLimits(max_running_steps=0))
    eventually(lambda: slots.busy() == {heavy, light}, within=30)
    shares = slots.shares_of_next(timedelta(seconds=6))
    assert 2.7 < shares[heavy] / shares[light] < 3.3, shares
