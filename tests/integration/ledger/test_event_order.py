"""Readers of a tenant's events get each one once, those of a run in order, whatever commits when.

Several transactions are open at a time. Some take their id long before they write, some write to several
runs, some are rolled back, whole or in part, while workers go on with other runs. Readers of all events or
of one run's begin, stop and go on anywhere in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from shared.domain.event_stream import START, Cursor, StreamedEvent
from shared.domain.models import Released, Run, RunId, TenantId
from shared.services import events
from shared.store.db import Database
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import Ledger

WRITERS, RUNS, READERS = 3, 3, 4
_numbers = count(1)

writer, run, reader = (st.integers(0, most - 1) for most in (WRITERS, RUNS, READERS))
ACTION = st.one_of(
    st.tuples(st.just("take_id"), writer),
    st.tuples(st.just("write"), writer, run),
    st.tuples(st.just("write"), writer, run),
    st.tuples(st.just("write_in_vain"), writer, run),
    st.tuples(st.just("commit"), writer),
    st.tuples(st.just("roll_back"), writer),
    st.tuples(st.just("work"), run),
    st.tuples(st.just("read"), reader, st.integers(1, 5)),
    st.tuples(st.just("read"), reader, st.integers(1, 5)),
    st.tuples(st.just("resume"), reader, st.integers(0, 30)),
    st.tuples(st.just("go_on_for"), reader, reader),
    st.tuples(st.just("begin_now"), reader),
)
# Left to itself, Hypothesis draws lists of five.
ACTIONS = st.integers(0, 60).flatmap(lambda size: st.lists(ACTION, min_size=size, max_size=size))


class Written:
    """Transactions that are open side by side and write events; none ever waits for another."""

    def __init__(self, connections: list[Connection], watching: Connection, ledger: Ledger) -> None:
        self._connections = connections
        self._watching = watching
        self._ledger = ledger
        plan = graph("", steps="a")
        self.runs: list[Run] = [ledger.start(plan) for _ in range(RUNS)]
        self._holders: dict[int, int] = {}
        """Which transaction has locked a run."""

    def take_id(self, number: int) -> None:
        self._execute(number, "SELECT pg_current_xact_id()")

    def write(self, number: int, of: int) -> None:
        """Write an event of a run, unless another transaction has the run."""
        if self._holders.setdefault(of, number) == number:
            self._execute(
                number,
                "SELECT orch.record(r, 'run.updated', '{}') FROM orch.runs AS r"
                " WHERE r.tenant = %s AND r.run_id = %s FOR UPDATE",
                (self._ledger.tenant, str(self.runs[of].run_id)),
            )

    def write_in_vain(self, number: int, of: int) -> None:
        self._execute(number, "SAVEPOINT in_vain")
        held = dict(self._holders)
        self.write(number, of)
        self._execute(number, "ROLLBACK TO in_vain")
        self._holders = held

    def commit(self, number: int) -> None:
        self._connections[number].commit()
        self._let_go(number)

    def roll_back(self, number: int) -> None:
        self._connections[number].rollback()
        self._let_go(number)

    def work(self, of: int) -> None:
        """Have a worker take a step and hand it back, in two transactions, unless another has the run."""
        if of not in self._holders:
            self._ledger.run_step(self.runs[of], "a", Released())

    def oldest_open(self) -> int:
        """Give the lowest id of a transaction that may still write."""
        taken = []
        for each in self._connections:
            with each.cursor() as cur:
                cur.execute("SELECT pg_current_xact_id_if_assigned()::text::bigint")
                taken += [row[0] for row in cur.fetchall() if row[0] is not None]
        return min(taken, default=1 << 62)

    def committed(self) -> list[StreamedEvent]:
        """List all events there are, in the order of their cursors."""
        with self._watching.cursor() as cur:
            cur.execute(
                "SELECT e.xid::text::bigint, e.event_id, e.line FROM orch.events AS e WHERE e.tenant = %s"
                " ORDER BY e.xid, e.event_id",
                (self._ledger.tenant,),
            )
            return [StreamedEvent(Cursor(row[0], row[1]), row[2]) for row in cur.fetchall()]

    def _let_go(self, number: int) -> None:
        self._holders = {run: holder for run, holder in self._holders.items() if holder != number}

    def _execute(self, number: int, query: str, parameters: tuple[str, ...] = ()) -> None:
        with self._connections[number].cursor() as cur:
            cur.execute(query, parameters)


@dataclass(slots=True, kw_only=True)
class Reader:
    """Follows all events, or those of one run, from where it began."""

    db: Database
    written: Written
    tenant: TenantId
    run_id: RunId | None
    begun: Cursor = START
    position: Cursor = START
    got: list[StreamedEvent] = field(default_factory=list)
    ever: set[str] = field(default_factory=set)
    """Every line that it ever had."""

    def read(self, limit: int) -> bool:
        """Read a page; tell whether there is another. What it has begins always like all that it wants."""
        page = events.read_after(self.db, self.tenant, self.position, limit=limit, run_id=self.run_id)
        assert len(page.events) <= limit
        assert page.end == (page.events[-1].cursor if page.events else self.position)
        self.got += page.events
        self.ever |= {event.line for event in page.events}
        self.position = page.end
        assert all(event.cursor.xid < self.written.oldest_open() for event in page.events)
        wanted = self.wanted()
        assert self.got == wanted[: len(self.got)]
        if self.run_id is None and page.whole:
            assert page.held_back == (len(self.got) < len(wanted))
        return not page.whole

    def read_on(self) -> None:
        """Read to the end, and look once more whether it is."""
        while self.read(3):
            pass
        assert not self.read(3)

    def resume(self, place: int) -> None:
        """Forget everything behind one of the lines, and go on from its cursor."""
        del self.got[place:]
        self.position = self.got[-1].cursor if self.got else self.begun

    def begin(self, place: Cursor) -> None:
        self.got = []
        self.begun = self.position = place

    def wanted(self) -> list[StreamedEvent]:
        """List what it is to get of the events there are."""
        return [
            event
            for event in self.written.committed()
            if event.cursor > self.begun and (self.run_id is None or f'"runId":"{self.run_id}"' in event.line)
        ]


@pytest.fixture
def connections(owner_url: str) -> Iterator[list[Connection]]:
    opened = [psycopg2.connect(owner_url) for _ in range(WRITERS)]
    yield opened
    for each in opened:
        each.close()


@pytest.fixture
def watching(owner_url: str) -> Iterator[Connection]:
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    yield connection
    connection.close()


@given(actions=ACTIONS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_event_is_read_once_and_in_order(
    api_db: Database,
    service_db: Database,
    connections: list[Connection],
    watching: Connection,
    actions: list[tuple[str, int] | tuple[str, int, int]],
) -> None:
    ledger = Ledger(api=api_db, service=service_db, tenant=TenantId(f"t{next(_numbers)}"))
    written = Written(connections, watching, ledger)
    readers = [
        Reader(db=api_db, written=written, tenant=ledger.tenant, run_id=run_id)
        for run_id in (None, None, written.runs[0].run_id, written.runs[1].run_id)
    ]
    assert len(readers) == READERS
    had_before: list[tuple[Cursor, set[str]]] = []

    def begin_now(number: int) -> None:
        lines = {event.line for event in written.committed()}
        readers[number].begin(events.present(api_db, ledger.tenant))
        had_before.append((readers[number].begun, lines))

    verbs: Mapping[str, Callable[..., object]] = {
        "take_id": written.take_id,
        "write": written.write,
        "write_in_vain": written.write_in_vain,
        "commit": written.commit,
        "roll_back": written.roll_back,
        "work": written.work,
        "read": lambda number, limit: readers[number].read(limit),
        "resume": lambda number, place: readers[number].resume(place),
        "go_on_for": lambda number, other: readers[number].begin(readers[other].position),
        "begin_now": begin_now,
    }
    with ExitStack() as at_the_end:
        for each in connections:
            at_the_end.callback(each.rollback)
        for name, *arguments in actions:
            verbs[name](*arguments)
        for number in reversed(range(WRITERS)):
            written.commit(number)
    every = written.committed()
    # PostgreSQL's own transactions may hold up readers, too.
    eventually(lambda: events.present(api_db, ledger.tenant) == every[-1].cursor, within=10)
    for each_reader in readers:
        each_reader.read_on()
        assert each_reader.got == each_reader.wanted()
        assert each_reader.ever <= {event.line for event in every}
    for place, lines in had_before:
        assert all(event.line in lines for event in every if event.cursor <= place)
    for of_run in written.runs:
        in_order = [event.line for event in events.list_all(api_db, ledger.tenant, of_run.run_id)]
        assert [event.line for event in every if f'"runId":"{of_run.run_id}"' in event.line] == in_order


def test_an_event_of_a_transaction_that_began_before_stands_behind_its_run_s_own(
    api_db: Database, service_db: Database, connections: list[Connection], watching: Connection
) -> None:
    """The case that the ids of transactions alone would get wrong, spelled out."""
    ledger = Ledger(api=api_db, service=service_db)
    written = Written(connections, watching, ledger)
    run_id = written.runs[0].run_id
    first = written.committed()[-1].cursor
    before = [event.line for event in events.list_all(api_db, ledger.tenant, run_id)]
    written.take_id(0)
    written.write(1, 0)
    written.commit(1)
    reader = Reader(db=api_db, written=written, tenant=ledger.tenant, run_id=None)

    def had_of_run() -> list[str]:
        reader.read_on()
        return [event.line for event in reader.got if f'"runId":"{run_id}"' in event.line]

    eventually(lambda: events.present(api_db, ledger.tenant) == first, within=10)
    assert had_of_run() == before, "what the younger transaction has written waits for the older one"
    written.write(0, 0)
    assert had_of_run() == before
    written.commit(0)
    last = written.committed()[-1].cursor
    eventually(lambda: events.present(api_db, ledger.tenant) == last, within=10)
    in_order = [event.line for event in events.list_all(api_db, ledger.tenant, run_id)]
    assert len(in_order) == len(before) + 2
    assert had_of_run() == in_order


def test_a_place_is_always_that_of_an_event(
    api_db: Database, service_db: Database, connections: list[Connection], watching: Connection
) -> None:
    """After a crash PostgreSQL gives ids once more that it had not written down: events will have them."""
    ledger = Ledger(api=api_db, service=service_db)
    assert events.present(api_db, ledger.tenant) == START
    written = Written(connections, watching, ledger)
    for _ in range(3):
        written.take_id(0)
        written.roll_back(0)
    last, run_id = written.committed()[-1].cursor, written.runs[-1].run_id
    eventually(lambda: events.present(api_db, ledger.tenant) == last, within=10)
    for after in (START, last):
        page = events.read_after(api_db, ledger.tenant, after, limit=99)
        assert (page.whole, page.end) == (True, last)
    assert events.read_after(api_db, ledger.tenant, last, limit=99, run_id=run_id).end == last
    assert events.read_after(api_db, TenantId("other"), START, limit=99).end == START
    # An event that readers must wait for is not the last one yet.
    written.take_id(0)
    written.write(1, 0)
    written.commit(1)
    assert events.present(api_db, ledger.tenant) == last
    assert events.read_after(api_db, ledger.tenant, last, limit=99).held_back
