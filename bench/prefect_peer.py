"""Prefect with a server of its own, on a PostgreSQL of its own, and a program whose flows report to it."""

from __future__ import annotations

import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.peer_process import PeerProcess, PeerPython, last_words, peer_process
from bench.private_postgres import private_postgres, system_binaries
from bench.processes import stopped_after, wait_until
from bench.subject import BenchError

PACKAGE = "prefect"
_HOST = "127.0.0.1"
_START_S = 120.0
_LOOK_S = 5.0


@contextmanager
def prefect_peer(folder: Path, python: PeerPython) -> Iterator[PeerProcess]:
    """Run the server, wait until it answers, and run a program with flows; that may still be starting.

    The server wants pg_trgm, which the embedded PostgreSQL comes without.
    """
    with (
        private_postgres(folder, binaries=system_binaries()) as url,
        _server(folder, python, url) as environ,
    ):
        flows = ["bench.prefect_flows"]
        with peer_process("Prefect", python, flows, folder / "flows.log", environ=environ, slow=True) as peer:
            yield peer


@contextmanager
def _server(folder: Path, python: PeerPython, url: str) -> Iterator[Mapping[str, str]]:
    """Give the environment for programs that use the server."""
    port = _free_port()
    api = f"http://{_HOST}:{port}/api"
    environ = {
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": api,
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    database = {"PREFECT_API_DATABASE_CONNECTION_URL": url.replace("postgresql:", "postgresql+asyncpg:", 1)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [python.program, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(port)],
            env={**os.environ, **environ, **database},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with stopped_after(process, within_s=20):
        wait_until(
            lambda: process.poll() is not None or _answers(f"{api}/health"),
            within_s=_START_S,
            what="Prefect's server",
        )
        if process.poll() is not None:
            raise BenchError(f"Prefect's server ended: {last_words(folder / 'server.log')}")
        yield environ


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        return int(sock.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_LOOK_S):  # noqa: S310 - our own words
            return True
    except OSError:
        return False
