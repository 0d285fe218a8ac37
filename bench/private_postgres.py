"""A PostgreSQL of a peer's own, set up exactly as the embedded one is: as durable, as fast."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from bench.processes import stopped_after, wait_until
from bench.subject import BenchError
from shared.embedded import postgres
from shared.embedded.account import choose_account

DATABASE = "bench"
_DEBIAN = Path("/usr/lib/postgresql")
_NEW_IN_18 = {"io_method"}
"""Settings that the system's PostgreSQL may not know yet; they change nothing for it."""
_START_S = 30.0


@contextmanager
def private_postgres(folder: Path, *, binaries: Path | None = None) -> Iterator[str]:
    """Run a server with its data in ``folder``, which is made; give its owner's URL of an empty database.

    It is the embedded one, unless ``binaries`` are those of another.
    """
    sockets, cluster = folder / "run", folder / "postgres"
    sockets.mkdir(mode=0o700, parents=True)
    account = choose_account((binaries or postgres.find_binaries()) / "postgres", cluster)
    account.own(sockets)
    postgres.create_cluster(cluster, account, binaries=binaries)
    known = {
        name: value for name, value in postgres.SETTINGS.items() if binaries is None or name not in _NEW_IN_18
    }
    program = postgres.postgres_program(cluster, sockets, account, known, binaries=binaries)
    with stopped_after(program.start(folder / "postgres.log"), signal=program.stop_signal, within_s=10):
        wait_until(lambda: postgres.is_ready(sockets), within_s=_START_S, what=f"the PostgreSQL in {folder}")
        _create_database(postgres.postgres_url(sockets, user=postgres.OWNER, database="postgres"))
        yield postgres.postgres_url(sockets, user=postgres.OWNER, database=DATABASE)


def system_binaries() -> Path:
    """Find the newest PostgreSQL of the system, for a peer that wants one of the extensions it comes with.

    Raises BenchError if there is none.
    """
    found = [path.parent for path in _DEBIAN.glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    on_path = shutil.which("postgres")
    if on_path is None:
        raise BenchError("the system has no PostgreSQL: apt-get install postgresql")
    return Path(on_path).resolve().parent


def _create_database(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cur:
        connection.autocommit = True
        cur.execute(f"CREATE DATABASE {DATABASE}")
