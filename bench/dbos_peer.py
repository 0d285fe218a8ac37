"""DBOS, on a PostgreSQL of its own: it has no server, its workflows run in the program that calls them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peer_process import PeerProcess, PeerPython, peer_process
from bench.private_postgres import private_postgres

PACKAGE = "dbos"


@contextmanager
def dbos_peer(folder: Path, python: PeerPython) -> Iterator[PeerProcess]:
    """Run a program that uses DBOS; it may still be starting."""
    with (
        private_postgres(folder) as url,
        peer_process("DBOS", python, ["bench.dbos_flows", url], folder / "flows.log") as peer,
    ):
        yield peer
