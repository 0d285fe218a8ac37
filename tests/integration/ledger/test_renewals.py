"""A lease is renewed by the attempt that has it, and by no other."""

from __future__ import annotations

from shared.services import work
from shared.services.work import Held
from tests.support.graphs import graph
from tests.support.ledger import LONG_MS, Ledger


def test_a_lost_attempt_does_not_renew_the_lease_of_the_next_one(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    lost = ledger.claimed(run, "a", lease_ms=0)
    ledger.rescue()
    holder = ledger.claimed(run, "a")
    held = [Held(claim.tenant, claim.run_id, claim.step_no, claim.attempt) for claim in (lost, holder)]
    assert [renewal.valid for renewal in work.renew(ledger.service, held[:1], lease_ms=LONG_MS)] == [False]
    assert [renewal.valid for renewal in work.renew(ledger.service, held, lease_ms=LONG_MS)] == [False, True]
