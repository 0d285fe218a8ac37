"""A long list as gunicorn serves it: in constant memory, each page at the same price, whoever reads it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg2
import pytest

from tests.integration.api.conftest import RUNS, Large
from tests.support.eventually import eventually
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture
def web(tmp_path: Path, signer: Signer, large: Large, redis_url: str) -> Iterator[Web]:
    """A process with two threads, one of which streams may take."""
    with serving(tmp_path, signer, large.url, redis_url) as running:
        yield running


def worker_memory_kib(web: Web) -> int:
    """Give the resident memory of the process behind gunicorn's master."""
    (worker,) = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text().split()
    (kib,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    return int(kib)


def test_all_runs_are_streamed_in_constant_memory(web: Web) -> None:
    with web.client() as client:
        assert client.get("/runs?page_size=500").status_code == 200
        before = most = worker_memory_kib(web)
        count, last = 0, ("9", "")
        with client.stream("GET", "/runs", headers=NDJSON, timeout=60) as response:
            for piece in response.iter_bytes(1 << 16):
                count += piece.count(b"\n")
                for line in piece.split(b"\n")[1:-1][:1]:
                    run = json.loads(line)
                    assert (run["startedUtc"], last[1]) < (last[0], run["runId"])
                    last = (run["startedUtc"], run["runId"])
                most = max(most, worker_memory_kib(web))
    assert count == RUNS
    assert most - before < 50 * 1024


def test_a_reader_who_goes_away_frees_its_connection(web: Web, large: Large) -> None:
    with web.client() as client:
        for _ in range(3):
            with client.stream("GET", "/runs", headers=NDJSON) as response:
                pieces = response.iter_bytes()
                assert (response.status_code, bool(next(pieces))) == (200, True)
                assert len(open_snapshots(large)) == 1
            eventually(lambda: not open_snapshots(large))


def test_readers_who_stop_reading_starve_nobody_and_are_cut(
    tmp_path: Path, signer: Signer, large: Large, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class=tests.support.hasty.Worker")
    with (
        serving(tmp_path, signer, large.url, redis_url) as hasty,
        socket.create_connection(hasty.address, timeout=10) as stalled,
        hasty.client() as client,
    ):
        stalled.sendall(request(hasty, "1.1"))
        assert stalled.recv(12) == b"HTTP/1.1 200"
        assert client.get("/runs").status_code == 200
        refused = client.get("/runs", headers=NDJSON)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) >= 1
        eventually(lambda: not open_snapshots(large))
        assert client.head("/runs", headers=NDJSON).status_code == 200


def test_a_stream_that_fails_is_cut_short_for_all_to_see(web: Web, large: Large) -> None:
    with web.client() as client, client.stream("GET", "/runs", headers=NDJSON) as response:
        pieces = response.iter_bytes()
        next(pieces)
        end_snapshot(large)
        with pytest.raises(httpx.TransportError):
            list(pieces)
    with web.client() as client:
        assert client.head("/runs", headers=NDJSON).status_code == 200


def test_a_stream_that_fails_looks_incomplete_even_without_chunks(web: Web, large: Large) -> None:
    """HTTP/1.0 ends an answer by closing the connection, and proxies like to speak it."""
    with socket.create_connection(web.address, timeout=10) as connection:
        connection.sendall(request(web, "1.0"))
        assert b"chunked" not in connection.recv(4_096)
        end_snapshot(large)
        with pytest.raises(ConnectionResetError), connection.makefile("rb") as rest:
            rest.read()


def request(web: Web, version: str) -> bytes:
    """Write the request of a stream in some version of HTTP."""
    return (
        f"GET {BASE}/runs HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {web.token}\r\n"
        "X-Stella-Tenant: acme\r\nAccept: application/x-ndjson\r\n\r\n"
    ).encode()


def open_snapshots(large: Large) -> list[int]:
    """Name the server processes of PostgreSQL in whose transactions the web process reads."""
    with psycopg2.connect(large.owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'orchestrator-web' AND xact_start IS NOT NULL"
        )
        return [row[0] for row in cur.fetchall()]


def end_snapshot(large: Large) -> None:
    """Have PostgreSQL break off what the web process reads."""
    (pid,) = open_snapshots(large)
    with psycopg2.connect(large.owner_url) as connection, connection.cursor() as cur:
        cur.execute("SELECT pg_terminate_backend(%s)", (pid,))
