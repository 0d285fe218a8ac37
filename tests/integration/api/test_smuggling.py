"""Requests with two readings, against the real server: each is refused, or read in the one safe way.

Every test sends bytes, closes its side, and counts the answers: one more than there are
requests would be the answer to a request that was smuggled in.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

EVIL = b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + EVIL


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        serving(folder, signer, servers.url(name), redis_url) as running,
    ):
        yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        error = json.loads(self.body)["error"]
        assert set(error) - {"details"} == {"code", "message", "trace_id"}
        assert error["trace_id"] == self.headers["x-trace-id"]
        return str(error["code"])


class _Stream(io.BytesIO):
    """What was received, as the socket that ``http.client`` reads one response after another from."""

    def makefile(self, _mode: str) -> _Stream:
        return self

    def close(self) -> None:
        pass


def answers(web: Web, request: bytes) -> list[Answer]:
    """Send bytes and nothing more; give all answers, up to the end of the connection."""
    with socket.create_connection(web.address, timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                received += piece
    stream, found = _Stream(received), []
    while stream.tell() < len(received):
        response = http.client.HTTPResponse(stream)  # type: ignore[arg-type]  # All it needs is ``makefile``.
        response.begin()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        found.append(Answer(status=response.status, headers=headers, body=body))
    return found


def statuses(web: Web, request: bytes) -> list[int]:
    found = answers(web, request)
    for answer in found:
        if answer.status >= 400:
            assert answer.code
    return [answer.status for answer in found]


def post(web: Web, *headers: str, body: bytes = b"") -> bytes:
    own = ("Content-Type: application/json", f"Idempotency-Key: {uuid4()}")
    return web.head("POST", "/runs", *own, *headers) + b"\r\n" + body


FRAMING: dict[str, tuple[str, ...]] = {
    "length and chunks": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunks and length": ("Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": ("Content-Length: 5", "Content-Length: 6"),
    "twice the same length": ("Content-Length: 5", "Content-Length: 5"),
    "two lengths in one": ("Content-Length: 5, 5",),
    "signed length": ("Content-Length: +5",),
    "negative length": ("Content-Length: -5",),
    "length in hex": ("Content-Length: 0x5",),
    "length in another script": ("Content-Length: \xb2",),
    "empty length": ("Content-Length:",),
    "length with a word": ("Content-Length: 5 bytes",),
    "length of chunks": ("Content-Length: chunked",),
    "chunks of another name": ("Transfer-Encoding: xchunked",),
    "chunks not last": ("Transfer-Encoding: chunked, identity",),
    "chunks of chunks": ("Transfer-Encoding: chunked, chunked",),
    "chunks in two headers": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "chunks and nonsense": ("Transfer-Encoding: chunked", "Transfer-Encoding: cow"),
    "identity": ("Transfer-Encoding: identity",),
    "compressed": ("Transfer-Encoding: gzip",),
    "chunks in quotes": ('Transfer-Encoding: "chunked"',),
    "chunks after a control character": ("Transfer-Encoding: \x0bchunked",),
    "chunks after a NUL": ("Transfer-Encoding: \x00chunked",),
    "space before the colon": ("Transfer-Encoding : chunked",),
    "tab before the colon": ("Transfer-Encoding\t: chunked",),
    "folded": ("Transfer-Encoding:\r\n chunked",),
    "folded length": ("Content-Length:\r\n\t5",),
    "bare line feed": ("X: y\nTransfer-Encoding: chunked",),
    "bare carriage return": ("X: y\rTransfer-Encoding: chunked",),
    "line without a colon": ("Transfer-Encoding chunked",),
    "line that begins with a colon": (": chunked",),
    "line that begins with a space": (" X: y",),
    "name with a space": ("Transfer Encoding: chunked",),
    "name in another script": ("Tr\xe4nsfer-Encoding: chunked",),
    "two hosts": ("Host: y",),
    "two types": ("Content-Type: application/json",),
    "NUL in a value": ("X: a\x00b",),
    "expectation that nobody knows": ("Expect: the-unexpected",),
}


@pytest.mark.parametrize("headers", FRAMING.values(), ids=FRAMING.keys())
def test_a_head_with_two_readings_is_refused_and_ends_the_connection(
    web: Web, headers: tuple[str, ...]
) -> None:
    found = answers(web, post(web, *headers, body=CHUNKED))
    assert [(answer.status, answer.code) for answer in found] == [(400, "INVALID_ARGUMENT")]
    assert found[0].headers["connection"] == "close"


CHUNKS: dict[str, bytes] = {
    "size in another notation": b"0x2\r\n{}\r\n",
    "negative size": b"-2\r\n{}\r\n",
    "signed size": b"+2\r\n{}\r\n",
    "size with an underscore": b"0_2\r\n{}\r\n",
    "no size": b"\r\n{}\r\n",
    "space before the size": b" 2\r\n{}\r\n",
    "space behind the size": b"2 \r\n{}\r\n",
    "size that ends with a line feed": b"2\n{}\r\n",
    "extension with a line feed": b"2;a\nb\r\n{}\r\n",
    "extension with a carriage return": b"2;a\rb\r\n{}\r\n",
    "extension without a name": b"2;=b\r\n{}\r\n",
    "endless extension": b"2;" + b"a" * 20_000,
    "data longer than its size": b"2\r\n{}}\r\n",
    "data that ends with a line feed": b"2\r\n{}\n",
    "trailer that sets a length": b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer that names a host": b"2\r\n{}\r\n0\r\nHost: evil\r\n\r\n",
    "trailer with a bare line feed": b"2\r\n{}\r\n0\r\nX: y\nZ: z\r\n\r\n",
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_chunks_with_two_readings_are_refused_and_end_the_connection(web: Web, chunks: bytes) -> None:
    found = answers(web, post(web, "Transfer-Encoding: chunked", body=chunks + b"0\r\n\r\n" + EVIL))
    assert [(answer.status, answer.code) for answer in found] == [(400, "INVALID_JSON")]
    assert found[0].headers["connection"] == "close"


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS.keys())
def test_chunks_that_nobody_reads_get_no_second_answer(web: Web, chunks: bytes) -> None:
    head = b"POST /evil HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert statuses(web, head + chunks + b"0\r\n\r\n" + EVIL) == [404]


READ: dict[str, tuple[tuple[str, ...], bytes]] = {
    "chunks": (("Transfer-Encoding: chunked",), b"2\r\n{}\r\n0\r\n\r\n"),
    "chunks in capitals": (("Transfer-Encoding: CHUNKED",), b"2\r\n{}\r\n0\r\n\r\n"),
    "chunk with an extension": (("Transfer-Encoding: chunked",), b'2;a=b;c="d e"\r\n{}\r\n0\r\n\r\n'),
    "chunks with a trailer": (("Transfer-Encoding: chunked",), b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
    "length with zeros before it": (("Content-Length: 0002",), b"{}"),
    "underscores are no hyphens": (("Content-Length: 2", "Transfer_Encoding: chunked"), b"{}"),
}


@pytest.mark.parametrize(("headers", "body"), READ.values(), ids=READ.keys())
def test_a_body_with_one_reading_is_read_and_the_next_request_served(
    web: Web, headers: tuple[str, ...], body: bytes
) -> None:
    assert statuses(web, post(web, *headers, body=body) + EVIL) == [422, 404]


LINES: dict[str, tuple[bytes, list[int]]] = {
    "no version": (b"GET /\r\n\r\n", [400]),
    "version 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "version that is none": (b"GET / HTTP/1.1.1\r\nHost: x\r\n\r\n", [400]),
    "small version": (b"GET / http/1.1\r\nHost: x\r\n\r\n", [400]),
    "line feeds only": (b"GET /evil HTTP/1.1\nHost: x\n\n", [400]),
    "space within the path": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "tab for a space": (b"GET\t/evil HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "bytes beyond ASCII": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "method in small letters": (b"get /evil HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "path of another form": (b"GET evil HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
    "one empty line before": (b"\r\n" + EVIL, [404]),
    "two empty lines before": (b"\r\n\r\n" + EVIL, [400]),
    "whole address": (b"GET http://other/evil HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "version 1.0": (b"GET /evil HTTP/1.0\r\n\r\n" + EVIL, [404]),
    "version 1.0 kept alive": (b"GET /evil HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + EVIL, [404, 404]),
    "version 1.0 with chunks": (
        b"POST /evil HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
        [400],
    ),
    "tunnel": (b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n" + EVIL, [404]),
    "all of the server": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
    "upgrade to HTTP/2": (
        b"GET /evil HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + EVIL,
        [404, 404],
    ),
    "upgrade to a socket": (
        b"GET /evil HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + EVIL,
        [404, 404],
    ),
    "name of the application": (b"GET /evil HTTP/1.1\r\nHost: x\r\nScript_Name: /x\r\n\r\n", [404]),
    "scheme of two proxies": (
        b"GET /evil HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n",
        [404],
    ),
    "body of a GET": (
        b"GET /evil HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL,
        [404],
    ),
    "two in a row": (EVIL + EVIL, [404, 404]),
}


@pytest.mark.parametrize(("request_bytes", "expected"), LINES.values(), ids=LINES.keys())
def test_each_request_line_has_one_reading(web: Web, request_bytes: bytes, expected: list[int]) -> None:
    assert statuses(web, request_bytes) == expected


@pytest.mark.parametrize(
    "method", ["TRACE", "TRACK", "PROPFIND", "PURGE", "OPTIONS", "PATCH", "CONNECT", "BREW"]
)
def test_a_method_that_a_route_does_not_take_is_told_the_right_ones(web: Web, method: str) -> None:
    (answer,) = answers(web, web.head(method, "/runs") + b"\r\n")
    assert (answer.status, answer.code) == (405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(web: Web) -> None:
    with socket.create_connection(web.address, timeout=10) as connection:
        connection.sendall(post(web, "Expect: 100-continue", "Content-Length: 2", "Connection: close"))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(12) == b"HTTP/1.1 422"


HEADERS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "two tokens": (("Authorization: Bearer a.b.c",), 401, "UNAUTHENTICATED"),
    "two tenants": (("X-Stella-Tenant: globex",), 400, "INVALID_ARGUMENT"),
    "twice the same tenant": (("X-Stella-Tenant: acme",), 400, "INVALID_ARGUMENT"),
    "65 headers": (tuple(f"X-{n}: y" for n in range(64)), 431, "INVALID_ARGUMENT"),
    "a large header": (("X: " + "y" * 9_000,), 431, "INVALID_ARGUMENT"),
    "much in all": (tuple(f"X-{n}: {'y' * 8_000}" for n in range(5)), 431, "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize(("more", "status", "code"), HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_come_twice_or_too_large_are_refused(
    web: Web, more: tuple[str, ...], status: int, code: str
) -> None:
    (answer,) = answers(web, web.head("GET", "/plugins", *more) + b"\r\n")
    assert (answer.status, answer.code) == (status, code)


def test_two_idempotency_keys_are_not_taken_for_one(web: Web) -> None:
    (answer,) = answers(web, post(web, "Idempotency-Key: l", "Content-Length: 2", body=b"{}"))
    assert (answer.status, answer.code) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("tenant", ["\xe4cme", "ac me", "acme, globex", "ACME", "acme\t", "%61cme", "a" * 64])
def test_a_tenant_of_other_characters_is_refused(web: Web, tenant: str) -> None:
    head = f"GET {BASE}/plugins HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {web.token}\r\n"
    (answer,) = answers(web, (head + f"X-Stella-Tenant: {tenant}\r\n\r\n").encode("latin-1"))
    expected = 200 if tenant == "acme\t" else 400
    assert answer.status == expected, "white space around a value is no part of it"


REFLECTED = [
    "/dags/a%0d%0aX-Evil:%20y/1.0.0",
    "/runs/%0d%0aX-Evil:%20y",
    "/runs/x%0aX-Evil:y:cancel",
    "/runs?page_token=%0d%0aX-Evil:%20y",
    "/evil%0d%0aX-Evil:%20y",
    "/artifacts/%0d%0aX-Evil:y",
]


@pytest.mark.parametrize("path", REFLECTED)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_line_ends_in_a_path_make_no_header(web: Web, path: str, method: str) -> None:
    (answer,) = answers(web, web.head(method, path) + b"\r\n")
    assert answer.status in (400, 404, 405)
    assert answer.code
    assert "x-evil" not in answer.headers


@pytest.mark.parametrize(
    "given", ["x", "00-\xff", "00-" + "1" * 32 + "-" + "2" * 16 + "-01, x", "%0d%0aX-Evil: y"]
)
def test_a_trace_that_is_none_is_not_reflected(web: Web, given: str) -> None:
    (answer,) = answers(
        web, web.head("GET", "/plugins", f"traceparent: {given}", f"tracestate: {given}") + b"\r\n"
    )
    assert answer.status == 200
    assert len(answer.headers["x-trace-id"]) == 32
    assert answer.headers["x-trace-id"] != "1" * 32


def test_two_traces_are_none(web: Web) -> None:
    own = [f"traceparent: 00-{digit * 32}-{digit * 16}-01" for digit in "12"]
    (answer,) = answers(web, web.head("GET", "/plugins", *own) + b"\r\n")
    assert answer.headers["x-trace-id"] not in ("1" * 32, "2" * 32)
