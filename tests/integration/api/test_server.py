"""The API as it is served: gunicorn with the project's own configuration, settings from the environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from orchestrator_api import json_body
from tests.support.eventually import eventually
from tests.support.servers import Servers
from tests.support.tokens import Signer, jwks

BASE = "/api/v1/orchestrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """A running web process."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    log: Path
    token: str

    def client(self) -> httpx.Client:
        host, port = self.address
        headers = {"Authorization": f"Bearer {self.token}", "X-Stella-Tenant": "acme"}
        return httpx.Client(base_url=f"http://{host}:{port}{BASE}", headers=headers, trust_env=False)

    def raw(self, request: bytes) -> bytes:
        """Send bytes and read until the server closes."""
        with socket.create_connection(self.address, timeout=10) as connection:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
            return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        serving(folder, signer, servers.url(name), redis_url) as running,
    ):
        yield running


@contextmanager
def serving(folder: Path, signer: Signer, database_url: str, redis_url: str, **more: str) -> Iterator[Web]:
    """Start gunicorn on a free port, and end it afterwards, whatever happened."""
    (folder / "jwks.json").write_text(jwks(signer))
    secret = folder / "secret"
    secret.write_bytes(b"k" * 32)
    secret.chmod(0o600)
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ORCH_")},
        "ORCH_DATABASE_URL": database_url,
        "ORCH_REDIS_URL": redis_url,
        "ORCH_JWKS_FILE": str(folder / "jwks.json"),
        "ORCH_SECRET_FILE": str(secret),
        "ORCH_ARTIFACTS_URL": f"file://{folder}/artifacts",
        "ORCH_PORT": str(port),
        "ORCH_WEB_THREADS": "2",
        **more,
    }
    log = folder / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "python:orchestrator_api.gunicorn_conf"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    running = Web(process=process, address=("127.0.0.1", port), log=log, token=signer.token())
    try:
        eventually(lambda: is_listening(running), within=30)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        finally:
            process.kill()


def is_listening(web: Web) -> bool:
    assert web.process.poll() is None, web.log.read_text()
    with socket.socket() as probe:
        return probe.connect_ex(web.address) == 0


def test_requests_are_served_on_one_connection(web: Web) -> None:
    with web.client() as client:
        assert client.get("/plugins").status_code == 200
        listed = client.get("/runs")
        assert (listed.status_code, listed.json()) == (200, {"items": []})


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused_in_the_envelope(web: Web, request_bytes: bytes, status: bytes) -> None:
    head, _, body = web.raw(request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"X-Trace-Id: " in head
    assert set(json.loads(body)["error"]) == {"code", "message", "trace_id"}


def test_a_chunked_body_is_bounded_and_a_broken_one_refused(web: Web) -> None:
    pieces = (b" " * 1_000_000 for _ in range(json_body.MAX_BODY_BYTES // 1_000_000 + 1))
    with web.client() as client:
        large = client.post(
            "/runs", content=pieces, headers={"Content-Type": "application/json", "Idempotency-Key": "k"}
        )
        assert (large.status_code, large.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
    broken = web.raw(
        f"POST {BASE}/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {web.token}\r\n"
        "X-Stella-Tenant: acme\r\nIdempotency-Key: k2\r\nContent-Type: application/json\r\n"
        "Connection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode()
    )
    assert b" 400 " in broken.partition(b"\r\n")[0]
    assert b"INVALID_JSON" in broken


def test_the_process_ends_when_told_and_logs_json_only(
    tmp_path: Path, signer: Signer, database_url: str, redis_url: str
) -> None:
    with serving(tmp_path, signer, database_url, redis_url) as web:
        with web.client() as client:
            client.get("/runs")
        web.raw(b"nonsense\r\n\r\n")
        web.process.send_signal(signal.SIGTERM)
        assert web.process.wait(timeout=15) == 0
    lines = [json.loads(line) for line in web.log.read_text().splitlines()]
    assert {line["component"] for line in lines} == {"web"}
