"""Chaos in a short form, each fault once, with a seed that never changes: a failure here is one at home."""

from __future__ import annotations

import sys
from itertools import islice
from math import ceil
from pathlib import Path

import pytest

from tests.chaos.campaign import running_campaign
from tests.chaos.faults import FAULTS
from tests.chaos.plan import OVERLAPPING, rounds

SEED = "short"


def test_whatever_fails_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    everything = list(FAULTS.values())
    plan = islice(rounds(SEED, everything, together=True), ceil(len(everything) / OVERLAPPING))
    with running_campaign(tmp_path, say) as campaign:
        outcomes = [campaign.conduct(each) for each in plan]
    tried = {planned.fault.name for outcome in outcomes for planned in outcome.round.faults}
    # The last cards of a deck that do not fill a round come in the next one.
    assert len(tried) >= len(everything) - OVERLAPPING
    assert sum(outcome.runs for outcome in outcomes) > 20 * len(outcomes)


def test_the_same_seed_plans_the_same_rounds() -> None:
    everything = list(FAULTS.values())
    first, second = ([*islice(rounds("a", everything, together=False), 50)] for _ in range(2))
    assert first == second
    assert {planned.fault.name for each in first for planned in each.faults} == set(FAULTS)
    assert first != [*islice(rounds("b", everything, together=False), 50)]
