"""Connections to PostgreSQL, and the only two ways to use one: a statement, or a transaction.

Connections are in autocommit. ``statement`` sends the tenant and one query in one
message, which PostgreSQL runs as one transaction: one round trip. ``transaction``
opens with its first query and commits at the end of the block.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import psycopg2
import psycopg2.errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as PgCursor

from shared.domain.models import TenantId
from shared.errors import StoreUnavailable

Role = Literal["orch_api", "orch_service"]
Row = tuple[Any, ...]
"""As the driver returns it; the functions beside the SQL files give it its types."""

_OUT_OF_REACH = (
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.errors.QueryCanceled,
    psycopg2.errors.LockNotAvailable,
)

# Every query of the ledger goes by a key, on tables of any size: without statistics (a fresh
# installation) the planner would otherwise scan, and keep that plan for the connection's life. A bitmap
# loses the order of its index: a page of a list would be sorted out of all that comes behind it.
_SESSION = (
    "-c role={role} -c jit=off -c plan_cache_mode=force_generic_plan"
    " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
    " -c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=30s"
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
    """A read-only transaction that sees one moment, and can read what is too large to hold."""

    _cursors = 0

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
    """A bounded set of connections in one role; fork-safe, thread-safe, opened when first used."""

    def __init__(
        self, url: str, *, role: Role, size: int, application_name: str, wait_seconds: float = 5.0
    ) -> None:
        self._url = url
        self._role = role
        self._options = _SESSION.format(role=role)
        self._size = size
        self._application_name = application_name
        self._wait_seconds = wait_seconds
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
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
            snapshot = Snapshot(cursor, self._opening(begin, cursor, tenant))
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
    def _connection(self) -> Iterator[Connection]:
        if self._pid != os.getpid():
            # A forked child must not touch, not even close, what its parent has open.
            self._reset()
        if not self._free.acquire(timeout=self._wait_seconds):
            raise StoreUnavailable(f"all {self._size} database connections are busy")
        try:
            connection = self._checkout()
            try:
                yield connection
            except psycopg2.Error as error:
                # A server process that is killed within a query is told of by the base class, DatabaseError.
                if not isinstance(error, _OUT_OF_REACH) and not connection.closed:
                    raise
                raise StoreUnavailable(f"PostgreSQL: {type(error).__name__}") from error
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

    def _checkout(self) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            # An idle connection has nothing to read; one that has was closed by the server.
            if not connection.closed and not select.select([connection.fileno()], [], [], 0)[0]:
                return connection
            connection.close()

    def _checkin(self, connection: Connection) -> None:
        if connection.closed:
            return
        if connection.info.transaction_status != psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    def _connect(self) -> Connection:
        try:
            connection = psycopg2.connect(
                self._url,
                options=self._options,
                application_name=self._application_name,
                connect_timeout=5,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                tcp_user_timeout=10_000,
            )
        except psycopg2.OperationalError as error:
            raise StoreUnavailable("PostgreSQL is out of reach") from error
        connection.autocommit = True
        return connection


def one(row: Row | None) -> Row:
    """Return the row of a query that always has one."""
    if row is None:
        raise LookupError("a query that always returns a row returned none")
    return row
