"""What a process has to tell of a run is settled together, and several steps are taken at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import psycopg2
import pytest

from orchestrator_worker.celery_app import StepPool
from orchestrator_worker.settler import BRIEF_SECONDS, Request, Settler, Turn
from shared.domain.models import ArtifactRef, Claim, Outcome, Run, Sha256, TenantId, TenantLimits
from shared.domain.states import RunStatus
from shared.errors import StoreUnavailable
from shared.services import limits
from shared.store.db import Database
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import ACME, LONG_MS, Ledger, succeeded, transactions

POOLS = frozenset({"default"})
EIGHT = "a b c d e f g h"


class NewSettler(Protocol):
    """Makes a settler for a process with so many slots that can be had."""

    def __call__(
        self,
        free: int = 0,
        *,
        share: float = 1.0,
        pools: frozenset[str] = POOLS,
        ledger: Ledger | None = None,
    ) -> Settler: ...


@pytest.fixture
def new_settler(ledger: Ledger) -> Iterator[NewSettler]:
    made: list[StepPool] = []

    def new(
        free: int = 0,
        *,
        share: float = 1.0,
        pools: frozenset[str] = POOLS,
        ledger: Ledger | None = ledger,
    ) -> Settler:
        assert ledger is not None
        # One is left for the next message.
        made.append(StepPool(free + 1))
        settler = Settler(ledger.service, made[-1], worker_id=ledger.worker, pools=pools, lease_ms=LONG_MS)
        settler.share = share
        return settler

    yield new
    for pool in made:
        pool.on_stop()
        pool._read.close()
        pool._write.close()


def kept(settler: Settler) -> int:
    """Count the slots that are reserved."""
    assert isinstance(settler._slots, StepPool)
    return settler._slots._reserved


@contextmanager
def locked(owner_url: str, run: Run) -> Iterator[Callable[[], None]]:
    """Hold the row of a run until the block ends, or what it lends is called."""
    connection = psycopg2.connect(owner_url)
    try:
        with connection.cursor() as cur:
            cur.execute("SELECT 1 FROM orch.runs WHERE run_id = %s FOR UPDATE", [str(run.run_id)])
        yield connection.rollback
    finally:
        connection.close()


def waits_behind(settler: Settler, run: Run, number: int) -> bool:
    return len(settler._waiting.get((ACME, run.run_id), ())) == number


def is_idle(settler: Settler) -> bool:
    return not (settler._busy or settler._waiting or settler._lanes)


def together(
    owner_url: str, run: Run, settler: Settler, calls: Sequence[Callable[[], Request]]
) -> list[object]:
    """Make the first call, which has to wait for the run's row, and the others meanwhile; give what comes."""
    results: list[object] = [None] * len(calls)

    def make(number: int) -> None:
        try:
            results[number] = calls[number]()
        except Exception as error:  # noqa: BLE001  # It is looked at below.
            results[number] = error

    threads = [threading.Thread(target=make, args=[number]) for number in range(len(calls))]
    with locked(owner_url, run) as let_go:
        threads[0].start()
        eventually(lambda: run.run_id in settler._busy)
        for number, thread in enumerate(threads[1:], start=1):
            thread.start()
            eventually(partial(waits_behind, settler, run, number))
        let_go()
        for thread in threads:
            thread.join(20)
    assert is_idle(settler)
    return results


def completing(
    settler: Settler, claim: Claim, outcome: Outcome, turn: Turn = Turn.ENDS
) -> Callable[[], Request]:
    return lambda: settler.complete(claim, outcome, turn)


def test_what_comes_while_another_is_at_the_run_is_settled_in_one_transaction(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    run = ledger.start(graph("", steps=EIGHT))
    settler = new_settler()
    claims = [ledger.claimed(run, step) for step in EIGHT.split()]
    before = transactions(owner_url, run)
    calls = [completing(settler, claim, succeeded({"of": claim.step_id})) for claim in claims]
    told = together(owner_url, run, settler, calls)
    assert all(isinstance(one, Request) and one.accepted for one in told)
    assert transactions(owner_url, run) == before + 2
    # One of those that were settled together does what is to be done about all of them.
    assert [one.progress is not None for one in told if isinstance(one, Request)].count(True) == 2
    assert ledger.run(run.run_id).status is RunStatus.COMPLETED
    assert [ledger.step(run, step).outputs for step in EIGHT.split()] == [
        {"of": step} for step in EIGHT.split()
    ]


def test_messages_and_endings_of_a_run_go_together(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    run = ledger.start(graph("", steps="a b c"))
    settler = new_settler()
    ended = ledger.claimed(run, "a")
    calls = [
        lambda: settler.claim(ledger.tenant, run.run_id, 1),
        completing(settler, ended, succeeded()),
        lambda: settler.claim(ledger.tenant, run.run_id, 2),
        lambda: settler.claim(ledger.tenant, run.run_id, 2),
    ]
    told = together(owner_url, run, settler, calls)
    taken = [one.claim.step_id if isinstance(one, Request) and one.claim else None for one in told]
    assert taken[:2] == ["b", None]
    # A message that came twice is served once.
    assert sorted(taken[2:], key=str) == [None, "c"]


def test_an_ending_that_cannot_be_stored_costs_no_other(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    run = ledger.start(graph("", steps="a b c d"))
    settler = new_settler()
    claims = [ledger.claimed(run, step) for step in "abcd"]
    outcomes = [succeeded(), succeeded(), succeeded({"text": "\0"}), succeeded()]
    told = together(
        owner_url, run, settler, [completing(settler, *pair) for pair in zip(claims, outcomes, strict=True)]
    )
    assert isinstance(told[2], psycopg2.DataError)
    assert [isinstance(one, Request) and one.accepted for one in told] == [True, True, False, True]
    assert ledger.statuses(run) == {"a": "succeeded", "b": "succeeded", "c": "running", "d": "succeeded"}
    # The attempt can still be reported.
    assert settler.complete(claims[2], succeeded(), Turn.ENDS).accepted


def test_of_two_attempts_of_a_step_that_report_together_the_one_that_holds_it_counts(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    run = ledger.start(graph("", steps="a b"))
    settler = new_settler()
    other = ledger.claimed(run, "b")
    late = ledger.claimed(run, "a", lease_ms=0)
    ledger.rescue()
    holder = ledger.claimed(run, "a")
    outcomes = [
        (other, succeeded()),
        (late, succeeded({"by": "late"})),
        (holder, succeeded({"by": "holder"})),
    ]
    told = together(owner_url, run, settler, [completing(settler, *one) for one in outcomes])
    assert [isinstance(one, Request) and one.accepted for one in told] == [True, False, True]
    assert ledger.step(run, "a").outputs == {"by": "holder"}


def test_all_who_go_together_hear_that_postgresql_is_away(
    ledger: Ledger, new_settler: NewSettler, owner_url: str, database_url: str
) -> None:
    run = ledger.start(graph("", steps="a b c"))
    hasty = Database(database_url, role="orch_service", size=4, application_name="hasty", answer_seconds=1.0)
    other = Ledger(api=ledger.api, service=hasty)
    settler = new_settler(ledger=other)
    claims = [ledger.claimed(run, step) for step in "abc"]
    results: list[object] = []

    def report(claim: Claim) -> None:
        try:
            results.append(settler.complete(claim, succeeded(), Turn.ENDS))
        except StoreUnavailable as error:
            results.append(error)

    threads = [threading.Thread(target=report, args=[claim]) for claim in claims]
    with locked(owner_url, run):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert [type(one) for one in results] == [StoreUnavailable] * 3
    assert is_idle(settler)
    for claim in claims:
        assert settler.complete(claim, succeeded(), Turn.ENDS).accepted
    hasty.close()


class Crowd:
    """Threads with something to tell of runs while both lanes wait for the rows of two others."""

    def __init__(self, ledger: Ledger, settler: Settler, owner_url: str) -> None:
        self.ledger = ledger
        self.settler = settler
        self.owner_url = owner_url
        self.results: dict[str, object] = {}
        self.threads: list[threading.Thread] = []

    def held(self, name: str, *, ledger: Ledger | None = None) -> Claim:
        """Start a run of one step, and claim it."""
        by = ledger or self.ledger
        return by.claimed(by.start(graph("", steps="a", dag_id=name)), "a")

    def report(self, name: str, claim: Claim, outcome: Outcome | None = None) -> None:
        """Have a thread report the end of a step."""

        def make() -> None:
            try:
                self.results[name] = self.settler.complete(claim, outcome or succeeded(), Turn.ENDS)
            except Exception as error:  # noqa: BLE001  # It is looked at by the test.
                self.results[name] = error

        thread = threading.Thread(target=make)
        self.threads.append(thread)
        thread.start()
        eventually(
            lambda: (
                claim.run_id in self.settler._busy or (claim.tenant, claim.run_id) in self.settler._waiting
            )
        )

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Keep both lanes busy until the block ends, then wait for everybody."""
        claims = [self.held("lane-0"), self.held("lane-1")]
        runs = [self.ledger.run(claim.run_id) for claim in claims]
        with locked(self.owner_url, runs[0]) as let_go, locked(self.owner_url, runs[1]):
            for number, claim in enumerate(claims):
                self.report(f"lane-{number}", claim)
            yield
            let_go()
            eventually(lambda: "lane-0" in self.results)
            eventually(lambda: not self.settler._waiting)
        for thread in self.threads:
            thread.join(20)

    def accepted(self, name: str) -> bool:
        told = self.results.get(name)
        return isinstance(told, Request) and told.accepted

    def ends(self, *claims: Claim) -> list[int]:
        """Number the transactions in which runs ended: equal ones have equal numbers."""
        connection = psycopg2.connect(self.owner_url)
        try:
            with connection.cursor() as cur:
                cur.execute(
                    "SELECT e.run_id::text, e.xid::text::bigint FROM orch.events AS e"
                    " WHERE e.line LIKE '%%\"run.completed\"%%'"
                )
                of_run = dict(cur.fetchall())
        finally:
            connection.close()
        xids = [of_run[str(claim.run_id)] for claim in claims]
        return [xids.index(xid) for xid in xids]


@pytest.fixture
def crowd(ledger: Ledger, new_settler: NewSettler, owner_url: str, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    # Nobody passes by a lane that is busy for long.
    monkeypatch.setattr("orchestrator_worker.settler.PATIENCE_SECONDS", 60.0)
    return Crowd(ledger, new_settler(), owner_url)


def test_runs_that_come_while_others_are_settled_go_together(crowd: Crowd) -> None:
    claims = [crowd.held(name) for name in "abc"]
    with crowd.behind():
        for name, claim in zip("abc", claims, strict=True):
            crowd.report(name, claim)
    assert all(crowd.accepted(name) for name in "abc")
    assert crowd.ends(*claims) == [0, 0, 0]
    assert is_idle(crowd.settler)


def test_a_run_that_another_transaction_is_at_keeps_no_other_waiting(crowd: Crowd) -> None:
    first, second, third = (crowd.held(name) for name in "abc")
    with locked(crowd.owner_url, crowd.ledger.run(second.run_id)):
        with crowd.behind():
            for name, claim in zip("abc", (first, second, third), strict=True):
                crowd.report(name, claim)
            waits = crowd.threads.pop(3)
        assert crowd.accepted("a") and crowd.accepted("c")
        assert "b" not in crowd.results
    waits.join(20)
    assert crowd.accepted("b")
    assert is_idle(crowd.settler)


def test_an_ending_that_cannot_be_stored_costs_no_other_run(crowd: Crowd) -> None:
    claims = [crowd.held(name) for name in "abc"]
    with crowd.behind():
        for name, claim in zip("abc", claims, strict=True):
            crowd.report(name, claim, succeeded({"text": "\0"}) if name == "b" else None)
    assert crowd.accepted("a") and crowd.accepted("c")
    assert isinstance(crowd.results["b"], psycopg2.DataError)
    assert crowd.settler.complete(claims[1], succeeded(), Turn.ENDS).accepted


def test_runs_of_two_tenants_do_not_go_together(crowd: Crowd) -> None:
    globex = replace(crowd.ledger, tenant=TenantId("globex"))
    ours, theirs = crowd.held("a"), crowd.held("b", ledger=globex)
    with crowd.behind():
        crowd.report("a", ours)
        crowd.report("b", theirs)
    assert crowd.accepted("a") and crowd.accepted("b")
    assert crowd.ends(ours, theirs) == [0, 1]


def test_a_run_that_shares_rows_with_others_goes_alone(crowd: Crowd) -> None:
    """Two processes that settle several such runs each would wait for each other's artifacts."""
    claims = [crowd.held(name) for name in "abc"]
    artifact = ArtifactRef(name="out", sha256=Sha256("ab" * 32), size_bytes=1, content_type="text/plain")
    with crowd.behind():
        for name, claim in zip("abc", claims, strict=True):
            crowd.report(name, claim, replace(succeeded(), artifacts=(artifact,)) if name == "b" else None)
    assert all(crowd.accepted(name) for name in "abc")
    assert crowd.ends(*claims) == [0, 1, 0]


def test_a_lane_that_is_busy_for_long_is_passed_by(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    crowd = Crowd(ledger, new_settler(), owner_url)
    claim = crowd.held("a")
    with crowd.behind():
        crowd.report("a", claim)
        eventually(lambda: crowd.accepted("a"))


def test_steps_that_were_taken_together_and_take_no_time_are_settled_together(
    ledger: Ledger, new_settler: NewSettler, owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_worker.settler.BRIEF_SECONDS", 60.0)
    monkeypatch.setattr("orchestrator_worker.settler.NEXT_SECONDS", 20.0)
    run = ledger.start(graph("root>a,b,c,d"))
    settler = new_settler(7)
    first = settler.complete(ledger.claimed(run, "root"), succeeded(), Turn.GOES_ON)
    assert first.claim is not None
    before = transactions(owner_url, run)
    told: list[Request] = []

    def report(claim: Claim) -> None:
        told.append(settler.complete(claim, succeeded(), Turn.ENDS))

    threads = [threading.Thread(target=report, args=[claim]) for claim in (first.claim, *first.more)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(60)
    assert [one.accepted for one in told] == [True] * 4
    assert transactions(owner_url, run) == before + 1
    # The last one is waited for, and nobody after it.
    assert time.monotonic() - begun < 10


def test_a_step_that_takes_its_time_is_not_waited_for(
    ledger: Ledger, new_settler: NewSettler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_worker.settler.NEXT_SECONDS", 20.0)
    run = ledger.start(graph("root>a,b"))
    settler = new_settler(7)
    first = settler.complete(ledger.claimed(run, "root"), succeeded(), Turn.GOES_ON)
    assert first.claim is not None
    time.sleep(BRIEF_SECONDS)
    begun = time.monotonic()
    assert settler.complete(first.claim, succeeded(), Turn.ENDS).accepted
    assert time.monotonic() - begun < 10


def test_nothing_is_kept_of_steps_that_are_over_or_lost(ledger: Ledger, new_settler: NewSettler) -> None:
    run = ledger.start(graph("root>a,b,c"))
    settler = new_settler(7)
    first = settler.complete(ledger.claimed(run, "root"), succeeded(), Turn.GOES_ON)
    assert first.claim is not None
    assert set(settler._in_hand[run.run_id]) == {1, 2, 3}
    for claim in first.more:
        settler.forget(claim)
    settler.complete(first.claim, succeeded(), Turn.ENDS)
    assert settler._in_hand == {}


@pytest.mark.parametrize(
    ("free", "share", "taken"),
    [(0, 1.0, 1), (7, 1.0, 8), (3, 1.0, 4), (7, 0.5, 4), (7, 0.25, 2), (7, 0.01, 1), (20, 1.0, 8)],
)
def test_of_steps_that_are_unlocked_together_a_worker_takes_its_share(
    ledger: Ledger, new_settler: NewSettler, free: int, share: float, taken: int
) -> None:
    run = ledger.start(graph("root>a,b,c,d,e,f,g,h"))
    settler = new_settler(free, share=share)
    told = settler.complete(ledger.claimed(run, "root"), succeeded(), Turn.GOES_ON)
    assert told.claim is not None and told.claim.step_id == "a"
    assert [claim.step_id for claim in told.more] == list("bcdefgh")[: taken - 1]
    assert kept(settler) == len(told.more)
    assert told.progress is not None
    assert told.progress.ready_pools == (POOLS if taken < 8 else frozenset())
    running = [step for step, status in ledger.statuses(run).items() if status == "running"]
    assert len(running) == taken


def test_a_tenant_with_a_limit_gets_one_step_for_another(ledger: Ledger, new_settler: NewSettler) -> None:
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_running_steps=2))
    run = ledger.start(graph("root>a,b,c,d"))
    (bell,) = ledger.pick()
    settler = new_settler(7)
    root = settler.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert root is not None
    told = settler.complete(root, succeeded(), Turn.GOES_ON)
    assert told.claim is not None
    assert told.more == ()
    # Nor does a message bring one that no pick has counted.
    assert settler.claim(ledger.tenant, run.run_id, 2).claim is None


def test_a_slice_that_is_over_goes_on_only_while_nobody_waits(
    ledger: Ledger, new_settler: NewSettler
) -> None:
    run = ledger.start(graph("a>b b>c c>d"))
    settler = new_settler()
    (bell,) = ledger.pick()
    claim = settler.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert claim is not None
    assert ledger.pick() == []
    alone = settler.complete(claim, succeeded(), Turn.IS_OVER)
    assert alone.claim is not None and alone.claim.step_id == "b"
    # A message is out for another run.
    ledger.start(graph("", steps="x", dag_id="other"))
    assert len(ledger.pick()) == 1
    awaited = settler.complete(alone.claim, succeeded(), Turn.IS_OVER)
    assert awaited.accepted and awaited.claim is None
    assert ledger.statuses(run)["c"] == "queued"


@pytest.mark.parametrize("long_ago", [False, True])
def test_messages_of_its_own_run_end_a_slice_when_they_wait_for_long(
    ledger: Ledger, new_settler: NewSettler, owner_url: str, long_ago: bool
) -> None:
    run = ledger.start(graph("a>p", steps="b"))
    assert len(ledger.pick()) == 2
    settler = new_settler()
    claim = settler.claim(ledger.tenant, run.run_id, ledger.step(run, "a").step_no).claim
    assert claim is not None
    if long_ago:
        with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
            cur.execute("UPDATE orch.steps SET sent_utc = sent_utc - INTERVAL '100 milliseconds'")
        connection.close()
    told = settler.complete(claim, succeeded(), Turn.IS_OVER)
    assert told.accepted
    assert (told.claim is None) is long_ago


def test_steps_that_had_been_ready_are_told_from_such_as_were_unlocked(
    ledger: Ledger, new_settler: NewSettler
) -> None:
    run = ledger.start(graph("a>p", steps="b c"))
    settler = new_settler()
    unlocked = settler.complete(ledger.claimed(run, "a"), succeeded(), Turn.GOES_ON)
    assert unlocked.claim is not None and unlocked.claim.step_id == "p"
    assert unlocked.progress is not None and not unlocked.progress.drained
    drained = settler.complete(unlocked.claim, succeeded(), Turn.GOES_ON)
    assert drained.claim is not None and drained.claim.step_id == "b"
    assert drained.progress is not None and drained.progress.drained
    by_message = settler.claim(ledger.tenant, run.run_id, ledger.step(run, "c").step_no)
    assert by_message.claim is not None
    assert by_message.progress is not None and not by_message.progress.drained


@pytest.mark.parametrize("awaited", [False, True])
def test_of_those_who_report_together_some_may_have_to_leave(
    ledger: Ledger, new_settler: NewSettler, owner_url: str, awaited: bool
) -> None:
    run = ledger.start(graph("a>p b>q c>r d>s"))
    claims = [ledger.claimed(run, step) for step in "abcd"]
    if awaited:
        ledger.start(graph("", steps="x", dag_id="other"))
        assert len(ledger.pick()) == 1
    settler = new_settler()
    turns = [Turn.ENDS, Turn.IS_OVER, Turn.GOES_ON, Turn.IS_OVER]
    calls = [completing(settler, *one) for one in zip(claims, [succeeded()] * 4, turns, strict=True)]
    told = together(owner_url, run, settler, calls)
    taken = [one.claim is not None for one in told if isinstance(one, Request)]
    assert taken == [False, not awaited, True, not awaited]


def test_a_slice_that_is_begun_anew_takes_its_share(ledger: Ledger, new_settler: NewSettler) -> None:
    run = ledger.start(graph("root>a,b,c,d"))
    told = new_settler(7).complete(ledger.claimed(run, "root"), succeeded(), Turn.IS_OVER)
    assert told.claim is not None
    assert len(told.more) == 3


def test_a_slice_that_is_over_gives_way_to_any_pool_of_its_worker(
    ledger: Ledger, new_settler: NewSettler
) -> None:
    """The slot is the worker's: who waits in another pool that it serves waits for the same slots."""
    ledger.start(graph("a>b"))
    (bell,) = ledger.pick()
    ledger.start(graph("", steps="x", dag_id="other", options={"x": {"pool": "big"}}))
    assert len(ledger.pick("big")) == 1
    both = new_settler(pools=frozenset({"default", "big"}))
    claim = both.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert claim is not None
    told = both.complete(claim, succeeded(), Turn.IS_OVER)
    assert told.accepted and told.claim is None


def test_who_waits_in_a_pool_that_a_worker_does_not_serve_does_not_wait_for_it(
    ledger: Ledger, new_settler: NewSettler
) -> None:
    ledger.start(graph("a>b"))
    (bell,) = ledger.pick()
    ledger.start(graph("", steps="x", dag_id="other", options={"x": {"pool": "big"}}))
    assert len(ledger.pick("big")) == 1
    settler = new_settler()
    claim = settler.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert claim is not None
    assert ledger.pick() == []
    told = settler.complete(claim, succeeded(), Turn.IS_OVER)
    assert told.claim is not None


def test_a_slice_that_is_over_gives_way_to_decisions(ledger: Ledger, new_settler: NewSettler) -> None:
    """Their messages wait for the slots of whatever worker."""
    ledger.start(graph("a>b"))
    (bell,) = ledger.pick()
    ledger.start(graph("", steps="x", dag_id="other", options={"x": {"when": "true"}}))
    settler = new_settler()
    claim = settler.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert claim is not None
    assert ledger.pick() == []
    told = settler.complete(claim, succeeded(), Turn.IS_OVER)
    assert told.accepted and told.claim is None


def test_a_slice_that_is_over_does_not_go_on_past_a_limit(ledger: Ledger, new_settler: NewSettler) -> None:
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_running_steps=1))
    run = ledger.start(graph("a>b"))
    settler = new_settler()
    (bell,) = ledger.pick()
    claim = settler.claim(bell.tenant, bell.run_id, bell.step_no).claim
    assert claim is not None
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_running_steps=0))
    told = settler.complete(claim, succeeded(), Turn.IS_OVER)
    assert told.accepted and told.claim is None
    assert ledger.statuses(run)["b"] == "queued"


def test_a_wide_run_is_settled_in_few_transactions(
    ledger: Ledger, new_settler: NewSettler, owner_url: str
) -> None:
    """Eight threads go through 100 steps side by side, each taking the next from what it completes."""
    run = ledger.start(graph(" ".join(["root>" + ",".join(f"s{n:03}" for n in range(100))])))
    settler = new_settler(7)
    first = settler.complete(ledger.claimed(run, "root"), succeeded(), Turn.GOES_ON)
    assert first.claim is not None

    def work_through(claim: Claim | None) -> None:
        while claim is not None:
            claim = settler.complete(claim, succeeded(), Turn.GOES_ON).claim

    threads = [threading.Thread(target=work_through, args=[claim]) for claim in (first.claim, *first.more)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ledger.run(run.run_id).status is RunStatus.COMPLETED
    # Start, root's claim and end; then about eight together.
    assert transactions(owner_url, run) < 50
