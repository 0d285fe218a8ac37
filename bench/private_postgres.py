"""A PostgreSQL of a peer's own, set up exactly as the embedded one is: as durable, as fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from bench.processes import stopped_after, wait_until
from shared.embedded import postgres
from shared.embedded.account import choose_account

DATABASE = "bench"
_START_S = 30.0


@contextmanager
def private_postgres(folder: Path) -> Iterator[str]:
    """Run a server with its data in ``folder``, which is made; give its owner's URL of an empty database."""
    sockets, cluster = folder / "run", folder / "postgres"
    sockets.mkdir(mode=0o700, parents=True)
    account = choose_account(postgres.find_binaries() / "postgres", cluster)
    account.own(sockets)
    postgres.create_cluster(cluster, account)
    program = postgres.postgres_program(cluster, sockets, account)
    with stopped_after(program.start(folder / "postgres.log"), signal=program.stop_signal, within_s=10):
        wait_until(lambda: postgres.is_ready(sockets), within_s=_START_S, what=f"the PostgreSQL in {folder}")
        _create_database(postgres.postgres_url(sockets, user=postgres.OWNER, database="postgres"))
        yield postgres.postgres_url(sockets, user=postgres.OWNER, database=DATABASE)


def _create_database(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cur:
        connection.autocommit = True
        cur.execute(f"CREATE DATABASE {DATABASE}")
