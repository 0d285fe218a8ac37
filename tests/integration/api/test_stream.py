"""The event stream as the web process serves it: who may have it, what it gives, how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from shared.embedded.process_tree import children
from shared.store.db import one
from tests.support.eventually import eventually
from tests.support.openapi import CheckedStream, check_response
from tests.support.rest import Rest
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

PROTOCOL = "orchestrator.ndjson.v1"
STREAM = f"{BASE}/runs/stream"
EVENTS_OF_A_START = 2
"""That it began, and that its one step is queued: there is no worker here."""
MANY_CHANGES = """
SELECT orch.record(r, NULL, ARRAY(
    SELECT ROW(0, 'a', 'queued', n, 'default')::orch.step_change FROM generate_series(1, 20000) AS n
)) FROM orch.runs AS r WHERE r.run_id = %s"""


@pytest.fixture(scope="module")
def database(servers: Servers) -> Iterator[str]:
    with servers.new_database() as name:
        yield name


@pytest.fixture(scope="module")
def web(
    tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers, database: str
) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    with (
        servers.new_redis_url() as redis_url,
        serving(
            folder,
            signer,
            servers.url(database),
            redis_url,
            ORCH_STREAM_HEARTBEAT_MS="300",
            ORCH_STREAMS="12",
            ORCH_STREAMS_PER_TENANT="8",
            ORCH_STREAM_ORIGINS="https://console.example.com",
        ) as running,
    ):
        yield running


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid4().hex[:12]}"


@pytest.fixture
def rest(web: Web, signer: Signer, tenant: str) -> Iterator[Rest]:
    """A tenant of the test's own, with a DAG of one step."""
    with rest_of(web, signer, tenant) as client:
        yield client


@contextmanager
def rest_of(web: Web, signer: Signer, tenant: str) -> Iterator[Rest]:
    with Rest(address(web), token=signer.token({"tenant": tenant}), tenant=tenant) as client:
        client.publish("plan", [{"id": "a", "uses": "noop"}])
        client.publish("other", [{"id": "a", "uses": "noop"}])
        yield client


def address(web: Web, scheme: str = "http") -> str:
    return f"{scheme}://{web.address[0]}:{web.address[1]}"


def open_socket(web: Web, signer: Signer, tenant: str, query: str = "", **options: Any) -> ClientConnection:
    headers = {"Authorization": f"Bearer {signer.token({'tenant': tenant})}", "X-Stella-Tenant": tenant}
    url = f"{address(web, 'ws')}{STREAM}{query}"
    opened: ClientConnection = connect(url, additional_headers=headers, legacy=True, **options)
    return opened


@contextmanager
def open_lines(web: Web, signer: Signer, tenant: str, query: str = "") -> Iterator[Iterator[str]]:
    """Follow by HTTP; heartbeats are left out, and each line is held to the document."""
    headers = {"Authorization": f"Bearer {signer.token({'tenant': tenant})}", "X-Stella-Tenant": tenant}
    with httpx.stream("GET", f"{address(web)}{STREAM}{query}", headers=headers, timeout=10) as response:
        assert response.status_code == HTTPStatus.OK
        check_response("GET", STREAM, response.status_code, response.headers, None)
        yield (line for line in response.iter_lines() if line)


def received(source: ClientConnection | Iterator[str], count: int) -> list[dict[str, Any]]:
    if isinstance(source, ClientConnection):
        return [json.loads(source.recv(timeout=10)) for _ in range(count)]
    return [json.loads(next(source)) for _ in range(count)]


@contextmanager
def frozen(web: Web) -> Iterator[None]:
    """Stop all processes of the server within the block."""
    pids = [web.process.pid, *children(web.process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def some(connection: socket.socket) -> bytes:
    piece = connection.recv(65_536)
    assert piece, "the server has closed the connection"
    return piece


def refused(web: Web, token: str | None, query: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    """Ask for a WebSocket that must not be had; give the status and the error."""
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    with pytest.raises(InvalidStatus) as raised:
        connect(
            f"{address(web, 'ws')}{STREAM}{query}",
            additional_headers={
                **authorization,
                **{name.replace("_", "-"): text for name, text in headers.items()},
            },
        )
    answer = raised.value.response
    check_response(
        "GET", STREAM, answer.status_code, dict(answer.headers.raw_items()), bytes(answer.body or b"")
    )
    return answer.status_code, json.loads(answer.body or b"")["error"]


def test_both_ways_give_the_same_lines_from_now_on(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    rest.start("plan")
    with open_socket(web, signer, tenant) as ws, open_lines(web, signer, tenant) as lines:
        run_id = rest.start("plan")
        from_socket, from_lines = received(ws, EVENTS_OF_A_START), received(lines, EVENTS_OF_A_START)
    assert from_socket == from_lines
    assert [(event["runId"], event["seq"], event["type"]) for event in from_lines] == [
        (run_id, 1, "run.started"),
        (run_id, 2, "step.updated"),
    ]


def test_an_upgrade_has_the_headers_of_every_answer_and_no_compression(
    web: Web, signer: Signer, rest: Rest, tenant: str
) -> None:
    with open_socket(web, signer, tenant) as ws:
        assert ws.response is not None
        check_response("GET", STREAM, ws.response.status_code, dict(ws.response.headers.raw_items()), b"")
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        for name in ("X-Trace-Id", "Cache-Control", "X-RateLimit-Limit", "X-Stream-Cursor"):
            assert ws.response.headers[name]


def test_without_its_cursor_a_line_is_what_the_ledger_has_hashed(
    web: Web, signer: Signer, rest: Rest, tenant: str, servers: Servers, database: str
) -> None:
    run_id = rest.start("plan")
    with open_socket(web, signer, tenant, f"?after=0&runId={run_id}") as ws:
        head = bytes(32)
        for _ in range(EVENTS_OF_A_START):
            event = json.loads(text := str(ws.recv(timeout=10)))
            assert text.count('"cursor"') == 1
            head = hashlib.sha256(head + text.replace(f'"cursor":"{event["cursor"]}",', "").encode()).digest()
    assert rest.run(run_id)["ledgerHead"] == head.hex()


def test_filters_choose_events(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    plan, other = rest.start("plan"), rest.start("other")
    rest.post(f"/runs/{other}:cancel", {})
    with open_lines(web, signer, tenant, "?after=0") as lines:
        everything = received(lines, 2 * EVENTS_OF_A_START + 3)
    assert everything[-1]["type"] == "run.cancelled"
    for wanted in (
        {"dagId": "plan"},
        {"runId": other},
        {"status": "cancelled"},
        {"dagId": "other", "runId": plan},
    ):
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        chosen = [event for event in everything if wanted.items() <= event.items()]
        with open_socket(web, signer, tenant, f"?after=0&{query}") as ws:
            assert received(ws, len(chosen)) == chosen, query
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.2)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?dagID=plan", "dagID"),
        ("?page_size=1", "page_size"),
        ("?status=queued", "status"),
        ("?runId=1", "runId"),
        ("?dagId=" + "%20", "dagId"),
        ("?after=", "after"),
        ("?after=-1", "after"),
        ("?after=1", "after"),
        ("?after=01.1", "after"),
        ("?after=9223372036854775808.1", "after"),
        ("?after=0&after=0", "after"),
    ],
)
def test_filters_that_are_none_are_refused_before_the_upgrade(
    web: Web, signer: Signer, query: str, field: str
) -> None:
    status, error = refused(web, signer.token(), query, X_Stella_Tenant="acme")
    assert (status, error["code"]) == (400, "INVALID_ARGUMENT")
    assert [detail["field"] for detail in error["details"]] == [field]
    by_http = httpx.get(
        f"{address(web)}{STREAM}{query}",
        headers={"Authorization": f"Bearer {signer.token()}", "X-Stella-Tenant": "acme"},
    )
    assert (by_http.status_code, by_http.json()["error"]["details"]) == (400, error["details"])


def test_who_may_not_have_it_is_refused_before_the_upgrade(web: Web, signer: Signer) -> None:
    assert refused(web, None)[0] == 401
    assert refused(web, signer.token({"exp": 1}), X_Stella_Tenant="acme")[0] == 401
    assert refused(web, signer.token())[1]["code"] == "TENANT_REQUIRED"
    assert refused(web, signer.token(), X_Stella_Tenant="globex")[1]["code"] == "TENANT_FORBIDDEN"
    assert refused(web, signer.token({"tenants": ["*"]}), X_Stella_Tenant="*")[0] == 400
    writer = signer.token({"scope": "orchestrator:write orchestrator:admin"})
    assert refused(web, writer, X_Stella_Tenant="acme")[1]["code"] == "INSUFFICIENT_SCOPE"


@pytest.mark.parametrize("name", ["Sec-WebSocket-Version", "Sec-WebSocket-Key"])
@pytest.mark.parametrize("value", ["", "7", "bm90IDE2IGJ5dGVz"])
def test_a_broken_handshake_is_refused_in_the_envelope(web: Web, name: str, value: str) -> None:
    fields = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==", name: value}
    head = web.head(
        "GET",
        "/runs/stream",
        "Connection: Upgrade",
        "Upgrade: websocket",
        *(f"{field}: {text}" for field, text in fields.items()),
    )
    with socket.create_connection(web.address, timeout=5) as connection:
        connection.sendall(head + b"\r\n")
        answer = b""
        while not answer.endswith(b"}}"):
            answer += some(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["details"][0]["field"] == name


def test_a_page_authenticates_by_subprotocols(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    token = signer.token({"tenant": tenant})
    url = f"{address(web, 'ws')}{STREAM}?after=0"
    offered: list[Any] = [PROTOCOL, f"bearer.{token}", f"tenant.{tenant}"]
    run_id = rest.start("plan")
    with connect(url, subprotocols=offered) as ws:
        assert ws.subprotocol == PROTOCOL
        assert received(ws, 1)[0]["runId"] == run_id
    assert token not in web.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("offered", "status"),
    [
        ("{protocol}, tenant.{tenant}", 401),
        ("{protocol}, bearer.{token}", 403),
        ("{protocol}, bearer.{token}, tenant.someone-else", 403),
        ("{protocol}, bearer.{token}, tenant.NOT-ONE", 400),
        ("{protocol}, bearer.x, tenant.{tenant}", 401),
        ("{protocol}, bearer.{token}, bearer.{token}, tenant.{tenant}", 400),
        ("{protocol}, bearer.{token}, tenant.{tenant}, tenant.{tenant}", 400),
    ],
)
def test_subprotocols_that_say_too_little_or_too_much_are_refused(
    web: Web, signer: Signer, tenant: str, offered: str, status: int
) -> None:
    text = offered.format(protocol=PROTOCOL, tenant=tenant, token=signer.token({"tenant": tenant}))
    assert refused(web, None, Sec_WebSocket_Protocol=text)[0] == status


def test_a_token_is_not_taken_from_two_places(web: Web, signer: Signer) -> None:
    token = signer.token()
    text = f"{PROTOCOL}, bearer.{token}"
    status, error = refused(web, token, X_Stella_Tenant="acme", Sec_WebSocket_Protocol=text)
    assert (status, error["code"]) == (400, "INVALID_ARGUMENT")


def test_subprotocols_stand_for_headers_nowhere_else(web: Web, signer: Signer) -> None:
    text = f"{PROTOCOL}, bearer.{signer.token()}, tenant.acme"
    answer = httpx.get(f"{address(web)}{STREAM}", headers={"Sec-WebSocket-Protocol": text})
    assert answer.status_code == HTTPStatus.UNAUTHORIZED


def test_only_pages_of_this_server_and_those_listed_may_open_streams(
    web: Web, signer: Signer, tenant: str
) -> None:
    status, error = refused(web, signer.token(), X_Stella_Tenant="acme", Origin="https://evil.example")
    assert (status, error["code"]) == (403, "TENANT_FORBIDDEN")
    assert refused(web, signer.token(), X_Stella_Tenant="acme", Origin="null")[0] == 403
    for origin in ("https://console.example.com", address(web)):
        with open_socket(web, signer, tenant, origin=origin) as ws:
            assert ws.response is not None
            assert ws.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS


def test_a_tenant_gets_nothing_of_another(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    with rest_of(web, signer, f"{tenant}-2") as theirs:
        run_id = theirs.start("plan")
        with (
            open_socket(web, signer, tenant, "?after=0") as ws,
            open_socket(web, signer, tenant, f"?after=0&runId={run_id}") as of_theirs,
            open_lines(web, signer, tenant, "?after=0&dagId=plan") as lines,
        ):
            theirs.start("plan")
            mine = rest.start("plan")
            assert {event["tenant"] for event in received(ws, 2) + received(lines, 2)} == {tenant}
            with pytest.raises(TimeoutError):
                ws.recv(timeout=0.3)
            with pytest.raises(TimeoutError):
                of_theirs.recv(timeout=0.1)
            assert rest.run(mine)["status"] == "running"


def test_the_cursor_of_any_line_resumes_behind_it(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    for _ in range(3):
        rest.start("plan")
    with open_socket(web, signer, tenant, "?after=0") as ws:
        events = received(ws, 3 * EVENTS_OF_A_START)
    for place, event in enumerate(events):
        with open_lines(web, signer, tenant, f"?after={event['cursor']}") as lines:
            run_id = rest.start("other") if place == len(events) - 1 else None
            rest_of_them = received(lines, len(events) - place - 1)
            assert rest_of_them == events[place + 1 :]
            if run_id is not None:
                assert received(lines, 1)[0]["runId"] == run_id


def test_the_place_where_a_stream_begins_resumes_it_before_any_line(
    web: Web, signer: Signer, rest: Rest, tenant: str
) -> None:
    with open_socket(web, signer, tenant) as ws:
        assert ws.response is not None
        begins = ws.response.headers["X-Stream-Cursor"]
    run_id = rest.start("plan")
    with open_socket(web, signer, tenant, f"?after={begins}") as ws:
        assert received(ws, 1)[0]["runId"] == run_id


def test_who_comes_from_a_server_that_was_ahead_gets_nothing_twice(
    web: Web, signer: Signer, rest: Rest, tenant: str, servers: Servers, database: str
) -> None:
    run_id = rest.start("plan")
    with (
        open_socket(web, signer, tenant, "?after=0") as follows,
        psycopg2.connect(servers.url(database, user="postgres")) as owner,
        owner.cursor() as cur,
        ThreadPoolExecutor(1) as thread,
    ):
        received(follows, EVENTS_OF_A_START)
        with frozen(web):
            cur.execute(MANY_CHANGES, (run_id,))
            owner.commit()
            cur.execute("SELECT max(xid)::text, max(event_id) FROM orch.events WHERE run_id = %s", (run_id,))
            xid, event_id = one(cur.fetchone())
            comes = thread.submit(open_socket, web, signer, tenant, f"?after={xid}.{event_id}")
        # It reads for a while until it knows what the client knows.
        with comes.result() as ahead:
            next_id = rest.start("plan")
            assert received(ahead, 1)[0]["runId"] == next_id


def test_events_that_another_process_writes_come_without_a_hint_too(
    web: Web, signer: Signer, rest: Rest, tenant: str, servers: Servers, database: str
) -> None:
    run_id = rest.start("plan")
    with open_socket(web, signer, tenant) as ws:
        with psycopg2.connect(servers.url(database, user="postgres")) as owner, owner.cursor() as cur:
            cur.execute(
                "SELECT orch.record(r, 'run.updated', '{}') FROM orch.runs AS r WHERE r.run_id = %s",
                (run_id,),
            )
        assert received(ws, 1)[0]["type"] == "run.updated"


def test_an_event_waits_for_older_transactions_and_is_not_lost(
    web: Web, signer: Signer, rest: Rest, tenant: str, servers: Servers, database: str
) -> None:
    first = rest.start("plan")
    with (
        psycopg2.connect(servers.url(database, user="postgres")) as owner,
        owner.cursor() as cur,
        open_socket(web, signer, tenant) as ws,
    ):
        cur.execute(
            "SELECT orch.record(r, 'run.updated', '{}') FROM orch.runs AS r WHERE r.run_id = %s", (first,)
        )
        second = rest.start("plan")
        with pytest.raises(TimeoutError):
            ws.recv(timeout=1.5)
        owner.commit()
        assert [event["runId"] for event in received(ws, 3)] == [first, second, second]


def test_idle_streams_get_heartbeats(web: Web, signer: Signer, tenant: str) -> None:
    headers = {"Authorization": f"Bearer {signer.token({'tenant': tenant})}", "X-Stella-Tenant": tenant}
    with httpx.stream("GET", f"{address(web)}{STREAM}", headers=headers, timeout=5) as response:
        pieces = response.iter_raw()
        assert [next(pieces) for _ in range(3)] == [b"\n"] * 3
    key = "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw=="
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", key)
    with socket.create_connection(web.address, timeout=5) as connection:
        connection.sendall(web.head("GET", "/runs/stream", *upgrade) + b"\r\n")
        answer = b""
        while not answer.endswith(b"\x89\x00"):
            answer += some(connection)
    assert answer.startswith(b"HTTP/1.1 101 ")


def test_a_stream_ends_with_its_token(web: Web, signer: Signer, tenant: str) -> None:
    token = signer.token({"tenant": tenant, "exp": time.time() + 1.5})
    headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": tenant}
    with (
        connect(f"{address(web, 'ws')}{STREAM}", additional_headers=headers) as ws,
        httpx.stream("GET", f"{address(web)}{STREAM}", headers=headers, timeout=5) as response,
    ):
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        # Its last chunk says that the body is whole.
        assert set(response.iter_raw()) == {b"\n"}
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "the token has expired")
    assert refused(web, token, X_Stella_Tenant=tenant)[0] == 401


def test_there_are_no_more_streams_than_a_tenant_and_the_process_may_have(
    web: Web, signer: Signer, tenant: str
) -> None:
    mine = [open_socket(web, signer, tenant) for _ in range(8)]
    status, error = refused(web, signer.token({"tenant": tenant}), X_Stella_Tenant=tenant)
    assert (status, error["code"]) == (429, "RATE_LIMITED")
    others = [open_socket(web, signer, f"{tenant}-2") for _ in range(4)]
    status, error = refused(web, signer.token({"tenant": "acme"}), X_Stella_Tenant="acme")
    assert (status, error["code"]) == (503, "UNAVAILABLE")
    for ws in [*mine, *others]:
        ws.close()
    eventually(lambda: _opens(web, signer, tenant))


def _opens(web: Web, signer: Signer, tenant: str) -> bool:
    try:
        open_socket(web, signer, tenant).close()
    except InvalidStatus:
        return False
    return True


def test_no_thread_is_held_and_requests_are_served_beside_streams(
    web: Web, signer: Signer, rest: Rest, tenant: str
) -> None:
    """There are two threads, and twelve streams."""
    sockets = [open_socket(web, signer, tenant) for _ in range(8)]
    with web.client() as client:
        for _ in range(20):
            assert client.get("/runs").elapsed.total_seconds() < 1
    run_id = rest.start("plan")
    for ws in sockets:
        assert received(ws, 1)[0]["runId"] == run_id
        ws.close()


def test_streams_are_counted(web: Web, signer: Signer, tenant: str) -> None:
    def open_now() -> float:
        token = signer.token({"tenant": None, "tenants": ["*"]})
        headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": "*"}
        page = httpx.get(f"{address(web)}{BASE}/admin/metrics", headers=headers).text
        assert "orchestrator_stream_ledger_unread_total 0.0" in page
        (line,) = (line for line in page.splitlines() if line.startswith("orchestrator_streams_open "))
        return float(line.split()[1])

    eventually(lambda: open_now() == 0)
    sockets = [open_socket(web, signer, tenant) for _ in range(3)]
    eventually(lambda: open_now() == 3)
    for ws in sockets:
        ws.close()
    eventually(lambda: open_now() == 0)


def test_an_answer_without_chunks_ends_with_its_connection(
    web: Web, signer: Signer, rest: Rest, tenant: str
) -> None:
    run_id = rest.start("plan")
    head = web.head("GET", f"/runs/stream?after=0&runId={run_id}").replace(b"HTTP/1.1", b"HTTP/1.0")
    head = head.replace(web.token.encode(), signer.token({"tenant": tenant}).encode())
    head = head.replace(b"Tenant: acme", f"Tenant: {tenant}".encode())
    with socket.create_connection(web.address, timeout=5) as connection:
        connection.sendall(head + b"\r\n")
        answer = b""
        while answer.count(b'"cursor"') < EVENTS_OF_A_START:
            answer += some(connection)
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in fields
    assert [json.loads(line)["seq"] for line in body.splitlines() if line] == [1, 2]


def test_a_head_request_gets_the_head(web: Web, signer: Signer, rest: Rest) -> None:
    answer = rest.send("HEAD", "/runs/stream")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_client_that_sends_too_much_is_closed(web: Web, signer: Signer, tenant: str) -> None:
    with open_socket(web, signer, tenant) as ws:
        ws.send("x" * 5_000)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    with open_socket(web, signer, tenant) as ws:
        with suppress(ConnectionClosed):
            for _ in range(1_000):
                ws.send("hello")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


def test_what_is_no_frame_ends_the_stream(web: Web, signer: Signer, tenant: str) -> None:
    with open_socket(web, signer, tenant) as ws:
        ws.socket.sendall(b"\x81\x05hello")  # Not masked, as those of clients must be.
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1002


def test_a_server_that_stops_says_so_and_the_next_one_goes_on(
    tmp_path: Path, signer: Signer, servers: Servers, redis_url: str
) -> None:
    with servers.new_database() as name:
        cursors: list[str] = []
        for _ in range(2):
            with (
                serving(tmp_path, signer, servers.url(name), redis_url) as web,
                rest_of(web, signer, "acme") as rest,
            ):
                after = f"?after={cursors[-1]}" if cursors else "?after=0"
                first = open_socket(web, signer, "acme", after)
                with open_lines(web, signer, "acme", after) as lines:
                    run_id = rest.start("plan")
                    events = received(lines, 2)
                    assert received(first, 2) == events
                    assert [event["runId"] for event in events] == [run_id] * 2
                    cursors.append(events[-1]["cursor"])
                    began = time.monotonic()
                    web.process.send_signal(signal.SIGTERM)
                    with pytest.raises(ConnectionClosed) as closed:
                        first.recv(timeout=10)
                    assert closed.value.rcvd is not None
                    assert closed.value.rcvd.code == 1001
                    # The last chunk comes, so that nobody takes this for a broken connection.
                    assert list(lines) == []
                assert web.process.wait(timeout=10) == 0
                assert time.monotonic() - began < 8


def test_each_line_is_as_the_document_says(web: Web, signer: Signer, rest: Rest, tenant: str) -> None:
    run_id = rest.start("plan")
    headers = {"Authorization": f"Bearer {signer.token({'tenant': tenant})}", "X-Stella-Tenant": tenant}
    query = f"?after=0&runId={run_id}"
    with httpx.stream("GET", f"{address(web)}{STREAM}{query}", headers=headers, timeout=5) as response:
        pieces = (piece for piece in response.iter_raw() if piece.strip())
        checked = CheckedStream("GET", STREAM, 200, pieces)
        assert next(iter(checked)).count(b'"cursor"') >= 1
