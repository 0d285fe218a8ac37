"""Connections to PostgreSQL, and the only two ways to use one: a statement, or a transaction.

Connections are in autocommit. ``statement`` sends the tenant and one query in one
message, which PostgreSQL runs as one transaction: one round trip. ``transaction``
opens with its first query and commits at the end of the block.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Final, Literal, Protocol

import orjson
import psycopg2
import psycopg2.errors
import psycopg2.extras
from psycopg2.extensions import cursor as PgCursor

from shared.domain.models import TenantId
from shared.errors import StoreUnavailable
from shared.store.breaker import Breaker
from shared.store.deadline import Silent, TimedConnection, has_arrived, install

Role = Literal["orch_api", "orch_service"]
Row = tuple[Any, ...]
"""As the driver returns it; the functions beside the SQL files give it its types."""

ANSWER_SECONDS: Final = 4.5
"""How long a use of a connection may wait for PostgreSQL: who calls the API has an answer within five."""
_TRY_SECONDS: Final = 1.0
"""How long the opening of a connection may take to a server that was silent before."""
_STATEMENT_SHARE: Final = 0.9
"""Of that time, a statement's on the server: if the server lives, it is the one to end it, and clean up."""
_LOCK_SHARE: Final = 0.65
_WAIT_SHARE: Final = 0.75
"""Of that time, what may be spent on waiting for a free connection."""

_OUT_OF_REACH = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.errors.QueryCanceled,
    psycopg2.errors.LockNotAvailable,
    # A server that was demoted, or is being moved. Nothing here writes in a transaction that must not.
    psycopg2.errors.ReadOnlySqlTransaction,
)

# Every query of the ledger goes by a key, on tables of any size: without statistics (a fresh
# installation) the planner would otherwise scan, and keep that plan for the connection's life. A bitmap
# loses the order of its index: a page of a list would be sorted out of all that comes behind it.
_SESSION = (
    "-c role={role} -c jit=off -c plan_cache_mode=force_generic_plan"
    " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    " -c statement_timeout={statement_ms} -c lock_timeout={lock_ms}"
    " -c idle_in_transaction_session_timeout=30s"
)


class Cursor(Protocol):
    """What the store's functions need of a cursor."""

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> None: ...
    def fetchone(self) -> Row | None: ...
    def fetchall(self) -> list[Row]: ...


class OwnCursor(Cursor, Protocol):
    """A cursor whose holder may end its transaction."""

    def finish(self, query: str, params: Mapping[str, object] | None = None) -> None:
        """Execute a query whose rows nobody needs, and commit, all in one message. Nothing may follow."""


class Transactions(Protocol):
    """Where a service's verb runs: in a transaction of its own, or joined to one that is open."""

    def statement(self, tenant: TenantId | None) -> AbstractContextManager[Cursor]: ...
    def transaction(self, tenant: TenantId | None) -> AbstractContextManager[Cursor]: ...


class _Scoped:
    """A cursor that opens its transaction and names the tenant in the message of the first query."""

    def __init__(self, cursor: PgCursor, prefix: str) -> None:
        self._cursor = cursor
        self._prefix = prefix
        self.used = False

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> None:
        self._cursor.execute(self._prefix + query, params or {})
        self._prefix = ""
        self.used = True

    def finish(self, query: str, params: Mapping[str, object] | None = None) -> None:
        self.execute(query.rstrip().removesuffix(";") + "; COMMIT", params)
        self.used = False

    def fetchone(self) -> Row | None:
        return self._cursor.fetchone()

    def fetchall(self) -> list[Row]:
        return self._cursor.fetchall()


class Joined:
    """An open transaction, for verbs that are to commit with it, or not at all.

    What they do can be undone by itself (``undo``): it lies behind a savepoint, which
    goes out with their first query.
    """

    _SAVEPOINT = "SAVEPOINT joined; "

    def __init__(self, cur: Cursor, tenant: TenantId) -> None:
        self._cur = cur
        self._tenant = tenant
        self._prefix = self._SAVEPOINT

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> None:
        self._cur.execute(self._prefix + query, params)
        self._prefix = ""

    def fetchone(self) -> Row | None:
        return self._cur.fetchone()

    def fetchall(self) -> list[Row]:
        return self._cur.fetchall()

    @contextmanager
    def statement(self, tenant: TenantId | None) -> Iterator[Cursor]:
        """Lend the open transaction, which must be the tenant's."""
        if tenant != self._tenant:
            raise LookupError("the open transaction is another tenant's")
        yield self

    transaction = statement

    def undo(self) -> None:
        """Undo what was done through this, and nothing else of the transaction."""
        if not self._prefix:
            self._cur.execute("ROLLBACK TO SAVEPOINT joined")


class Snapshot(_Scoped):
    """A read-only transaction that sees one moment, and can read what is too large to hold.

    It lasts as long as its reader is slow, so each of its queries has the time of a whole use.
    """

    _cursors = 0

    def __init__(self, cursor: PgCursor, prefix: str, renew: Callable[[], None]) -> None:
        super().__init__(cursor, prefix)
        self._renew = renew

    def execute(self, query: str, params: Mapping[str, object] | None = None) -> None:
        self._renew()
        super().execute(query, params)

    def stream(
        self, query: str, params: Mapping[str, object] | None = None, *, batch: int = 500
    ) -> Iterator[Row]:
        """Give the rows of a query from a cursor on the server, ``batch`` of them in memory at a time.

        Any number may be read in turns.
        """
        self._cursors += 1
        name = f"stream_{self._cursors}"
        self.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {query}", params)
        while rows := self._fetch(name, batch):
            yield from rows

    def _fetch(self, name: str, batch: int) -> list[Row]:
        self.execute(f"FETCH FORWARD {batch} FROM {name}")
        return self.fetchall()


class Database:
    """A bounded set of connections in one role; fork-safe, thread-safe, opened when first used.

    Who waits ``wait_seconds`` for a free connection, or ``answer_seconds`` in all for one and for
    what PostgreSQL is to do, gets StoreUnavailable. Whether a commit that was waited for is made is then
    not known. If the server was silent, uses fail at once until one of them finds it answering.
    """

    def __init__(
        self,
        url: str,
        *,
        role: Role,
        size: int,
        application_name: str,
        answer_seconds: float = ANSWER_SECONDS,
        wait_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._url = url
        self._role = role
        self._options = _SESSION.format(
            role=role,
            statement_ms=round(answer_seconds * _STATEMENT_SHARE * 1000),
            lock_ms=round(answer_seconds * _LOCK_SHARE * 1000),
        )
        self._size = size
        self._application_name = application_name
        self._answer_seconds = answer_seconds
        self._wait_seconds = min(wait_seconds, answer_seconds * _WAIT_SHARE)
        install()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: list[TimedConnection] = []
        self._lock = threading.Lock()
        self._breaker = Breaker()
        self._free = threading.BoundedSemaphore(self._size)

    @contextmanager
    def statement(self, tenant: TenantId | None) -> Iterator[Cursor]:
        """Lend a cursor for exactly one ``execute``: one transaction, one round trip."""
        with self._connection() as connection, connection.cursor() as cursor:
            yield _Scoped(cursor, self._opening("", cursor, tenant))

    @contextmanager
    def transaction(self, tenant: TenantId | None) -> Iterator[OwnCursor]:
        """Lend a cursor for several statements that commit together, or not at all."""
        with self._connection() as connection, connection.cursor() as cursor:
            scoped = _Scoped(cursor, self._opening("BEGIN; ", cursor, tenant))
            try:
                yield scoped
            except BaseException:
                if scoped.used and not connection.closed:
                    cursor.execute("ROLLBACK")
                raise
            if scoped.used:
                cursor.execute("COMMIT")

    @contextmanager
    def snapshot(self, tenant: TenantId | None) -> Iterator[Snapshot]:
        """Lend a view of one moment, for as long as a slow reader takes; nothing can be written in it."""
        begin = (
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
            " SET LOCAL idle_in_transaction_session_timeout = '120s';"
            # What is streamed comes in the order of an index, the first row at once: no plan that must see
            # everything first, however few rows the planner takes a fresh table to have.
            " SET LOCAL cursor_tuple_fraction = 0; SET LOCAL enable_sort = off;"
            " SET LOCAL enable_bitmapscan = off; "
        )
        with self._connection() as connection, connection.cursor() as cursor:
            renew = partial(setattr, connection, "left", self._answer_seconds)
            snapshot = Snapshot(cursor, self._opening(begin, cursor, tenant), renew)
            try:
                yield snapshot
            finally:
                if snapshot.used and not connection.closed:
                    cursor.execute("ROLLBACK")

    def close(self) -> None:
        """Close the idle connections of this process."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _connection(self) -> Iterator[TimedConnection]:
        if self._pid != os.getpid():
            # A forked child must not touch, not even close, what its parent has open.
            self._reset()
        begun = time.monotonic()
        if not self._free.acquire(timeout=self._wait_seconds):
            raise StoreUnavailable(f"all {self._size} database connections are busy")
        try:
            connection = self._checkout(self._answer_seconds - (time.monotonic() - begun))
            try:
                yield connection
            except psycopg2.Error as error:
                if isinstance(error, Silent) and self._means_silence(error):
                    self._breaker.silent()
                    # Each of them would cost another caller its deadline.
                    self.close()
                elif connection.closed and self._breaker.is_open:
                    # It was the server that ended it.
                    self._breaker.answered()
                # When a server process dies in the middle of an answer, the driver has no name for it.
                if isinstance(error, _OUT_OF_REACH) or connection.closed:
                    raise StoreUnavailable(f"PostgreSQL: {type(error).__name__}") from error
                raise
            finally:
                self._checkin(connection)
        finally:
            self._free.release()

    def _opening(self, begin: str, cursor: PgCursor, tenant: TenantId | None) -> str:
        """Build what comes before the first query: it binds row-level security to the tenant.

        The setting ends with the transaction. The service role sees all tenants and needs none.
        """
        if tenant is None or self._role == "orch_service":
            return begin
        text: bytes = cursor.mogrify("SELECT set_config('orch.tenant', %s, TRUE); ", (tenant,))
        return begin + text.decode().replace("%", "%%")

    def _means_silence(self, error: Silent) -> bool:
        """Tell whether a server that lives would have ended the statement before we did."""
        return error.waited >= self._answer_seconds * _STATEMENT_SHARE or self._breaker.is_open

    def _checkout(self, left: float) -> TimedConnection:
        """Give a connection whose use may wait for ``left`` seconds, its opening among them."""
        seconds = left
        if self._breaker.is_open:
            if not self._breaker.may_try():
                raise StoreUnavailable("PostgreSQL did not answer a moment ago")
            seconds = min(seconds, _TRY_SECONDS)
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._connect(seconds)
                connection.left += left - seconds
                return connection
            # An idle connection has nothing to read; one that has was closed by the server.
            if not connection.closed and not has_arrived(connection):
                connection.left = seconds
                return connection
            connection.close()

    def _checkin(self, connection: TimedConnection) -> None:
        if connection.closed:
            return
        if self._breaker.is_open:
            self._breaker.answered()
        if connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def _connect(self, seconds: float) -> TimedConnection:
        try:
            connection = psycopg2.connect(
                self._url,
                connection_factory=partial(TimedConnection, seconds=seconds),
                options=self._options,
                application_name=self._application_name,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=10_000,
            )
        except Silent as error:
            # A server that takes no more connections may still serve those it has.
            if not self._idle:
                self._breaker.silent()
            raise StoreUnavailable("PostgreSQL does not answer") from error
        except psycopg2.DatabaseError as error:
            self._breaker.answered()
            if isinstance(error, psycopg2.ProgrammingError):
                raise  # The address itself is none.
            raise StoreUnavailable("PostgreSQL is out of reach") from error
        self._breaker.answered()
        connection.autocommit = True
        psycopg2.extras.register_default_json(connection, loads=orjson.loads)
        return connection


def one(row: Row | None) -> Row:
    """Return the row of a query that always has one."""
    if row is None:
        raise LookupError("a query that always returns a row returned none")
    return row
