"""Whatever loses its connection, its memory or its life, each client of a stream gets each event once."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGINT, SIGTERM
from typing import Any

import httpx
import psycopg2
import pytest

from shared.domain.event_stream import Cursor
from shared.domain.hashing import hash_json
from shared.ids import new_run_id
from shared.store.db import one
from tests.chaos.fault import UNREACHABLE, Fault, Target, frozen, with_all_below
from tests.chaos.faults import FAULTS
from tests.support.eventually import eventually
from tests.support.failpoints import Failpoints
from tests.support.rest import Document, Rest
from tests.support.site import Site, running_site
from tests.support.stream_client import Source, Way
from tests.support.stream_follower import Follower

TENANTS = ("north", "east", "south", "west")
PAUSE_S = 0.05
"""Between two starts of a tenant, on the average."""
LASTS_S = (0.5, 2.0)
HELD_OPEN_S = (0.5, 4.0)
RUNS_A_FAULT = 70
"""So many are started from one fault to the next."""
GETS_ALL_WITHIN_S = 20.0
EVENTS_OF_A_RUN = 5
"""It began, its one step was queued, ran, succeeded, it completed."""
CHAOS = (
    "API master killed",
    "API process killed",
    "API told to stop",
    "API frozen",
    "all workers killed",
    "Redis killed",
    "Redis frozen",
    "Redis flushed",
    "PostgreSQL killed",
    "PostgreSQL stopped at once",
    "connections cut again and again",
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A stack whose streams have a heartbeat every second; after the test all is well in its ledger."""
    with running_site(tmp_path / "data", environ={"ORCH_STREAM_HEARTBEAT_MS": "1000"}) as running:
        yield running
        running.await_health()
        running.check()


def target_of(site: Site, folder: Path, random: Random) -> Target:
    return Target(
        site=site, failpoints=Failpoints(folder=folder / "failpoints"), random=random, small_disks=()
    )


@dataclass(kw_only=True)
class Load:
    """Clients that start runs, one for each tenant, and cancel some: each call repeated until it is heard."""

    site: Site
    random: Random
    runs: int
    """By each tenant."""
    started: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Have them work within the block."""
        with ThreadPoolExecutor(len(TENANTS)) as pool:
            working = [
                pool.submit(self._work, tenant, Random(self.random.random()), self.runs) for tenant in TENANTS
            ]
            try:
                yield
            finally:
                self._stop.set()
                for each in working:
                    each.result()

    def has_started(self, number: int) -> bool:
        return len(self.started) >= number

    def _work(self, tenant: str, random: Random, runs: int) -> None:
        with self.site.rest(tenant) as rest:
            for number in range(runs):
                dag_id = random.choice(("plain", "plain", "fails", "naps"))
                body = {"dagId": dag_id, "runToken": f"{tenant}-{number}"}
                run_id = str(self._insist(rest, "/runs", body, httpx.codes.CREATED)["runId"])
                self.started.append(run_id)
                if dag_id == "naps":
                    self._insist(rest, f"/runs/{run_id}:cancel", {}, httpx.codes.CONFLICT)
                if self._stop.wait(random.uniform(0, 2 * PAUSE_S)):
                    return

    def _insist(self, rest: Rest, path: str, body: dict[str, Any], also: int) -> dict[str, Any]:
        while True:
            with suppress(httpx.TransportError):
                answer = rest.send("POST", path, body=body)
                if answer.is_success or answer.status_code == also:
                    document: dict[str, Any] = answer.json()
                    return document
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            self._stop.wait(0.05)


def publish(site: Site) -> None:
    plain: list[Document] = [{"id": name, "uses": "noop"} for name in "abcd"]
    # With no inputs there is no ``n``: the first step ends with an error of its expression.
    fails: list[Document] = [
        {"id": "asks", "uses": "noop", "when": "inputs.n > 0"},
        {"id": "never", "uses": "noop"},
    ]
    naps: list[Document] = [
        {"id": "nap", "uses": "sleep", "with": {"ms": 300}},
        {"id": "after", "uses": "noop"},
    ]
    for tenant in TENANTS:
        with site.rest(tenant) as rest:
            rest.publish("plain", plain, "a>b", "a>c", "b>d", "c>d")
            rest.publish("fails", fails, "asks>never")
            rest.publish("naps", naps, "nap>after")


@contextmanager
def late_commits(target: Target, random: Random, told: Counter[str]) -> Iterator[None]:
    """Hold transactions open that have written, one after another, within the block.

    Each takes its place in the order of events when it begins. Some start a run just before their end.
    """
    stop = threading.Event()
    with target.postgres() as cur:
        cur.execute("CREATE TABLE public.scratch (n integer)")

    def hold() -> None:
        while not stop.is_set():
            # What a fault ends was never committed.
            with suppress(*UNREACHABLE), target.postgres() as cur:
                cur.execute("BEGIN; INSERT INTO public.scratch VALUES (1)")
                stop.wait(random.uniform(*HELD_OPEN_S))
                if random.random() < 0.7:
                    _start_run(cur, random.choice(TENANTS))
                    stop.wait(random.uniform(0, 1))
                ending = random.choice(("COMMIT", "COMMIT", "ROLLBACK"))
                cur.execute(ending)
                told[ending] += 1
            stop.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        try:
            yield
        finally:
            stop.set()
            holding.result()


def _start_run(cur: psycopg2.extensions.cursor, tenant: str) -> None:
    cur.execute(
        "SELECT orch.start_run(tenant, %s, dag_version_id, '{}', decode(%s, 'hex'), NULL, %s, 'late')"
        " FROM orch.dag_versions WHERE tenant = %s AND dag_id = 'plain'",
        (str(new_run_id()), hash_json({}), "4" * 32, tenant),
    )


@contextmanager
def subscriptions_cut(target: Target) -> Iterator[None]:
    """Take from Redis's clients what they hear, and nothing else."""
    with suppress(*UNREACHABLE), target.redis() as client:
        for _ in range(10):
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            time.sleep(0.05)
    yield


@contextmanager
def postgresql_stopped_fast(target: Target) -> Iterator[None]:
    """Stop PostgreSQL as an administrator does, who does not wait for its clients."""
    target.program("postgres").send(SIGINT)
    yield


@contextmanager
def web_told_to_stop_while_redis_is_away(target: Target) -> Iterator[None]:
    with FAULTS["Redis killed"].make(target):
        target.program("web").send(SIGTERM)
        yield


ALL_FAULTS = (
    *(FAULTS[name] for name in CHAOS),
    Fault(name="subscriptions cut", lasts=False, within_s=1, make=subscriptions_cut),
    Fault(name="PostgreSQL stopped fast", lasts=False, within_s=15, make=postgresql_stopped_fast),
    Fault(
        name="API told to stop with Redis away",
        lasts=False,
        within_s=15,
        make=web_told_to_stop_while_redis_is_away,
    ),
)


def followers_of(site: Site, random: Random) -> list[Follower]:
    """Make clients of all kinds: restless and patient, of everything and of some of it, by both ways."""
    made: list[Follower] = []
    for number, tenant in enumerate(TENANTS):
        source = Source(url=site.stack.url, token=site.token(tenant), tenant=tenant)
        ways = (Way.WEBSOCKET, Way.HTTP) if number % 2 else (Way.HTTP, Way.WEBSOCKET)
        for query, way, restless in (
            ({}, ways[0], True),
            ({}, ways[1], True),
            ({}, ways[0], False),
            ({"dagId": "plain"}, ways[1], True),
            ({"status": "failed"}, ways[0], True),
            ({"status": "cancelled", "dagId": "naps"}, ways[1], False),
        ):
            own = Random(random.random())
            made.append(Follower(source, way, query=query, random=own if restless else None))
        made.append(Follower(source, ways[0], after=None, random=Random(random.random())))
    return made


def check_followed(target: Target, follower: Follower, tenant: str) -> int:
    """Hold what a client got to the ledger; give the number of its lines."""
    assert follower.began_at is not None
    began_at = Cursor.parse(follower.began_at)
    assert began_at is not None
    with target.postgres() as cur:
        cur.execute(
            "SELECT line FROM orch.events WHERE tenant = %s AND (xid, event_id) > (%s::text::xid8, %s)"
            " ORDER BY xid, event_id",
            (tenant, str(began_at.xid), began_at.event_id),
        )
        ledger = [row[0] for row in cur.fetchall()]
    wanted = [line for line in ledger if follower.query.items() <= json.loads(line).items()]
    # What is missing then, if anything, is said below.
    with suppress(AssertionError):
        eventually(lambda: follower.has(len(wanted)), within=GETS_ALL_WITHIN_S)
    got = [line.hashed for line in follower.lines]
    missing, extra = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    assert not missing and not extra, (
        f"{follower.name}: {missing.total()} missing, {extra.total()} twice or never in the ledger, of"
        f" {len(wanted)}; the first: {next(iter(missing), None)}, {next(iter(extra), None)}"
    )
    # The same order for all, in which the events of a run come by their seq.
    assert got == wanted, f"{follower.name} got them in another order"
    seqs: dict[str, list[int]] = {}
    for event in map(json.loads, got):
        seqs.setdefault(event["runId"], []).append(event["seq"])
    assert all(each == sorted(set(each)) for each in seqs.values())
    return len(got)


def test_each_client_gets_each_event_once_whatever_fails(
    site: Site, tmp_path: Path, show: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    runs = int(request.config.getoption("--stream-runs"))
    seed = request.config.getoption("--stream-seed") or f"{time.time_ns():x}"
    show(f"--stream-seed {seed}")
    random = Random(seed)
    target = target_of(site, tmp_path, random)
    publish(site)
    load = Load(site=site, random=random, runs=runs // len(TENANTS))
    followers = followers_of(site, random)
    faults = [
        fault
        for _ in range(max(1, runs // RUNS_A_FAULT // len(ALL_FAULTS)))
        for fault in random.sample(ALL_FAULTS, len(ALL_FAULTS))
    ]
    late: Counter[str] = Counter()
    begun = time.monotonic()
    with ExitStack() as stack:
        for follower in followers:
            stack.enter_context(follower)
        with load.working(), late_commits(target, Random(random.random()), late):
            for number, fault in enumerate(faults, 1):
                with fault.make(target):
                    if fault.lasts:
                        # The length of a fault is what is tried here, not something to wait for.
                        time.sleep(random.uniform(*LASTS_S))
                site.await_health()
                eventually(partial(load.has_started, number * runs // len(faults)), within=60)
        for tenant in TENANTS:
            with site.rest(tenant) as rest:
                rest.all_ended(within=60)
        lines = sum(check_followed(target, each, tenant) for each, tenant in _with_tenants(followers))
    told = sum((follower.told for follower in followers), Counter[str]())
    show(
        f"{len(load.started)} runs, {lines} lines to {len(followers)} clients in"
        f" {time.monotonic() - begun:.0f} s; late commits: {dict(late)}\n"
        f"faults: {len(faults)}, {[fault.name for fault in faults]}\nclients: {dict(told)}"
    )
    with target.postgres() as cur:
        cur.execute("SELECT status, count(*) FROM orch.runs GROUP BY status")
        assert {status for status, _ in cur.fetchall()} == {"completed", "failed", "cancelled"}


def _with_tenants(followers: list[Follower]) -> Iterator[tuple[Follower, str]]:
    each = len(followers) // len(TENANTS)
    for number, follower in enumerate(followers):
        yield follower, TENANTS[number // each]


def test_events_are_not_missed_when_a_crash_takes_ids_of_transactions_back(
    site: Site, tmp_path: Path
) -> None:
    """What PostgreSQL has not written down yet when it dies, has never been; the ids are given once more."""
    target = target_of(site, tmp_path, Random(0))
    with target.postgres() as cur:
        # Nothing but a commit that is waited for writes anything down.
        cur.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        cur.execute("ALTER SYSTEM SET autovacuum = 'off'")
    site.kill_and_await_next("postgres", SIGINT)
    site.await_health()
    source = Source(url=site.stack.url, token=site.token("north"), tenant="north")
    writers = [each for name in ("sweeper", *site.workers()) for each in with_all_below(target.program(name))]
    with site.rest("north") as rest, ExitStack() as stack:
        rest.publish("plain", [{"id": "a", "uses": "noop"}])
        rest.ended(rest.start("plain"))
        live = [stack.enter_context(Follower(source, way)) for way in Way]
        eventually(lambda: all(len(each.lines) == EVENTS_OF_A_RUN for each in live))
        with contextmanager(frozen)(writers):
            before = forget_transactions(target)
            late = stack.enter_context(Follower(source, Way.HTTP, after=None))
            eventually(lambda: late.began_at is not None)
            eventually(partial(streams_have_looked_since, target, before[1]))
            site.kill_and_await_next("postgres")
            eventually(partial(answers, target))
            assert next_transaction(target) < before[0]
        site.await_health()
        run_id = rest.start("plain")
        rest.ended(run_id)
        for follower in (*live, late):
            eventually(partial(follower.has, EVENTS_OF_A_RUN * (1 if follower is late else 2)))
            assert len([line for line in follower.lines if run_id in line]) == EVENTS_OF_A_RUN


def forget_transactions(target: Target) -> tuple[int, datetime]:
    """Have a thousand transactions take ids and change nothing; give the next id, and the time."""
    with target.postgres() as cur:
        for _ in range(1_000):
            cur.execute("BEGIN; SELECT pg_current_xact_id(); ROLLBACK")
        cur.execute("SELECT clock_timestamp()")
        (now,) = one(cur.fetchone())
    return next_transaction(target), now


def next_transaction(target: Target) -> int:
    with target.postgres() as cur:
        cur.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return int(one(cur.fetchone())[0])


def streams_have_looked_since(target: Target, when: datetime) -> bool:
    """Tell whether the web process has looked for new events since then."""
    with target.postgres() as cur:
        cur.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE query_start > %s"
            " AND application_name = 'orchestrator-web' AND query LIKE '%% AS held_back%%'",
            (when,),
        )
        return int(one(cur.fetchone())[0]) > 0


def answers(target: Target) -> bool:
    with suppress(*UNREACHABLE), target.postgres():
        return True
    return False
