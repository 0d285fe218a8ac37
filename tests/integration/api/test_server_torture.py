"""What only a real server can be sent: chunks, doubled headers, bodies that nobody asked for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest

from orchestrator_api import json_body
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

REFUSALS = {400, 404, 405, 406, 413, 414, 415, 422, 431}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("torture")
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        serving(folder, signer, servers.url(name), redis_url) as running,
    ):
        yield running


def head(web: Web, line: str, *headers: str) -> bytes:
    fixed = ["Host: x", f"Authorization: Bearer {web.token}", "X-Stella-Tenant: acme", "Idempotency-Key: k"]
    return "\r\n".join([line, *fixed, *headers, "", ""]).encode("latin-1")


def answer(web: Web, request: bytes) -> tuple[int, dict[str, object]]:
    """Send a request; hold the answer to what holds for every refusal."""
    raw_head, _, body = web.raw(request).partition(b"\r\n\r\n")
    assert len(body) <= 16_384
    status = int(raw_head.split()[1])
    assert status in REFUSALS, raw_head
    assert b"X-Trace-Id: " in raw_head
    error: dict[str, object] = json.loads(body)["error"]
    assert set(error) - {"details"} == {"code", "message", "trace_id"}
    return status, error


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("size", "status"), [(json_body.MAX_BODY_BYTES, 422), (json_body.MAX_BODY_BYTES + 1, 413)]
)
def test_the_limit_of_a_body_is_kept_to_the_byte(web: Web, size: int, status: int, chunked: bool) -> None:
    body = b"{" + b" " * (size - 2) + b"}"
    with web.client() as client:
        response = client.post(
            "/dags",
            content=iter([body[:1_000_000], body[1_000_000:]]) if chunked else body,
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": f"{size} {chunked}".replace(" ", ""),
            },
        )
        assert response.status_code == status, response.text
        # The connection is in step again, or closed: the next answer is that of the next request.
        assert client.get("/plugins").json()["items"]


def test_a_body_that_is_announced_too_large_is_not_waited_for(web: Web) -> None:
    for length in ("8388609", "99999999999999999999"):
        request = head(
            web, f"POST {BASE}/dags HTTP/1.1", "Content-Type: application/json", f"Content-Length: {length}"
        )
        assert answer(web, request)[0] == 413


@pytest.mark.parametrize("length", ["-1", "+2", "0x2", "2 ", "2, 2", "two", ""])
def test_an_odd_length_is_no_request(web: Web, length: str) -> None:
    request = head(
        web,
        f"POST {BASE}/dags HTTP/1.1",
        "Connection: close",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    )
    status, _ = answer(web, request + b"{}")
    assert status in ((422,) if length == "2 " else (400, 422))


@pytest.mark.parametrize("other", ["text/plain", "application/json"])
def test_two_content_types_are_no_request(web: Web, other: str) -> None:
    types = ["Content-Type: application/json", f"Content-Type: {other}"]
    request = head(web, f"POST {BASE}/dags HTTP/1.1", "Connection: close", "Content-Length: 2", *types)
    assert answer(web, request + b"{}")[0] == 400


def test_a_compressed_body_is_refused(web: Web) -> None:
    body = gzip.compress(b"{}")
    request = head(
        web,
        f"POST {BASE}/dags HTTP/1.1",
        "Connection: close",
        "Content-Type: application/json",
        "Content-Encoding: gzip",
        f"Content-Length: {len(body)}",
    )
    assert answer(web, request + body)[0] == 415


@pytest.mark.parametrize(
    "target",
    [
        "/%00",
        "/runs/%00",
        "/runs/\x00",
        "/runs/\xff",
        "/runs/a b",
        "/runs/%ff?status=%ff",
        "//runs",
        "/./runs",
        "/../../etc/passwd",
        "/runs/%2e%2e%2f%2e%2e",
        "/runs/" + "x" * 9_000,
        "/runs?" + "x=1&" * 2_000 + "y",
        "/runs?" + "x" * 9_000,
    ],
    ids=range(13),
)
def test_an_odd_target_is_refused(web: Web, target: str) -> None:
    request = head(web, f"GET {BASE}{target} HTTP/1.1", "Connection: close")
    answer(web, request)


@pytest.mark.parametrize(
    "header",
    [
        "X-Stella-Tenant: ac\x00me",
        "Idempotency-Key: \x00",
        "traceparent: \x00",
        "X: a\rb",
        "X\x00: a",
        " X: a",
        "X : a",
    ],
)
def test_a_header_with_what_no_header_has_is_no_request(web: Web, header: str) -> None:
    request = head(web, f"GET {BASE}/plugins HTTP/1.1", "Connection: close", header)
    assert answer(web, request)[0] == 400


def test_a_body_that_nobody_asked_for_does_not_shift_the_next_request(web: Web) -> None:
    with web.client() as client:
        for body in (b"{", b"GET /smuggled HTTP/1.1\r\n\r\n", b"x" * 10_000):
            assert client.request("GET", "/plugins", content=body).status_code == 200
            assert client.request("GET", "/nothing", content=body).status_code == 404
            assert client.request("PATCH", "/dags", content=body).status_code == 405
            assert client.get("/runs").json() == {"items": []}


def test_the_answer_to_head_has_the_headers_of_the_refusal_and_no_body(web: Web) -> None:
    with web.client() as client:
        for path, status in (("/nothing", 404), ("/runs/x", 400), ("/runs?x=1", 400), ("/dags/a/1.0.0", 404)):
            response = client.head(path)
            assert (response.status_code, response.content) == (status, b"")
            assert response.headers["Content-Type"] == "application/json; charset=utf-8"
            assert response.headers["X-Trace-Id"]
        assert client.get("/plugins").status_code == 200
