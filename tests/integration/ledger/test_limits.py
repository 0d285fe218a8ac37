"""What a tenant may have is counted from the rows: no start, pick or claim goes over it, whoever races."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shared.domain.models import JsonObject, Run, TenantId, TenantLimits
from shared.errors import TooManyQueuedSteps
from shared.services import limits
from tests.support import verbs
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import LONG_MS, WORKER, Ledger, failed, succeeded

DEFAULT = frozenset({"default"})


def limit(ledger: Ledger, **members: object) -> None:
    limits.put(ledger.api, ledger.tenant, TenantLimits(**members))  # type: ignore[arg-type]


def active(ledger: Ledger) -> int:
    with ledger.service.statement(None) as cur:
        cur.execute("SELECT orch.active_steps(%(tenant)s)", {"tenant": ledger.tenant})
        return int(cur.fetchall()[0][0])


def test_limits_are_the_defaults_until_they_are_set_and_then_what_was_set_last(ledger: Ledger) -> None:
    assert limits.get(ledger.api, ledger.tenant) == TenantLimits()
    limit(ledger, weight=2.5, max_running_steps=3, max_queued_steps=0)
    limit(ledger, max_running_steps=4)
    assert limits.get(ledger.api, ledger.tenant) == TenantLimits(max_running_steps=4)
    assert limits.get(ledger.api, TenantId("other")) == TenantLimits()


def test_a_start_over_the_limit_of_queued_steps_stores_nothing(ledger: Ledger) -> None:
    limit(ledger, max_queued_steps=3)
    wide = graph("a,b>z")
    ledger.start(wide)
    with pytest.raises(TooManyQueuedSteps) as refused:
        ledger.start(wide, run_token="later")
    assert (refused.value.limit, refused.value.queued, refused.value.more) == (3, 2, 2)
    with ledger.api.statement(ledger.tenant) as cur:
        cur.execute("SELECT count(*) FROM orch.runs")
        assert cur.fetchone() == (1,)
    ledger.start(graph("", steps="a", dag_id="narrow"))


def test_steps_that_are_sent_count_as_queued_and_steps_that_run_do_not(ledger: Ledger) -> None:
    limit(ledger, max_queued_steps=2)
    pair = graph("", steps="a b")
    first = ledger.start(pair)
    assert len(ledger.pick()) == 2
    with pytest.raises(TooManyQueuedSteps):
        ledger.start(pair)
    ledger.claimed(first, "a")
    ledger.claimed(first, "b")
    ledger.start(pair)


def test_steps_whose_when_is_still_to_be_evaluated_count_for_a_start(ledger: Ledger) -> None:
    limit(ledger, max_queued_steps=1)
    with pytest.raises(TooManyQueuedSteps):
        ledger.start(graph("", steps="a b", options={"a": {"when": "true"}}))


def test_of_fifty_concurrent_starts_as_many_get_through_as_there_is_room_for(ledger: Ledger) -> None:
    limit(ledger, max_queued_steps=7)
    ledger.publish(graph("", steps="a b"))

    def start(_: int) -> bool:
        try:
            ledger.start(graph("", steps="a b"))
        except TooManyQueuedSteps:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(50))) == 3


def test_starts_with_one_token_need_room_for_one_run(ledger: Ledger) -> None:
    limit(ledger, max_queued_steps=1)
    ledger.publish(graph("", steps="a"))
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: ledger.start(graph("", steps="a"), run_token="once"), range(50)))
    assert len({run.run_id for run in runs}) == 1


def test_a_pick_sends_no_more_than_may_run(ledger: Ledger) -> None:
    limit(ledger, max_running_steps=2)
    run = ledger.start(graph("", steps="a b c d"))
    assert [bell.step_no for bell in ledger.pick()] == [0, 1]
    assert ledger.pick() == []
    ledger.complete(ledger.claimed(run, "a"), succeeded())
    assert [bell.step_no for bell in ledger.pick()] == [2]
    limit(ledger)
    assert [bell.step_no for bell in ledger.pick()] == [3]


def test_a_tenant_that_is_held_back_holds_nobody_else_back(ledger: Ledger) -> None:
    limit(ledger, max_running_steps=0)
    ledger.start(graph("", steps="a b"))
    assert ledger.pick() == []
    other = replace(ledger, tenant=TenantId("other"))
    other.start(graph("", steps="a b"))
    assert {bell.tenant for bell in other.pick()} == {"other"}


def test_being_held_back_earns_no_credit(ledger: Ledger) -> None:
    """Else it would be served alone afterwards, until it has had what the others had meanwhile."""
    limit(ledger, max_running_steps=0)
    many = graph("", steps=" ".join(f"s{n:02}" for n in range(40)))
    ledger.start(many)
    other = replace(ledger, tenant=TenantId("other"))
    run = other.start(many)
    assert ledger.pick() == []
    while bells := other.pick():
        for bell in bells[:12]:
            other.run_step(run, f"s{bell.step_no:02}")
        if other.run(run.run_id).open_steps <= 20:
            break
    limit(ledger)
    for bell in bells[12:]:
        other.run_step(run, f"s{bell.step_no:02}")
    picked = [bell.tenant for bell in ledger.pick()]
    assert picked.count(other.tenant) >= len(picked) // 2 - 1


def test_weight_is_the_share_of_picks(ledger: Ledger) -> None:
    many = graph("", steps=" ".join(f"s{n:02}" for n in range(40)))
    limit(ledger, weight=3)
    ledger.start(many)
    other = replace(ledger, tenant=TenantId("other"))
    other.start(many)
    with ledger.service.statement(None) as cur:
        # Both are known to dispatch before anything is picked.
        cur.execute(
            "INSERT INTO orch.tenant_queues (tenant, pool) VALUES ('acme', 'default'), ('other', 'default')"
        )
    picked = [bell.tenant for bell in ledger.pick()]
    assert len(picked) == 16
    assert picked.count(ledger.tenant) == 12


def test_a_message_of_an_earlier_sending_claims_nothing_beyond_the_limit(ledger: Ledger) -> None:
    limit(ledger, max_running_steps=1)
    run = ledger.start(graph("", steps="a b"))
    assert ledger.claim(run, "b") is None
    assert [bell.step_no for bell in ledger.pick()] == [0]
    assert ledger.claim(run, "b") is None
    assert ledger.claim(run, "a") is not None


def test_a_completion_hands_over_what_takes_the_place_of_the_step_it_ends(ledger: Ledger) -> None:
    limit(ledger, max_running_steps=1)
    run = ledger.start(graph("a>b a>c"))
    ledger.pick()
    change = ledger.complete(ledger.claimed(run, "a"), succeeded(), handoff=DEFAULT)
    assert change.next is not None
    assert active(ledger) == 1
    assert ledger.pick() == []


def test_a_decision_claims_nothing_for_a_tenant_with_a_limit(ledger: Ledger) -> None:
    limit(ledger, max_running_steps=1)
    run = ledger.start(graph("", steps="a b", options={"b": {"when": "true"}}))
    ledger.pick()
    change = ledger.decide(run, unlock=["b"], handoff=DEFAULT)
    assert change.next is None
    assert change.ready_pools == DEFAULT


@pytest.mark.parametrize("held", [2, 5])
def test_racing_pickers_and_workers_in_two_pools_never_pass_the_limit(ledger: Ledger, held: int) -> None:
    limit(ledger, max_running_steps=held)
    names = [f"s{n:02}" for n in range(24)]
    edges = " ".join(f"{one}>{one}x" for one in names[:12])
    twice: JsonObject = {"retry": {"maxAttempts": 2}}
    big: dict[str, JsonObject] = dict.fromkeys(names, twice)
    big |= {name: {**twice, "pool": "big"} for name in names[::2]}
    run = ledger.start(graph(edges, steps=" ".join(names), options=big))
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(active(ledger))

    def work_in(pool: str) -> None:
        while not ended.is_set():
            for bell in ledger.pick(pool):
                _serve(ledger, run, bell.step_no)

    threads = [threading.Thread(target=watch)]
    threads += [
        threading.Thread(target=work_in, args=(pool,)) for pool in ("default", "big") for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        _until_ended(ledger, run)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert max(seen) <= held
    assert max(seen) > 0


def _serve(ledger: Ledger, run: Run, step_no: int) -> None:
    claim = verbs.claim(
        ledger.service, ledger.tenant, run.run_id, step_no, worker_id=WORKER, lease_ms=LONG_MS
    )
    outcome = failed(retry_delay_ms=0) if claim is not None and claim.tries == 1 else succeeded()
    while claim is not None:
        claim = ledger.complete(claim, outcome, handoff=DEFAULT).next
        outcome = succeeded()


def _until_ended(ledger: Ledger, run: Run) -> None:
    def ended() -> bool:
        ledger.wake()
        return ledger.run(run.run_id).status.is_terminal

    eventually(ended, within=30)
