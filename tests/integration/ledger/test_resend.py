"""A message is sent again by its age, and by nothing else."""

from __future__ import annotations

from shared.services import recovery
from tests.support.graphs import graph
from tests.support.ledger import Ledger


def test_a_message_is_sent_again_when_it_is_old_enough_and_not_before(ledger: Ledger) -> None:
    ledger.start(graph("a>b"))
    (bell,) = ledger.pick()
    assert recovery.resend(ledger.service, "default", older_than_ms=60_000, limit=10) == []
    assert recovery.resend(ledger.service, "default", older_than_ms=0, limit=10) == [bell]


def test_a_message_of_a_step_that_was_claimed_is_not_sent_again(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    ledger.pick()
    ledger.claimed(run, "a")
    assert recovery.resend(ledger.service, "default", older_than_ms=0, limit=10) == []
