"""A step that its worker has lost or given back does not wait again behind what became ready since."""

from __future__ import annotations

import pytest

from shared.domain.models import Released
from tests.support.graphs import graph
from tests.support.ledger import Ledger

NAMES = [f"s{number:02}" for number in range(40)]


@pytest.mark.parametrize("ending", ["lost", "released"])
def test_it_is_the_next_one_of_its_tenant(ledger: Ledger, ending: str) -> None:
    run = ledger.start(graph("", steps=" ".join(NAMES)))
    first = ledger.pick()
    assert 0 < len(first) < len(NAMES)
    unlucky = NAMES[first[3].step_no]
    if ending == "lost":
        ledger.claimed(run, unlucky, lease_ms=0)
        ledger.rescue()
    else:
        ledger.run_step(run, unlucky, Released())
    for bell in first:
        if NAMES[bell.step_no] != unlucky:
            ledger.run_step(run, NAMES[bell.step_no])

    following = [NAMES[bell.step_no] for bell in ledger.pick()]

    assert unlucky in following
    sent = {name: ledger.step(run, name).queued_utc for name in NAMES[len(first) :]}
    assert all(ledger.step(run, unlucky).queued_utc < queued for name, queued in sent.items())  # type: ignore[operator]
