"""Readers of a tenant's events get each one once, those of a run in order, whatever commits when.

Several transactions are open at a time. Some take their id long before they write, some write to several
runs, some are rolled back, whole or in part; readers begin, stop and go on anywhere in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from shared.domain.event_stream import START, Cursor
from shared.domain.models import RunId, TenantId
from shared.services import events
from shared.store import queries
from shared.store.db import Database, one
from tests.support.graphs import graph
from tests.support.ledger import Ledger

WRITERS, RUNS, READERS = 3, 3, 3

writer, run, reader = (st.integers(0, count - 1) for count in (WRITERS, RUNS, READERS))
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("take_id"), writer),
        st.tuples(st.just("write"), writer, run),
        st.tuples(st.just("write"), writer, run),
        st.tuples(st.just("write_in_vain"), writer, run),
        st.tuples(st.just("commit"), writer),
        st.tuples(st.just("roll_back"), writer),
        st.tuples(st.just("read"), reader, st.integers(1, 4)),
        st.tuples(st.just("read"), reader, st.integers(1, 4)),
        st.tuples(st.just("resume"), reader, st.integers(0, 30)),
    ),
    max_size=60,
)


@dataclass(slots=True)
class Reader:
    """Follows all events, or those of one run; ``got`` has the lines with their cursors."""

    db: Database
    tenant: TenantId
    run_id: RunId | None
    position: Cursor = START
    got: list[tuple[Cursor, str]] = field(default_factory=list)

    def read(self, limit: int) -> bool:
        """Read a page; tell whether there may be another."""
        page = events.read_after(self.db, self.tenant, self.position, limit=limit, run_id=self.run_id)
        self.got += [(event.cursor, event.line) for event in page.events]
        if page.events:
            self.position = page.events[-1].cursor
        return not page.whole

    def resume(self, place: int) -> None:
        """Forget everything behind one of the lines, and go on from its cursor."""
        del self.got[place:]
        self.position = self.got[-1][0] if self.got else START


class Writers:
    """Transactions that are open side by side; none ever waits for another."""

    def __init__(self, connections: list[Connection], tenant: TenantId, runs: list[RunId]) -> None:
        self._connections = connections
        self._tenant = tenant
        self._runs = runs

    def take_id(self, number: int) -> None:
        self._execute(number, "SELECT pg_current_xact_id()")

    def write(self, number: int, of: int) -> None:
        """Write an event of a run, unless another transaction has the run."""
        run_id = str(self._runs[of])
        self._execute(number, "SAVEPOINT before")
        try:
            self._execute(
                number,
                "SELECT 1 FROM orch.runs WHERE tenant = %s AND run_id = %s FOR UPDATE NOWAIT",
                (self._tenant, run_id),
            )
        except psycopg2.errors.LockNotAvailable:
            self._execute(number, "ROLLBACK TO before")
            return
        self._execute(
            number,
            "SELECT orch.record(r, 'run.updated', '{}') FROM orch.runs AS r"
            " WHERE r.tenant = %s AND r.run_id = %s",
            (self._tenant, run_id),
        )

    def write_in_vain(self, number: int, of: int) -> None:
        self._execute(number, "SAVEPOINT in_vain")
        self.write(number, of)
        self._execute(number, "ROLLBACK TO in_vain")

    def commit(self, number: int) -> None:
        self._connections[number].commit()

    def roll_back(self, number: int) -> None:
        self._connections[number].rollback()

    def _execute(self, number: int, query: str, parameters: tuple[str, ...] = ()) -> None:
        with self._connections[number].cursor() as cur:
            cur.execute(query, parameters)


@pytest.fixture
def connections(owner_url: str) -> Iterator[list[Connection]]:
    opened = [psycopg2.connect(owner_url) for _ in range(WRITERS)]
    yield opened
    for each in opened:
        each.close()


@given(actions=ACTIONS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_event_is_read_once_and_in_order(
    api_db: Database, service_db: Database, connections: list[Connection], actions: list[tuple[object, ...]]
) -> None:
    tenant = TenantId(f"t{next(_tenants)}")
    ledger = Ledger(api=api_db, service=service_db, tenant=tenant)
    plan = graph("", steps="a")
    runs = [ledger.start(plan).run_id for _ in range(RUNS)]
    writers = Writers(connections, tenant, runs)
    readers = [Reader(api_db, tenant, None), Reader(api_db, tenant, None), Reader(api_db, tenant, runs[0])]
    with ExitStack() as at_the_end:
        for each in connections:
            at_the_end.callback(each.rollback)
        verbs: Mapping[str, Callable[..., object]] = {
            "take_id": writers.take_id,
            "write": writers.write,
            "write_in_vain": writers.write_in_vain,
            "commit": writers.commit,
            "roll_back": writers.roll_back,
            "read": lambda number, limit: readers[number].read(limit),
            "resume": lambda number, place: readers[number].resume(place),
        }
        for name, *arguments in actions:
            partial(verbs[str(name)], *arguments)()
        for each in connections[1:]:
            each.commit()
        at_the_end.pop_all()
        connections[0].commit()
    for each_reader in readers:
        while each_reader.read(3):
            pass
        written = {
            run_id: [event.line for event in events.list_all(api_db, tenant, run_id)]
            for run_id in ([each_reader.run_id] if each_reader.run_id else runs)
        }
        lines = [line for _, line in each_reader.got]
        assert len(lines) == sum(map(len, written.values()))
        for run_id, of_run in written.items():
            assert [line for line in lines if f'"runId":"{run_id}"' in line] == of_run
        cursors = [cursor for cursor, _ in each_reader.got]
        assert cursors == sorted(set(cursors))


_tenants = iter(range(1_000_000))


def test_an_event_of_a_transaction_that_began_before_stands_behind_its_run_s_own(
    api_db: Database, service_db: Database, connections: list[Connection]
) -> None:
    """The case that the ids of transactions alone would get wrong, spelled out."""
    ledger = Ledger(api=api_db, service=service_db, tenant=TenantId("acme"))
    run_id = ledger.start(graph("", steps="a")).run_id
    writers = Writers(connections, ledger.tenant, [run_id])
    writers.take_id(0)
    writers.write(1, 0)
    writers.commit(1)
    assert [event.seq for event in events.read_after(api_db, ledger.tenant, START, limit=9).events] == [1, 2]
    writers.write(0, 0)
    writers.commit(0)
    page = events.read_after(api_db, ledger.tenant, START, limit=9)
    assert [event.seq for event in page.events] == [1, 2, 3, 4]


def test_a_place_is_always_that_of_an_event(
    api_db: Database, service_db: Database, connections: list[Connection]
) -> None:
    """After a crash PostgreSQL gives ids once more that it had not written down: events will have them."""
    ledger = Ledger(api=api_db, service=service_db, tenant=TenantId("acme"))
    assert events.present(api_db, ledger.tenant) == START
    run_id = ledger.start(graph("", steps="a")).run_id
    writers = Writers(connections, ledger.tenant, [run_id])
    for _ in range(3):
        writers.take_id(0)
        writers.roll_back(0)
    page = events.read_after(api_db, ledger.tenant, START, limit=9)
    last = page.events[-1].cursor
    assert page.whole
    assert page.end == events.present(api_db, ledger.tenant) == last
    assert events.read_after(api_db, ledger.tenant, last, limit=9).end == last
    assert events.read_after(api_db, ledger.tenant, last, limit=9, run_id=run_id).end == last
    assert events.read_after(api_db, TenantId("other"), START, limit=9).end == START
    # An event that readers must wait for is not the last one yet.
    writers.take_id(0)
    writers.write(1, 0)
    writers.commit(1)
    assert events.present(api_db, ledger.tenant) == last
    assert events.read_after(api_db, ledger.tenant, last, limit=9).held_back


HISTORY = 60_000
LONG_RUN = 40_000


@pytest.fixture
def long_history(owner_url: str, api_db: Database, service_db: Database) -> list[RunId]:
    """A tenant with two runs, the second of them long, and another with as much."""
    runs = []
    with psycopg2.connect(owner_url) as owner, owner.cursor() as cur:
        for name in ("acme", "globex", "quiet"):
            ledger = Ledger(api=api_db, service=service_db, tenant=TenantId(name))
            runs += [ledger.start(graph("", steps="a")).run_id for _ in range(2)]
        cur.execute(
            "INSERT INTO orch.events (tenant, run_id, seq, xid, line, hash)"
            " SELECT t.tenant, CASE WHEN n <= %(short)s THEN t.short ELSE t.long END, n + 2, '3',"
            "  '{\"seq\":' || n + 2 || ',\"pad\":\"' || repeat('x', 300) || '\"}', '\\x00'"
            " FROM (VALUES ('acme', %(a)s::uuid, %(b)s::uuid), ('globex', %(c)s, %(d)s))"
            "  AS t (tenant, short, long), generate_series(1, %(all)s) AS n",
            {
                "short": HISTORY - LONG_RUN,
                "all": HISTORY,
                **{name: str(run_id) for name, run_id in zip("abcd", runs[:4], strict=True)},
            },
        )
    return runs


BLOCKS_OF_A_PAGE = 90
"""A page of 500 lines of 400 bytes, and the way down two indexes."""


@pytest.mark.parametrize("place", [0, 1, HISTORY // 2, HISTORY - LONG_RUN + 700, HISTORY - 10, HISTORY])
@pytest.mark.parametrize("of_run", [False, True])
def test_a_page_costs_the_same_anywhere_in_the_history(
    api_db: Database, owner_url: str, long_history: list[RunId], place: int, of_run: bool
) -> None:
    tenant, run_id = TenantId("acme"), long_history[1]
    with psycopg2.connect(owner_url) as owner, owner.cursor() as cur:
        cur.execute(
            "SELECT e.xid::text, e.event_id, e.seq FROM orch.events AS e WHERE e.tenant = %s"
            " AND (NOT %s OR e.run_id = %s) ORDER BY e.xid, e.event_id OFFSET %s LIMIT 1",
            (tenant, of_run, str(run_id), max(0, min(place, (LONG_RUN if of_run else HISTORY) - 1))),
        )
        xid, event_id, seq = cur.fetchone() or ("0", 0, 0)
    name = "read_run_after" if of_run else "read_after"
    parameters = {
        "tenant": tenant,
        "xid": xid if place else "0",
        "event_id": event_id if place else 0,
        "max_rows": 500,
        **({"run_id": str(run_id), "seq": seq if place else 0} if of_run else {}),
    }
    with api_db.statement(tenant) as cur2:
        cur2.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {queries.load('events')[name]}", parameters)
        plan = one(cur2.fetchone())[0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= BLOCKS_OF_A_PAGE, plan


def test_the_last_place_is_found_at_once(api_db: Database, long_history: list[RunId]) -> None:
    with api_db.statement(TenantId("acme")) as cur:
        cur.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {queries.load('events')['present']}", {"tenant": "acme"}
        )
        plan = one(cur.fetchone())[0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= 10, plan
