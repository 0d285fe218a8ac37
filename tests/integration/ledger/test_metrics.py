"""Totals count each ending once, whatever commits late and whoever counts. The fixture counts again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from shared.domain.models import Ended, Outcome, Released, Run, Stopped, TenantId
from shared.domain.states import RunStatus
from shared.services import metrics, runs
from shared.services.metrics import Measures
from shared.store import metrics as store
from shared.store import work
from shared.store.db import Cursor, Database
from shared.store.work import Handoff
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import Ledger, failed, succeeded


@pytest.fixture
def owner(owner_url: str) -> Iterator[Connection]:
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    yield connection
    connection.close()


def counted(ledger: Ledger) -> dict[tuple[str, str], int]:
    """Give what the tenant's page would be made of, brought up to date."""
    assert metrics.catch_up(ledger.api, ledger.tenant, within_seconds=5)
    return summed(metrics.measure(ledger.api, ledger.tenant))


def summed(measures: Measures) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for total in measures.totals:
        key = (total.metric, total.status)
        counts[key] = counts.get(key, 0) + total.count
    return counts


def cancelling(ledger: Ledger, run: Run) -> None:
    runs.cancel(ledger.api, ledger.tenant, run.run_id, reason=None)


def test_a_run_its_attempts_and_retries_are_counted_once(ledger: Ledger) -> None:
    run = ledger.start(graph("", steps="a", options={"a": {"retry": {"maxAttempts": 3}}}))
    ledger.run_step(run, "a", failed(retry_delay_ms=0))
    ledger.wake()
    ledger.run_step(run, "a", Released())
    ledger.claimed(run, "a", lease_ms=0)
    ledger.rescue()
    ledger.run_step(run, "a")
    expected = {
        ("attempt", "failed"): 1,
        ("attempt", "released"): 1,
        ("attempt", "lost"): 1,
        ("attempt", "succeeded"): 1,
        ("retry", ""): 1,
        ("run", "completed"): 1,
    }
    assert counted(ledger) == expected
    assert counted(ledger) == expected


@pytest.mark.parametrize("ends_as", ["cancelled", "failed", "released", "lost"])
def test_an_attempt_that_ends_in_a_run_being_cancelled_is_counted(ledger: Ledger, ends_as: str) -> None:
    run = ledger.start(graph("", steps="a b"))
    claim = ledger.claimed(run, "a", lease_ms=0 if ends_as == "lost" else 60_000)
    cancelling(ledger, run)
    if ends_as == "lost":
        ledger.rescue()
    else:
        outcomes: dict[str, Outcome] = {
            "cancelled": Stopped(),
            "released": Released(),
            "failed": failed(retry_delay_ms=0),
        }
        ledger.complete(claim, outcomes[ends_as])
    assert ledger.run(run.run_id).status is RunStatus.CANCELLED
    assert counted(ledger) == {("attempt", ends_as): 1, ("run", "cancelled"): 1}


@pytest.mark.parametrize("ended_as", ["failed", "released", "lost"])
@pytest.mark.parametrize("in_the_same_millisecond", [False, True])
def test_an_attempt_that_had_ended_before_the_cancellation_is_not_counted_again(
    ledger: Ledger, owner: Connection, ended_as: str, in_the_same_millisecond: bool
) -> None:
    run = ledger.start(graph("", steps="a b"))
    claim = ledger.claimed(run, "a", lease_ms=0 if ended_as == "lost" else 60_000)
    if ended_as == "lost":
        ledger.rescue()
    else:
        ledger.complete(claim, Released() if ended_as == "released" else failed(retry_delay_ms=60_000))
    cancelling(ledger, run)
    if in_the_same_millisecond:
        with owner.cursor() as cur:
            cur.execute("UPDATE orch.steps AS s SET ended_utc = a.ended_utc FROM orch.attempts AS a")
    counts = counted(ledger)
    assert counts["attempt", ended_as] == 1
    assert set(counts) - {("retry", "")} == {("attempt", ended_as), ("run", "cancelled")}


def test_what_commits_late_is_counted_and_nothing_twice(ledger: Ledger) -> None:
    """The later of two transitions commits first: counting waits for the earlier one, and then has both."""
    early, late = ledger.start(graph("", steps="a")), ledger.start(graph("", steps="a"))
    first, second = ledger.claimed(early, "a"), ledger.claimed(late, "a")
    nobody = Handoff(worker_id=ledger.worker, lease_ms=0)
    with ledger.service.transaction(ledger.tenant) as cur:
        ended = Ended(step_no=first.step_no, attempt=first.attempt, outcome=succeeded())
        work.settle(cur, ledger.tenant, [work.Report(run_id=first.run_id, ended=[ended], handoff=nobody)])
        ledger.complete(second, succeeded())
        assert counted(ledger) == {}
    eventually(lambda: counted(ledger) == {("attempt", "succeeded"): 2, ("run", "completed"): 2})


def test_many_who_count_at_once_count_once(ledger: Ledger, database_url: str) -> None:
    for _ in range(20):
        ledger.run_step(ledger.start(graph("", steps="a")), "a")
    db = Database(database_url, role="orch_service", size=8, application_name="test")
    tenants: Sequence[TenantId | None] = [ledger.tenant, None] * 4
    threads = [
        threading.Thread(target=metrics.catch_up, args=(db, tenant), kwargs={"within_seconds": 5})
        for tenant in tenants
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.close()
    assert counted(ledger) == {("attempt", "succeeded"): 20, ("run", "completed"): 20}


def test_an_old_ledger_is_counted_in_chunks(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        ledger.run_step(ledger.start(graph("", steps="a")), "a")
    other = replace(ledger, tenant=TenantId("globex"))
    other.run_step(other.start(graph("", steps="a")), "a")
    monkeypatch.setattr(metrics, "BATCH", 3)
    assert not metrics.catch_up(ledger.service, None, within_seconds=0)
    assert sum(summed(metrics.measure(ledger.service, None)).values()) < 12
    eventually(lambda: metrics.catch_up(ledger.service, None, within_seconds=5))
    assert summed(metrics.measure(ledger.service, None)) == {
        ("attempt", "succeeded"): 6,
        ("run", "completed"): 6,
    }


def test_bounds_of_buckets_are_inclusive(owner: Connection) -> None:
    with owner.cursor() as cur:
        cur.execute("SELECT orch.duration_bounds_ms()")
        row = cur.fetchone()
        assert row is not None
        bounds = [int(bound) for bound in row[0]]
        for number, bound in enumerate(bounds):
            cur.execute("SELECT orch.duration_bucket(%s), orch.duration_bucket(%s)", (bound, bound + 1))
            assert cur.fetchone() == (number, number + 1)
        cur.execute("SELECT orch.duration_bucket(0)")
        assert cur.fetchone() == (0,)


def test_a_clock_that_went_back_gives_no_negative_duration(owner: Connection) -> None:
    later, earlier = datetime(2026, 11, 21, 1, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
    with owner.cursor() as cur:
        cur.execute("SELECT orch.elapsed_ms(%s::timestamptz, %s::timestamptz)", (later, earlier))
        assert cur.fetchone() == (0,)


def test_with_many_tenants_each_keeps_its_counters_and_all_share_histograms(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(ledger, tenant=TenantId("globex"))
    for each in (ledger, other):
        each.run_step(each.start(graph("", steps="a")), "a")
    eventually(lambda: metrics.catch_up(ledger.service, None, within_seconds=5))
    apart = metrics.measure(ledger.service, None)
    assert {total.tenant for total in apart.histograms} == {"acme", "globex"}
    monkeypatch.setattr(metrics, "MAX_TENANTS_WITH_HISTOGRAMS", 1)
    together = metrics.measure(ledger.service, None)
    assert summed(together) == summed(apart)
    assert {total.tenant for total in together.totals} == {"acme", "globex"}
    assert {total.tenant for total in together.histograms} == {None}
    assert sum(total.count for total in together.histograms) == sum(total.count for total in apart.histograms)


@pytest.mark.parametrize("role", ["api", "service"])
def test_what_was_counted_is_not_read_again(ledger: Ledger, role: str) -> None:
    for _ in range(20):
        ledger.run_step(ledger.start(graph("", steps="a")), "a")
    assert counted(ledger)["run", "completed"] == 20
    ledger.start(graph("", steps="a"))
    db = ledger.api if role == "api" else ledger.service
    for expected in (2, 0):
        with db.transaction(ledger.tenant) as cur:
            before = events_read(cur)
            assert store.count_of_tenant(cur, ledger.tenant, limit=100) == expected
            assert events_read(cur) - before <= 2 * expected


def events_read(cur: Cursor) -> int:
    """Give how many events this connection has looked at so far."""
    cur.execute("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'events'")
    return sum(row[0] for row in cur.fetchall())
