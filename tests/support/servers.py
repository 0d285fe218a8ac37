"""The PostgreSQL and the Redis of a test session, and the database of one test."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg2
import redis

from shared import migrations
from shared.embedded import postgres
from shared.embedded import redis as embedded_redis
from shared.embedded.account import choose_account
from shared.embedded.process_tree import kill_tree
from shared.embedded.program import Program
from tests.support.eventually import eventually

TEMPLATE = postgres.DATABASE
_REDIS_DATABASES = 16
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the session's servers are."""

    sockets: Path

    def url(self, database: str, *, user: str = postgres.LOGIN) -> str:
        """Give the URL of a database, as the application's login or as the owner."""
        return postgres.postgres_url(self.sockets, user=user, database=database)

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """Clone the migrated template for one test; give its name."""
        name = f"test_{next(_numbers)}"
        self.maintain(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        yield name
        self.maintain(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def new_redis_url(self) -> Iterator[str]:
        """Lend one of the Redis databases, empty."""
        number = next(_numbers) % _REDIS_DATABASES
        client = redis.Redis(
            unix_socket_path=str(self.sockets / embedded_redis.SOCKET_NAME), db=number, protocol=2
        )
        with client:
            client.flushdb()
            yield embedded_redis.redis_url(self.sockets, number)
            client.flushdb()

    def maintain(self, statement: str) -> None:
        """Run a statement about databases, which no transaction may hold."""
        connection = psycopg2.connect(self.url("postgres", user=postgres.OWNER))
        try:
            connection.autocommit = True
            with connection.cursor() as cur:
                cur.execute(statement)
        finally:
            connection.close()


@contextmanager
def private_servers() -> Iterator[Servers]:
    """Start PostgreSQL and Redis in a folder of their own, migrate the template; end both, leave nothing."""
    folder = Path(tempfile.mkdtemp(prefix="orch-test-"))
    sockets = folder / "run"
    sockets.mkdir(mode=0o700)
    try:
        with _running(embedded_redis.redis_program(folder / "redis", sockets), folder):
            account = choose_account(postgres.find_binaries() / "postgres", folder / "postgres")
            if account.uid is not None:
                folder.chmod(0o711)
            account.own(sockets)
            cluster = folder / "postgres"
            postgres.create_cluster(cluster, account)
            # The machine may crash in the middle of a test: nobody wants that test's ledger back.
            unsafe = {**postgres.SETTINGS, "fsync": "off", "full_page_writes": "off"}
            with _running(postgres.postgres_program(cluster, sockets, account, unsafe), folder):
                eventually(lambda: postgres.is_ready(sockets), within=30)
                eventually(lambda: embedded_redis.is_ready(sockets), within=30)
                postgres.create_database(sockets)
                migrations.upgrade(postgres.postgres_url(sockets, user=postgres.OWNER))
                postgres.let_login_serve(sockets)
                yield Servers(sockets=sockets)
    finally:
        shutil.rmtree(folder)


@contextmanager
def own_redis(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Lend a Redis that a test may hurt, with its data and its socket in ``folder``."""
    with _running(embedded_redis.redis_program(folder / "redis", folder), folder) as process:
        eventually(lambda: embedded_redis.is_ready(folder), within=30)
        yield embedded_redis.redis_url(folder), process


@contextmanager
def _running(program: Program, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = _dying_with_us(program).start(folder / f"{program.name}.log")
    try:
        yield process
    finally:
        process.send_signal(program.stop_signal)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()


def _dying_with_us(program: Program) -> Program:
    """Have the kernel end the server when the tests are killed."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return program
    return replace(program, argv=(setpriv, "--pdeathsig", "KILL", "--", *program.argv))
