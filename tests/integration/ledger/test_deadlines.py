"""A PostgreSQL that does not answer costs a caller a bounded time, and most callers none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest

from shared.domain.models import TenantId
from shared.errors import StoreUnavailable
from shared.store.breaker import Breaker
from shared.store.db import Database
from tests.support.eventually import eventually
from tests.support.proxy import Mode, Proxy, proxied
from tests.support.servers import Servers

pytestmark = pytest.mark.timed

ACME = TenantId("acme")
ANSWER_S = 1.0
SLACK_S = 0.5


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    with proxied(servers.sockets / ".s.PGSQL.5432") as made:
        yield made


@pytest.fixture
def db(proxy: Proxy, database: str) -> Iterator[Database]:
    url = f"postgresql://orch@127.0.0.1:{proxy.port}/{database}"
    made = Database(url, role="orch_api", size=4, application_name="test", answer_seconds=ANSWER_S)
    yield made
    made.close()


def ask(db: Database, query: str = "SELECT 1") -> float:
    """Give the time that it took, for an answer or for a refusal."""
    begun = time.monotonic()
    try:
        with db.statement(ACME) as cur:
            cur.execute(query)
    except StoreUnavailable:
        return time.monotonic() - begun
    raise AssertionError("it was answered")


def answers(db: Database) -> bool:
    try:
        with db.statement(ACME) as cur:
            cur.execute("SELECT 1")
            return cur.fetchone() == (1,)
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not connected"])
def test_a_server_that_went_silent_is_given_up_in_time_and_found_again(
    db: Database, proxy: Proxy, connected: bool
) -> None:
    assert not connected or answers(db)
    proxy.set(Mode.BLACKHOLE)
    assert ask(db) < ANSWER_S + SLACK_S
    # Who comes next does not wait for it as well.
    assert ask(db) < SLACK_S
    proxy.set(Mode.PASS)
    eventually(lambda: answers(db), within=2)


def test_while_it_is_silent_one_caller_at_a_time_tries(db: Database, proxy: Proxy) -> None:
    assert answers(db)
    proxy.set(Mode.BLACKHOLE)
    ask(db)
    with ThreadPoolExecutor(8) as threads:
        begun = time.monotonic()
        took = list(threads.map(lambda _: ask(db), range(200)))
        assert sum(one > SLACK_S for one in took) <= 3
        assert time.monotonic() - begun < 4 * ANSWER_S


def test_a_commit_that_is_not_answered_is_given_up_too(db: Database, proxy: Proxy) -> None:
    def commit() -> None:
        with db.transaction(ACME) as cur:
            cur.execute("SELECT 1")
            proxy.set(Mode.BLACKHOLE)

    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        commit()
    assert time.monotonic() - begun < ANSWER_S + SLACK_S


def test_a_server_that_lives_ends_what_takes_too_long_and_is_not_taken_for_silent(db: Database) -> None:
    assert ask(db, "SELECT pg_sleep(20)") < ANSWER_S + SLACK_S
    assert answers(db)


def test_who_waits_for_a_lock_is_let_go_by_the_server(db: Database, owner_url: str) -> None:
    with closing(psycopg2.connect(owner_url)) as holder, holder.cursor() as cur:
        cur.execute("LOCK TABLE orch.runs IN ACCESS EXCLUSIVE MODE")
        assert ask(db, "SELECT count(*) FROM orch.runs") < ANSWER_S + SLACK_S
        assert answers(db)
        holder.rollback()


def test_the_wait_for_a_connection_is_part_of_the_time(proxy: Proxy, database: str) -> None:
    url = f"postgresql://orch@127.0.0.1:{proxy.port}/{database}"
    single = Database(url, role="orch_api", size=1, application_name="test", answer_seconds=ANSWER_S)
    holds, frees = threading.Event(), threading.Event()

    def hold() -> None:
        with single.statement(ACME) as cur:
            cur.execute("SELECT 1")
            holds.set()
            frees.wait(10)

    with ThreadPoolExecutor(1) as threads:
        holder = threads.submit(hold)
        assert holds.wait(10)
        free = threading.Timer(ANSWER_S / 2, frees.set)
        free.start()
        assert ask(single, "SELECT pg_sleep(20)") < ANSWER_S + SLACK_S / 2
        holder.result()
    single.close()


def test_a_slow_reader_may_take_as_long_as_it_likes_between_its_fetches(db: Database) -> None:
    with db.snapshot(ACME) as snapshot:
        rows = snapshot.stream("SELECT n, pg_sleep(0.3) FROM generate_series(1, 6) AS n", batch=1)
        assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_a_server_process_that_dies_within_a_query_is_a_server_out_of_reach(
    db: Database, owner_url: str
) -> None:
    def kill() -> bool:
        with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
            cur.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE query LIKE '%pg_sleep(0.9)%' AND pid <> pg_backend_pid()"
            )
            return cur.fetchone() == (1,)

    killer = threading.Thread(target=lambda: eventually(kill))
    killer.start()
    assert ask(db, "SELECT pg_sleep(0.9)") < 0.8
    killer.join()
    assert answers(db)


def test_the_breaker_lets_one_try_at_a_time() -> None:
    now = 0.0
    breaker = Breaker(pause_seconds=1.0, now=lambda: now)
    assert breaker.may_try()
    breaker.silent()
    assert not breaker.may_try()
    now = 1.0
    assert breaker.may_try()
    assert not breaker.may_try()
    # Whoever it was never told: somebody else may.
    now = 12.0
    assert breaker.may_try()
    breaker.answered()
    assert breaker.may_try()
    assert breaker.may_try()
