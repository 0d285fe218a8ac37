"""Steps without effects are run ahead of their claims, and settled with the step they were run behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import psycopg2
import pytest

from shared.domain.models import (
    Claim,
    DagSpec,
    Ended,
    JsonObject,
    Progress,
    RanAhead,
    Run,
    StepId,
    TenantLimits,
)
from shared.domain.states import RunStatus
from shared.services import limits, runs, steps, work
from shared.services.work import Handoff, Report
from tests.support.graphs import graph
from tests.support.ledger import LONG_MS, WORKER, Ledger, failed, succeeded, transactions

PURE = frozenset({"noop"})
HANDOFF = Handoff(
    worker_id=WORKER, lease_ms=LONG_MS, pools=frozenset({"default"}), pure=PURE, sure=1, share=1.0
)
SMALL: JsonObject = {"n": 7}
LARGE: JsonObject = {"text": "".join(f"{n:x}" for n in range(10_000))}
"""Compressed it still has more than 8 kB."""


def settle(
    ledger: Ledger,
    run: Run,
    *,
    claims: Sequence[int] = (),
    ended: Sequence[Ended] = (),
    handoff: Handoff = HANDOFF,
) -> Progress:
    report = Report(run_id=run.run_id, claims=claims, ended=ended, handoff=handoff)
    return work.settle(ledger.service, ledger.tenant, [report])[run.run_id]


def claim_first(ledger: Ledger, run: Run, handoff: Handoff = HANDOFF) -> Claim:
    (claim,) = settle(ledger, run, claims=[0], handoff=handoff).claims
    return claim


def ran(*claims: Claim) -> list[RanAhead]:
    return [RanAhead(step_no=one.step_no, outcome=succeeded({"of": one.step_id})) for one in claims]


def ending(claim: Claim, *, ahead: Sequence[RanAhead] = ()) -> Ended:
    return Ended(step_no=claim.step_no, attempt=claim.attempt, outcome=succeeded(), ahead=ahead)


def ids(claims: Sequence[Claim]) -> str:
    return " ".join(claim.step_id for claim in claims)


@pytest.mark.parametrize(
    ("edges", "options", "certain"),
    [
        ("a>b b>c", {}, "b c"),
        ("a>b,c b>d c>e", {}, "b c d e"),
        # A join waits for others.
        ("a>b,c b,c>d", {}, "b c"),
        ("a>b a>c b>c", {}, "b"),
        # What is behind one that is not certain is not either.
        ("a>b b>c c>d", {"c": {"when": "true"}}, "b"),
        ("a>b", {"b": {"disabled": True}}, ""),
        ("a>b", {"b": {"runOn": "failure"}}, ""),
        ("a>b", {"b": {"runOn": "always"}}, "b"),
        ("a>b", {"b": {"concurrencyKey": "k"}}, ""),
        ("a>b b>c", {"b": {"uses": "sleep"}}, ""),
        ("a>b b>c", {"b": {"uses": "noop@1.0.0"}}, ""),
        ("a>b b>c", {"c": {"pool": "big"}}, "b"),
        ("a>b b>c", {"c": {"with": LARGE}}, "b"),
        # As many as take a moment.
        (" ".join(f"s{n:02}>s{n + 1:02}" for n in range(30)), {}, " ".join(f"s{n:02}" for n in range(1, 17))),
        ("a>" + ",".join(f"b{n:02}" for n in range(16)), {}, " ".join(f"b{n:02}" for n in range(16))),
        # More than these are faster side by side.
        ("a>" + ",".join(f"b{n:02}" for n in range(17)), {}, ""),
    ],
)
def test_a_claim_tells_what_is_certain_behind_it(
    ledger: Ledger, edges: str, options: Mapping[str, JsonObject], certain: str
) -> None:
    run = ledger.start(graph(edges, options=options))
    assert ids(claim_first(ledger, run).ahead) == certain


def test_who_runs_nothing_ahead_is_told_of_nothing(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    assert claim_first(ledger, run, replace(HANDOFF, pure=frozenset())).ahead == ()


def test_a_second_attempt_has_nothing_run_ahead_of_it(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    claim = claim_first(ledger, run, replace(HANDOFF, lease_ms=0))
    assert ids(claim.ahead) == "b"
    ledger.rescue()
    again = claim_first(ledger, run)
    assert (again.attempt, again.ahead) == (2, ())


def reading(expression: str) -> DagSpec:
    """Make a chain of three, of which the last reads something."""
    options: dict[str, JsonObject] = {"c": {"with": {"read": f"${{{{ {expression} }}}}"}}}
    return graph("a>b b>c", options=options)


@pytest.mark.parametrize(("inputs", "certain"), [(SMALL, "b c"), (LARGE, "b")], ids=["small", "large"])
def test_inputs_are_given_to_each_that_reads_them_while_they_are_small(
    ledger: Ledger, inputs: JsonObject, certain: str
) -> None:
    run = ledger.start(reading("inputs"), inputs=inputs)
    ahead = claim_first(ledger, run).ahead
    assert ids(ahead) == certain
    assert all(one.inputs == (inputs if one.step_id == "c" else {}) for one in ahead)


@pytest.mark.parametrize(("outputs", "certain"), [(SMALL, "c"), (LARGE, "")], ids=["small", "large"])
def test_outputs_of_the_same_transaction_are_given_while_they_are_small(
    ledger: Ledger, outputs: JsonObject, certain: str
) -> None:
    run = ledger.start(reading("steps.a.outputs"))
    first = claim_first(ledger, run)
    ended = Ended(step_no=0, attempt=1, outcome=succeeded(outputs))
    (second,) = settle(ledger, run, ended=[ended]).claims
    assert first.step_id == "a"
    assert (second.step_id, ids(second.ahead)) == ("b", certain)
    assert all(one.ancestors[StepId("a")].outputs == outputs for one in second.ahead)


def test_a_line_is_settled_in_one_transaction_as_if_step_after_step(ledger: Ledger, owner_url: str) -> None:
    run = ledger.start(graph("a>b b>c c>d d>e"))
    first = claim_first(ledger, run)
    progress = settle(ledger, run, ended=[ending(first, ahead=ran(*first.ahead[:2]))])
    assert progress.settled == {(0, 1)}
    assert ids(progress.claims) == "d"
    assert ledger.event_types(run)[-9:] == [
        *("a:succeeded", "b:queued", "b:running", "b:succeeded", "c:queued", "c:running", "c:succeeded"),
        *("d:queued", "d:running"),
    ]
    last = settle(ledger, run, ended=[ending(progress.claims[0], ahead=ran(*progress.claims[0].ahead))])
    assert last.run_ended
    assert ledger.run(run.run_id).status is RunStatus.COMPLETED
    assert ledger.statuses(run) == dict.fromkeys("abcde", "succeeded")
    step, attempts = steps.get(ledger.api, ledger.tenant, run.run_id, first.ahead[0].step_id)
    assert step.outputs == {"of": "b"}
    (attempt,) = attempts
    assert (attempt.attempt, attempt.status, attempt.worker_id) == (1, "succeeded", WORKER)
    assert attempt.outputs_hash == step.outputs_hash == succeeded({"of": "b"}).outputs_hash
    # Its start, the first claim, and two.
    assert transactions(owner_url, run) == 4


def test_what_is_behind_steps_that_were_run_ahead_is_unlocked(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b,c b,c>d c>e b>f", options={"f": {"uses": "sleep"}}))
    claim = claim_first(ledger, run)
    assert ids(claim.ahead) == "b c e"
    progress = settle(ledger, run, ended=[ending(claim, ahead=ran(*claim.ahead[:2]))])
    # d waited for both, e was not run for want of time, f may have effects.
    assert ids(progress.claims) == "d"
    assert progress.ready_pools == {"default"}
    assert ledger.statuses(run) == {
        **dict.fromkeys("abc", "succeeded"),
        "d": "running",
        **dict.fromkeys("ef", "queued"),
    }


def test_endings_of_several_steps_bring_what_was_run_ahead_of_each(ledger: Ledger, owner_url: str) -> None:
    run = ledger.start(graph("a>b b>c x>y y>z c,z>end"))
    claims = settle(ledger, run, claims=[0, 3]).claims
    assert [ids(claim.ahead) for claim in claims] == ["b c", "y z"]
    before = transactions(owner_url, run)
    progress = settle(ledger, run, ended=[ending(claim, ahead=ran(*claim.ahead)) for claim in claims])
    assert ids(progress.claims) == "end"
    assert transactions(owner_url, run) == before + 1


def test_with_an_ending_that_comes_too_late_what_was_run_ahead_is_dropped(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    late = claim_first(ledger, run, replace(HANDOFF, lease_ms=0))
    ledger.rescue()
    assert settle(ledger, run, ended=[ending(late, ahead=ran(*late.ahead))]).settled == frozenset()
    assert ledger.statuses(run) == {"a": "queued", "b": "pending"}


def test_a_cancelled_run_takes_nothing_that_was_run_ahead(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    claim = claim_first(ledger, run)
    runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)
    assert settle(ledger, run, ended=[ending(claim, ahead=ran(*claim.ahead))]).run_ended
    assert ledger.statuses(run) == {"a": "succeeded", "b": "cancelled:CANCELLED"}


def test_behind_a_failure_nothing_was_run_ahead(ledger: Ledger) -> None:
    run = ledger.start(graph("a>b"))
    claim = claim_first(ledger, run)
    ended = replace(ending(claim, ahead=ran(*claim.ahead)), outcome=failed())
    assert settle(ledger, run, ended=[ended]).run_ended
    assert ledger.statuses(run) == {"a": "failed:EXIT_STATUS", "b": "skipped:UPSTREAM_FAILED"}


@pytest.mark.parametrize(
    ("edges", "options", "forged"),
    [
        ("a>b b>c", {}, [2]),
        ("a>b b>c", {}, [1, 1]),
        ("a>b b>c", {}, [0]),
        ("a>b b>c", {}, [3]),
        ("a>c b>c", {}, [2]),
        ("a>b", {"b": {"when": "true"}}, [1]),
        ("a>b", {"b": {"concurrencyKey": "k"}}, [1]),
    ],
    ids=["behind another", "twice", "itself", "no step", "a join", "a when", "a key"],
)
def test_what_was_not_certain_is_refused_with_all_that_came_with_it(
    ledger: Ledger, edges: str, options: Mapping[str, JsonObject], forged: Sequence[int]
) -> None:
    run = ledger.start(graph(edges, options=options))
    claim = claim_first(ledger, run)
    before = (ledger.statuses(run), ledger.event_types(run))
    ahead = [RanAhead(step_no=step_no, outcome=succeeded()) for step_no in forged]
    with pytest.raises(psycopg2.Error):
        settle(ledger, run, ended=[ending(claim, ahead=ahead)])
    assert (ledger.statuses(run), ledger.event_types(run)) == before


def test_a_tenant_with_a_limit_has_no_more_running_than_that(ledger: Ledger) -> None:
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_running_steps=1))
    run = ledger.start(graph("a>b,c b>d c>e"))
    ledger.pick()
    claim = claim_first(ledger, run)
    progress = settle(ledger, run, ended=[ending(claim, ahead=ran(*claim.ahead[:1]))])
    assert list(ledger.statuses(run).values()).count("running") == len(progress.claims) == 1
