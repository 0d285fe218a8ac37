from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from orchestrator_worker.run_ahead import AHEAD_SECONDS, run_ahead
from shared.domain.hashing import hash_json
from shared.domain.models import (
    Ancestor,
    ArtifactRef,
    Claim,
    Failed,
    JsonObject,
    Outcome,
    Released,
    Sha256,
    StepId,
    Succeeded,
)
from shared.domain.states import ErrorCode, StepStatus
from tests.support.attempts import claim

FAILED = Failed(error_code=ErrorCode.TIMEOUT, error_message="too slow", retry_delay_ms=None)
LOG = ArtifactRef(name="log", sha256=Sha256("0" * 64), size_bytes=1, content_type="text/plain")


def done(outputs: JsonObject | None = None, *artifacts: ArtifactRef) -> Succeeded:
    given = outputs or {}
    return Succeeded(
        outputs=given, outputs_hash=hash_json(given), inputs_hash=hash_json({}), artifacts=artifacts
    )


def line(*step_ids: str) -> Claim:
    """Claim the first of some steps, each of which reads what the one before has given."""
    unseen = Ancestor(status=StepStatus.PENDING, outputs={})
    claims = [replace(claim("noop", {}), step_no=no, step_id=StepId(i)) for no, i in enumerate(step_ids)]
    reading = [replace(after, ancestors={before.step_id: unseen}) for before, after in pairwise(claims)]
    return replace(claims[0], ahead=tuple(reading))


def numbered(outcomes: dict[str, Outcome] | None = None) -> Callable[[Claim], Outcome]:
    """Add one to what the step before has given, unless another outcome is named for the step."""

    def attempt(step: Claim) -> Outcome:
        if outcomes and step.step_id in outcomes:
            return outcomes[step.step_id]
        ((_, before),) = step.ancestors.items()
        assert before.status is StepStatus.SUCCEEDED
        number = before.outputs["n"]
        assert isinstance(number, int)
        return done({"n": number + 1})

    return attempt


def always() -> bool:
    return True


def test_each_reads_what_those_before_it_have_given() -> None:
    ran = run_ahead(line("a", "b", "c"), done({"n": 1}), numbered(), always)
    assert [(one.step_no, one.outcome.outputs) for one in ran] == [(1, {"n": 2}), (2, {"n": 3})]


def test_what_was_known_of_others_stays_known() -> None:
    seen: list[Claim] = []
    other = Ancestor(status=StepStatus.SUCCEEDED, outputs={"n": 5})
    first = line("a", "b")
    step = replace(first.ahead[0], ancestors={**first.ahead[0].ancestors, StepId("x"): other})

    def attempt(claimed: Claim) -> Outcome:
        seen.append(claimed)
        return done()

    run_ahead(replace(first, ahead=(step,)), done({"n": 1}), attempt, always)
    assert seen[0].ancestors == {
        "a": Ancestor(status=StepStatus.SUCCEEDED, outputs={"n": 1}),
        "x": other,
    }


@pytest.mark.parametrize("outcome", [FAILED, Released(), done({}, LOG)], ids=["failed", "released", "a log"])
def test_what_is_no_plain_success_is_left_for_the_record(outcome: Outcome) -> None:
    ran = run_ahead(line("a", "b", "c", "d"), done({"n": 1}), numbered({"c": outcome}), always)
    assert [one.step_no for one in ran] == [1]


@pytest.mark.parametrize("outcome", [FAILED, Released()], ids=["failed", "released"])
def test_behind_what_has_not_succeeded_nothing_runs(outcome: Outcome) -> None:
    assert list(run_ahead(line("a", "b"), outcome, numbered(), always)) == []


def test_it_ends_with_the_time_slice() -> None:
    turns = iter([True, False])
    ran = run_ahead(line("a", "b", "c"), done({"n": 1}), numbered(), lambda: next(turns))
    assert [one.step_no for one in ran] == [1]


def test_an_end_is_not_kept_back_for_long() -> None:
    def slow(step: Claim) -> Outcome:
        time.sleep(AHEAD_SECONDS)
        return done()

    ran = run_ahead(line("a", "b", "c", "d"), done(), slow, always)
    assert [one.step_no for one in ran] == [1]
