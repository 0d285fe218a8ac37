"""A long list as gunicorn serves it: in constant memory, each page at the same price, whoever reads it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg2
import pytest

from shared.domain.models import TenantId
from shared.embedded import postgres
from shared.store import queries
from shared.store.db import Database, one
from tests.integration.api.test_server import BASE, Web, serving
from tests.support.eventually import eventually
from tests.support.rows import EPOCH, rows
from tests.support.servers import Servers
from tests.support.tokens import Signer

RUNS = int(os.environ.get("LARGE_LIST_RUNS", "200000"))
"""A million takes minutes on a busy machine. A leak of 256 bytes a run would still show at this number."""
NDJSON = {"Accept": "application/x-ndjson"}
ACME = TenantId("acme")


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """A ledger with many runs of tenant acme."""

    url: str
    owner_url: str


@pytest.fixture(scope="module")
def large(servers: Servers) -> Iterator[Large]:
    with servers.new_database() as name:
        made = Large(url=servers.url(name), owner_url=servers.url(name, user=postgres.OWNER))
        with rows(made.owner_url) as written:
            written.many_runs(ACME, RUNS)
        yield made


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What reading a page took."""

    rows: int
    blocks: int


def read(large: Large, size: int, filters: Mapping[str, object], *, place: int = 0) -> Page:
    """Read the page of runs behind the item at ``place``, as the API would."""
    wanted = {"dag_id": None, "status": None, "from_utc": None, "to_utc": None, **filters}
    after: tuple[object, object] = (None, None)
    if place:
        with psycopg2.connect(large.owner_url) as connection, connection.cursor() as cur:
            cur.execute(_PLACE, {**wanted, "place": place - 1})
            last, following = cur.fetchall()
        after = (last[0], last[1] if last[0] == following[0] else None)
    query = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + queries.load("runs")["list_runs"]
    key = {"tenant": ACME, "after_utc": after[0], "after_run_id": after[1], "max_rows": size + 1}
    db = Database(large.url, role="orch_api", size=1, application_name="test-plan")
    with db.statement(ACME) as cur:
        cur.execute(query, {**wanted, **key})
        plan = one(cur.fetchone())[0][0]["Plan"]
    db.close()
    return Page(
        rows=round(plan["Actual Rows"]), blocks=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    )


_PLACE = """
SELECT r.started_utc, r.run_id FROM orch.runs AS r
WHERE
    (%(dag_id)s IS NULL OR r.dag_id = %(dag_id)s) AND (%(status)s IS NULL OR r.status = %(status)s)
    AND (%(from_utc)s::timestamptz IS NULL OR r.started_utc >= %(from_utc)s)
    AND (%(to_utc)s::timestamptz IS NULL OR r.started_utc < %(to_utc)s)
ORDER BY r.started_utc DESC, r.run_id OFFSET %(place)s LIMIT 2
"""
COMMON: list[Mapping[str, object]] = [
    {},
    {"from_utc": EPOCH, "to_utc": EPOCH + timedelta(seconds=RUNS - 100)},
    {"dag_id": "common"},
    {"status": "completed"},
    {"dag_id": "common", "status": "completed"},
]


@pytest.mark.parametrize("filters", COMMON, ids=str)
def test_page_10_000_costs_what_page_1_costs(large: Large, filters: Mapping[str, object]) -> None:
    first = read(large, 10, filters)
    deep = read(large, 10, filters, place=10_000 * 10)
    assert first.rows == deep.rows == 11
    assert deep.blocks <= 1.5 * first.blocks
    assert first.blocks <= 11 + 5


@pytest.mark.parametrize("filters", COMMON, ids=str)
def test_a_page_among_many_of_the_same_millisecond_costs_hardly_more(
    large: Large, filters: Mapping[str, object]
) -> None:
    ended = 2 / 3 if "status" in filters else 1
    deep = read(large, 50, filters, place=round(RUNS * 0.9 * ended))
    assert deep.rows == 51
    assert deep.blocks <= 1.5 * read(large, 50, filters).blocks


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"status": "failed"}, 20),
        ({"status": "running"}, 0),
        ({"dag_id": "rare"}, 20),
        ({"dag_id": "absent"}, 0),
        ({"dag_id": "rare", "status": "failed"}, 0),
        ({"dag_id": "common", "status": "failed"}, 20),
        ({"dag_id": "common", "status": "running"}, 0),
        ({"to_utc": EPOCH}, 0),
        ({"status": "failed", "from_utc": EPOCH + timedelta(seconds=RUNS)}, 0),
    ],
    ids=str,
)
def test_what_is_rare_is_found_without_looking_at_the_rest(
    large: Large, filters: Mapping[str, object], rows: int
) -> None:
    page = read(large, 50, filters)
    assert page.rows == rows
    assert page.blocks <= rows + 5
