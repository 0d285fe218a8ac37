"""The access log: one line a request, with its ids and without its secrets."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import BASE, Web, serving

FIELDS = {
    "bytes",
    "component",
    "duration_ms",
    "event",
    "level",
    "logger",
    "method",
    "path",
    "remote",
    "route",
    "status",
    "subject",
    "tenant",
    "timestamp",
    "trace_id",
}


@pytest.fixture
def web(tmp_path: Path, signer: Signer, database_url: str, redis_url: str) -> Iterator[Web]:
    """A web process with one thread, which serves one request after another."""
    with serving(tmp_path, signer, database_url, redis_url, ORCH_WEB_THREADS="1") as running:
        yield running


def test_a_line_has_who_what_and_how_it_went(web: Web) -> None:
    with web.client() as client:
        answer = client.get("/runs?dagId=secret-name")
        missing = client.head(f"/runs/{'0' * 8}-0000-7000-8000-{'0' * 12}")
        eventually(lambda: len(web.lines("request")) == 2)
    first, second = web.lines("request")
    assert set(first) == FIELDS
    assert first["trace_id"] == answer.headers["X-Trace-Id"]
    assert (first["tenant"], first["subject"], first["remote"]) == ("acme", "ci", "127.0.0.1")
    assert (first["method"], first["path"], first["route"]) == ("GET", f"{BASE}/runs", f"{BASE}/runs")
    assert (first["status"], first["bytes"]) == (200, len(answer.content))
    assert 0 < first["duration_ms"] < 10_000
    assert second["route"] == f"{BASE}/runs/{{run_id}}"
    assert (second["status"], second["bytes"], "aborted" in second) == (missing.status_code, 0, False)


def test_no_secret_of_a_request_is_in_the_log(web: Web) -> None:
    secret = "hunter2hunter2"  # That is the point.
    with web.client() as client:
        client.get(
            f"/runs?dagId={secret}&page_token={secret}", headers={"Cookie": secret, "X-Secret": secret}
        )
        client.get(f"/runs/{web.token}")
        key = {"Idempotency-Key": secret}
        client.post("/runs", json={"dagId": "absent", "inputs": {"password": secret}}, headers=key)
        client.get("/runs", headers={"Authorization": f"Bearer {secret}.{secret}.{secret}"})
    web.raw(f"GET /?token={secret} HTTP/9\r\nX: {secret}\r\n\r\n".encode())
    eventually(lambda: len(web.lines("request")) == 5)
    text = web.log.read_text()
    assert secret not in text
    assert web.token.split(".")[2] not in text


def test_nothing_in_a_request_ends_a_line(web: Web, signer: Signer) -> None:
    subject = 'a\r\n{"event": "request"}\u2028b\u0085c\x1b[2J'
    headers = {"Authorization": f"Bearer {signer.token({'sub': subject})}"}
    with web.client() as client:
        client.get("/runs/a%0d%0ab%E2%80%A8", headers=headers)
    eventually(lambda: web.lines("request"))
    text = web.log.read_text(encoding="utf-8")
    assert text.isascii()
    (line,) = [line for line in map(json.loads, text.splitlines()) if line["event"] == "request"]
    assert (line["subject"], line["path"]) == (subject, f"{BASE}/runs/a%0d%0ab%E2%80%A8")


def test_a_request_that_the_server_refuses_has_a_line_of_its_own(web: Web) -> None:
    """It is served by the same thread as the request of a tenant before, and is not that tenant's."""
    with web.client() as client:
        client.get("/runs")
    answer = web.raw(b"GET / HTTP/9.9\r\n\r\n")
    folded = web.raw(web.head("GET", "/runs", "Expect: the-unexpected") + b"\r\n")
    eventually(lambda: len(web.lines("request")) == 3)
    _, refused, expected = web.lines("request")
    assert (refused["status"], refused["refused_by"]) == (400, "server")
    assert refused["trace_id"].encode() in answer
    assert "tenant" not in refused
    assert "subject" not in refused
    assert expected["trace_id"].encode() in folded


def test_a_request_without_a_route_or_a_caller_has_a_line(web: Web) -> None:
    web.raw(b"GET /evil HTTP/1.0\r\n\r\n")
    eventually(lambda: web.lines("request"))
    (line,) = web.lines("request")
    assert (line["status"], line["path"]) == (404, "/evil")
    assert (line["route"], line["tenant"], line["subject"]) == (None, None, None)


def test_the_access_log_can_be_turned_off(
    tmp_path: Path, signer: Signer, servers: Servers, database_url: str, redis_url: str
) -> None:
    with serving(tmp_path, signer, database_url, redis_url, ORCH_ACCESS_LOG="off") as web:
        with web.client() as client:
            client.get("/runs")
        web.raw(b"nonsense\r\n\r\n")
        web.process.send_signal(signal.SIGTERM)
        assert web.process.wait(timeout=15) == 0
        assert web.lines("request") == []
