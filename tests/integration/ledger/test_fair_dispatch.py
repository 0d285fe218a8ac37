"""Whose step is picked next: by the slot time that tenants have had, and level after idleness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from shared.domain.models import TenantId, TenantLimits, WorkerId
from shared.services import dispatch, limits, recovery, runs, workers
from shared.services.dispatch import Use
from shared.services.recovery import Backlog, Doorbell
from tests.support.graphs import graph
from tests.support.ledger import Ledger, succeeded

A, B, C = TenantId("acme"), TenantId("bold"), TenantId("calm")
POOL = "default"
MANY = graph("", steps=" ".join(f"s{n:03}" for n in range(200)), dag_id="many")
USUAL_MS = 100.0


def of(ledger: Ledger, tenant: TenantId) -> Ledger:
    return replace(ledger, tenant=tenant)


class Fleet:
    """Eight slots that take every message at once, and tell what it has cost."""

    def __init__(self, ledger: Ledger, **cost_ms: float) -> None:
        self._ledger = ledger
        self._cost_ms = cost_ms
        self._used: dict[TenantId, Use] = {}

    def pick(self, *ready: TenantId) -> list[Doorbell]:
        """Settle what has been used, and pick."""
        used, self._used = self._used, {}
        return dispatch.settle_and_pick(self._ledger.service, POOL, ready=ready, used=used).bells

    def serve(self, bells: Sequence[Doorbell]) -> None:
        """Run what was picked."""
        for bell in bells:
            own = of(self._ledger, bell.tenant)
            own.run_step(runs.get(own.api, own.tenant, bell.run_id), f"s{bell.step_no:03}")
            use = Use(1, self._cost_ms.get(bell.tenant, USUAL_MS))
            self._used[bell.tenant] = self._used.get(bell.tenant, Use(0, 0.0)) + use

    def picked(self, *ready: TenantId, rounds: int = 1) -> Counter[TenantId]:
        """Pick and serve some times; count whose steps those were."""
        counted = Counter[TenantId]()
        for _ in range(rounds):
            bells = self.pick(*ready)
            counted.update(bell.tenant for bell in bells)
            self.serve(bells)
        return counted


@pytest.mark.parametrize("ratio", [1, 3, 10])
def test_a_tenant_whose_messages_cost_more_gets_fewer_of_them(ledger: Ledger, ratio: int) -> None:
    of(ledger, A).start(MANY)
    of(ledger, B).start(MANY)
    fleet = Fleet(ledger, bold=USUAL_MS * ratio)
    fleet.picked(A, B, rounds=9)
    picked = fleet.picked(rounds=14)
    # Within a message or two of the few that the dear one gets.
    assert 0.65 * ratio <= picked[A] / picked[B] <= 1.5 * ratio, picked


def test_a_message_that_found_nothing_is_given_back(ledger: Ledger) -> None:
    of(ledger, A).start(MANY)
    of(ledger, B).start(MANY)
    fleet = Fleet(ledger, bold=60_000.0)
    fleet.picked(A, B)
    doomed = [bell for bell in fleet.pick() if bell.tenant == B]
    before = turn(ledger, B)
    dispatch.settle_and_pick(ledger.service, POOL, ready=(), used={B: Use(len(doomed), 0.0)})
    cost = 60_000 - (60_000 - 100) * 0.9**8
    assert turn(ledger, B) == pytest.approx(before - len(doomed) * cost, rel=0.01)
    assert turn(ledger, B, "cost_ms") == pytest.approx(cost, rel=0.01)


def turn(ledger: Ledger, tenant: TenantId, column: str = "virtual_time") -> float:
    with ledger.service.statement(None) as cur:
        cur.execute(f"SELECT {column} FROM orch.tenant_queues WHERE tenant = %(tenant)s", {"tenant": tenant})
        return float(cur.fetchall()[0][0])


def test_who_was_idle_while_others_worked_has_no_credit(ledger: Ledger) -> None:
    """Also when nobody waits just as it comes back, and when those who come back have had much before."""
    fleet = Fleet(ledger)
    of(ledger, B).start(MANY)
    fleet.picked(B, rounds=20)
    of(ledger, A).start(MANY)
    fleet.pick(A)
    of(ledger, B).start(MANY)
    of(ledger, C).start(MANY)
    fleet.serve(_sent(ledger))
    picked = fleet.picked(B, C, rounds=3)
    assert max(picked.values()) - min(picked[tenant] for tenant in (A, B, C)) <= 4, picked


def _sent(ledger: Ledger) -> list[Doorbell]:
    with ledger.service.statement(None) as cur:
        cur.execute("SELECT tenant, run_id, step_no FROM orch.steps WHERE sent_utc IS NOT NULL")
        return [Doorbell(row[0], row[1], row[2], POOL) for row in cur.fetchall()]


def test_a_thousand_tenants_with_a_step_each_are_all_served_once(ledger: Ledger) -> None:
    tenants = [TenantId(f"t{number:04}") for number in range(300)]
    one = graph("", steps="s000", dag_id="one")
    for tenant in tenants:
        of(ledger, tenant).start(one)
    fleet = Fleet(ledger)
    picked = fleet.picked(*tenants)
    while more := fleet.picked():
        picked += more
    assert picked == Counter(tenants)


@pytest.mark.parametrize(("weight", "least"), [(0.001, 1), (1000.0, 180)])
def test_the_smallest_weight_still_gets_its_turn_and_the_greatest_leaves_some(
    ledger: Ledger, weight: float, least: int
) -> None:
    limits.put(ledger.api, A, TenantLimits(weight=weight))
    of(ledger, A).start(MANY)
    of(ledger, B).start(MANY)
    fleet = Fleet(ledger)
    picked = fleet.picked(A, B, rounds=25)
    assert picked[A] >= least
    assert picked[B] >= 1


def test_two_messages_a_slot_are_out_and_no_more_however_few_slots_there_are(ledger: Ledger) -> None:
    of(ledger, A).start(MANY)
    workers.register(ledger.service, WorkerId("one"), pools=[POOL], slots=1)
    fleet = Fleet(ledger)
    assert len(fleet.pick(A)) == 2
    assert fleet.pick() == []
    workers.register(ledger.service, WorkerId("two"), pools=[POOL, "big"], slots=3)
    assert len(fleet.pick()) == 6


def test_of_long_messages_no_more_are_out_than_there_are_slots(ledger: Ledger) -> None:
    """A slot's next message can be sent in time, and who joins the line waits for fewer steps."""
    of(ledger, A).start(MANY)
    fleet = Fleet(ledger, acme=5.0)
    assert fleet.picked(A, rounds=2)[A] == 32
    slow = Fleet(ledger, acme=5_000.0)
    slow.picked()
    assert slow.picked()[A] == 8


def test_a_tenant_without_room_is_out_of_line_until_a_step_of_it_ends_in_whichever_pool(
    ledger: Ledger,
) -> None:
    limits.put(ledger.api, A, TenantLimits(max_running_steps=1))
    run = ledger.start(graph("", steps="a b", options={"b": {"pool": "big"}}))
    assert [bell.step_no for bell in ledger.pick()] == [0]
    assert ledger.pick("big") == []
    claim = ledger.claimed(run, "a")
    assert recovery.let_go(ledger.service) == frozenset()
    ledger.complete(claim, succeeded())
    picked = dispatch.settle_and_pick(ledger.service, POOL, ready=(), used={A: Use(1, 5.0)})
    assert (picked.bells, picked.again) == ([], [Backlog(A, "big")])
    assert recovery.let_go(ledger.service) == {Backlog(A, "big")}
    assert [bell.step_no for bell in ledger.pick("big")] == [1]
    assert recovery.let_go(ledger.service) == frozenset()


def test_a_tenant_that_another_picker_counts_just_now_is_to_be_picked_again(
    ledger: Ledger, owner_url: str
) -> None:
    limits.put(ledger.api, A, TenantLimits(max_running_steps=1))
    ledger.start(graph("", steps="a b", options={"b": {"pool": "big"}}))
    again = [Backlog(A, POOL)]
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("SELECT pg_advisory_xact_lock(hashtext('orch.limit'), hashtext('acme'))")
        assert dispatch.settle_and_pick(ledger.service, POOL, ready=[A], used={}).again == again
        # The other may be about to send it out of line for want of the room that is told of here.
        used = {A: Use(1, 5.0)}
        assert dispatch.settle_and_pick(ledger.service, "big", ready=(), used=used).again == again
    assert [bell.step_no for bell in ledger.pick()] == [0]


def test_tenants_without_room_cost_a_pick_nothing_once_they_are_out_of_line(
    ledger: Ledger, owner_url: str
) -> None:
    """Measured in blocks that PostgreSQL looks at, since time depends on the machine."""
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        few = min(_blocks(cur) for _ in range(3))
        cur.execute(
            "INSERT INTO orch.tenant_limits (tenant, max_running_steps)"
            " SELECT 't' || n, 0 FROM generate_series(1, 500) AS n"
        )
        cur.execute(
            "INSERT INTO orch.tenant_queues (tenant, pool)"
            " SELECT 't' || n, 'default' FROM generate_series(1, 500) AS n"
        )
        connection.commit()
        assert _blocks(cur) > few + 500
        ledger.pick()
        assert min(_blocks(cur) for _ in range(3)) <= few + 20


def _blocks(cur: Cursor) -> int:
    """Count the blocks that a pick looks at."""
    cur.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM orch.pick('default', '{}', '{}', '{}', '{}')"
    )
    plan = (cur.fetchone() or ({},))[0][0]["Plan"]
    cur.connection.rollback()
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
