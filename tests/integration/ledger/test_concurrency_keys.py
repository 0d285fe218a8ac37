"""Of the steps with a concurrency key no more have a place than its limit says, whoever races."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from shared.domain.models import DagSpec, JsonObject, Released, Run, RunId, TenantId, TenantLimits
from shared.services import dispatch, limits, recovery, runs
from tests.support import verbs
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import LONG_MS, WORKER, Ledger, failed, succeeded
from tests.support.limits_held import check_limits_held, peaks

DEFAULT = frozenset({"default"})
DB: JsonObject = {"concurrencyKey": "db", "retry": {"maxAttempts": 2}}


def keyed(
    names: str,
    *,
    limit: int | None = None,
    dag_id: str = "graph",
    edges: str = "",
    more: Mapping[str, JsonObject] | None = None,
) -> DagSpec:
    """Make a DAG whose steps have the key ``db``, with further fields of some by their names."""
    options = {name: {**DB, **(more or {}).get(name, {})} for name in names.split()}
    metadata: JsonObject = {} if limit is None else {"concurrencyLimits": {"db": limit}}
    return graph(edges, steps=names, dag_id=dag_id, options=options, metadata=metadata)


def admit(ledger: Ledger, key: str = "db") -> list[str]:
    return dispatch.admit(ledger.service, ledger.tenant, key)


def sent(ledger: Ledger, pool: str = "default") -> list[int]:
    """Give places away and pick, as the dispatcher does; the numbers of the steps that were sent."""
    admit(ledger)
    return [bell.step_no for bell in ledger.pick(pool)]


def test_a_key_without_a_limit_lets_one_step_run_at_a_time(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b"))
    assert sent(ledger) == [0]
    assert sent(ledger) == []
    ledger.run_step(run, "a")
    assert sent(ledger) == [1]


def test_as_many_have_a_place_as_the_limit_says_the_oldest_first(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b c d", limit=2))
    assert sent(ledger) == [0, 1]
    change = ledger.run_step(run, "b")
    assert change.keys == {"db"}
    assert sent(ledger) == [2]
    assert sent(ledger) == []


def test_a_key_is_of_the_tenant_and_of_all_its_dags(ledger: Ledger) -> None:
    first = ledger.start(keyed("a", dag_id="one"))
    ledger.start(keyed("b", dag_id="two"))
    assert len(sent(ledger)) == 1
    other = replace(ledger, tenant=TenantId("other"))
    other.start(keyed("a", dag_id="one"))
    assert admit(other) == ["default"]
    ledger.run_step(first, "a")
    assert admit(ledger) == ["default"]


def test_a_step_without_a_place_is_not_claimed_whatever_message_asks_for_it(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b"))
    assert ledger.claim(run, "a") is None
    admit(ledger)
    assert ledger.claim(run, "b") is None
    assert ledger.claim(run, "a") is not None


def test_steps_that_wait_hold_up_nothing_else_of_the_tenant(ledger: Ledger) -> None:
    ledger.start(keyed("a b c"))
    ledger.start(graph("", steps="free", dag_id="free"))
    assert len(sent(ledger)) == 2


def test_a_retrying_step_leaves_its_place_and_waits_for_one_again(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b"))
    assert sent(ledger) == [0]
    change = ledger.run_step(run, "a", failed(retry_delay_ms=0))
    assert change.keys == {"db"}
    assert sent(ledger) == [1]
    assert ledger.wake() == frozenset()
    assert sent(ledger) == []
    ledger.run_step(run, "b")
    assert sent(ledger) == [0]


def test_a_released_step_leaves_its_place_and_waits_for_one_again(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b"))
    assert sent(ledger) == [0]
    change = ledger.complete(ledger.claimed(run, "a"), Released())
    assert (change.keys, change.ready_pools) == (frozenset({"db"}), frozenset())
    assert sent(ledger) == [1]
    ledger.run_step(run, "b")
    assert sent(ledger) == [0]


def test_the_place_of_a_lost_attempt_is_free_once_it_is_rescued(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b"))
    assert sent(ledger) == [0]
    ledger.claimed(run, "a", lease_ms=0)
    assert sent(ledger) == []
    assert recovery.keys_with_room(ledger.service, limit=10) == []
    assert ledger.rescue().backlogs == frozenset()
    assert recovery.keys_with_room(ledger.service, limit=10) == [(ledger.tenant, "db")]
    assert sent(ledger) == [1]


def test_a_cancelled_run_gives_its_places_back(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b", dag_id="one"))
    later = ledger.start(keyed("c", dag_id="two"))
    assert sent(ledger) == [0]
    runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)
    assert recovery.keys_with_room(ledger.service, limit=10) == [(ledger.tenant, "db")]
    assert sent(ledger) == [0]
    assert ledger.claim(later, "c") is not None


def test_an_unlocked_step_waits_for_its_place_and_is_not_handed_over(ledger: Ledger) -> None:
    run = ledger.start(keyed("b c", edges="a>b a>c"))
    ledger.pick()
    change = ledger.complete(ledger.claimed(run, "a"), succeeded(), handoff=DEFAULT)
    assert change.next is None
    assert (change.keys, change.ready_pools) == (frozenset({"db"}), frozenset())
    assert sent(ledger) == [1]


def test_a_decided_step_waits_for_its_place_and_is_not_handed_over(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b", more={"a": {"when": "true"}, "b": {"when": "true"}}))
    change = ledger.decide(run, unlock=["a", "b"], handoff=DEFAULT)
    assert change.next is None
    assert (change.keys, change.ready_pools) == (frozenset({"db"}), frozenset())
    assert sent(ledger) == [0]


def test_a_freed_place_is_given_to_a_step_of_another_pool(ledger: Ledger) -> None:
    run = ledger.start(keyed("a b", more={"b": {"pool": "big"}}))
    assert sent(ledger) == [0]
    ledger.run_step(run, "a")
    assert admit(ledger) == ["big"]
    assert [bell.step_no for bell in ledger.pick("big")] == [1]


def test_the_limit_that_counts_for_a_step_is_that_of_its_version_and_nobody_overtakes_it(
    ledger: Ledger,
) -> None:
    wide = ledger.start(keyed("a b c", limit=3, dag_id="wide"))
    assert sent(ledger) == [0, 1, 2]
    narrow = ledger.start(keyed("n", limit=1, dag_id="narrow"))
    more = ledger.start(keyed("m", limit=3, dag_id="more"))
    for name in ("a", "b"):
        ledger.run_step(wide, name)
        assert sent(ledger) == []
    assert ledger.claim(more, "m") is None
    ledger.run_step(wide, "c")
    assert sent(ledger) == [0, 0]
    assert ledger.claim(narrow, "n") is not None
    assert ledger.claim(more, "m") is not None


def test_waiting_steps_count_as_queued_and_not_as_running(ledger: Ledger) -> None:
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_running_steps=2))
    run = ledger.start(keyed("a b c", limit=1, edges="x>y", dag_id="mixed"))
    assert len(sent(ledger)) == 2
    with ledger.service.statement(None) as cur:
        cur.execute("SELECT orch.active_steps(%(tenant)s)", {"tenant": ledger.tenant})
        assert cur.fetchall() == [(2,)]
        cur.execute("SELECT depth, running FROM orch.queues(%(tenant)s)", {"tenant": ledger.tenant})
        assert cur.fetchall() == [(4, 0)]
    ledger.run_step(run, "a")
    assert recovery.count_sent(ledger.service, "default") == 1


def test_steps_of_a_definition_recorded_before_there_were_keys_have_none(ledger: Ledger) -> None:
    spec = graph("a>b")
    assert "concurrencyKey" not in spec.canonical
    ledger.start(spec)
    assert len(ledger.pick()) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_racing_pickers_workers_rescues_and_cancellations_never_pass_the_limit(
    ledger: Ledger, owner_url: str, most: int
) -> None:
    names = [f"s{n:02}" for n in range(16)]
    edges = " ".join(f"{one}>{one}x" for one in names[:8])
    fields: dict[str, JsonObject] = {name: {"pool": "big"} for name in names[::2]}
    spec = keyed(
        " ".join([*names, *(f"{name}x" for name in names[:8])]), limit=most, edges=edges, more=fields
    )
    several = [ledger.start(spec) for _ in range(3)]
    doomed = ledger.start(spec)
    placed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
            while not ended.is_set():
                cur.execute(
                    "SELECT count(*) FROM orch.steps WHERE concurrency_key IS NOT NULL"
                    " AND (status = 'running' OR status = 'queued' AND sent_utc IS DISTINCT FROM 'infinity')"
                )
                placed.append(int((cur.fetchone() or (0,))[0]))

    def work_in(pool: str) -> None:
        while not ended.is_set():
            admit(ledger)
            for bell in ledger.pick(pool):
                # As a message that is delivered twice, and one that is forged.
                for step_no in (bell.step_no, bell.step_no, (bell.step_no + 1) % 24):
                    _serve(ledger, bell.run_id, step_no)

    threads = [threading.Thread(target=watch)]
    threads += [
        threading.Thread(target=work_in, args=(pool,)) for pool in ("default", "big") for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        runs.cancel(ledger.api, ledger.tenant, doomed.run_id, reason=None)
        _until_ended(ledger, [*several, doomed])
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert max(placed) <= most
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        check_limits_held(cur)
        assert peaks(cur)[ledger.tenant, "db"] == most


def _serve(ledger: Ledger, run_id: RunId, step_no: int) -> None:
    """Serve a message: one attempt in seven is lost, and one in five fails the first time."""
    lease_ms = 0 if step_no % 7 == 3 else LONG_MS
    claim = verbs.claim(ledger.service, ledger.tenant, run_id, step_no, worker_id=WORKER, lease_ms=lease_ms)
    if claim is not None and lease_ms == 0 and claim.attempt == 1:
        return
    while claim is not None:
        # What is handed on has a long lease: to lose it would take longer than the test.
        outcome = failed(retry_delay_ms=0) if step_no % 5 == 2 and claim.tries == 1 else succeeded()
        claim = ledger.complete(claim, outcome, handoff=DEFAULT).next


def _until_ended(ledger: Ledger, several: Sequence[Run]) -> None:
    def ended() -> bool:
        ledger.wake()
        ledger.rescue()
        return all(ledger.run(run.run_id).status.is_terminal for run in several)

    eventually(ended, within=40)


def test_a_pick_costs_the_same_however_many_steps_wait_for_a_place(ledger: Ledger, owner_url: str) -> None:
    """Measured in blocks that PostgreSQL looks at, since time depends on the machine."""
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        ledger.start(keyed("a b"))
        sent(ledger)
        few = min(_blocks(cur) for _ in range(3))
        for _ in range(2):
            ledger.start(keyed(" ".join(f"s{n:04}" for n in range(5_000)), dag_id="many"))
        sent(ledger)
        assert min(_blocks(cur) for _ in range(3)) <= few + 20


def _blocks(cur: Cursor) -> int:
    """Count the blocks that giving a place and picking once look at, when there is none to give."""
    total = 0
    for query in ("orch.admit('acme', 'db')", "orch.pick('default', ARRAY['acme'], '{}', '{}', '{}')"):
        cur.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM {query}")
        plan = (cur.fetchone() or ({},))[0][0]["Plan"]
        total += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        cur.connection.rollback()
    return total
