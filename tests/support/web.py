"""The API as it is served: gunicorn with the project's own configuration, settings from the environment."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.eventually import eventually
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

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Give the lines of the log so far that tell of an event."""
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").split("\n") if line]
        return [line for line in lines if line["event"] == event]

    def head(self, method: str = "GET", path: str = "/plugins", *headers: str) -> bytes:
        """Write the head of a request of tenant acme, without the empty line at its end."""
        lines = (
            f"{method} {BASE}{path} HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {self.token}",
            "X-Stella-Tenant: acme",
            *headers,
        )
        return "\r\n".join(lines).encode("latin-1") + b"\r\n"

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


@contextmanager
def serving(
    folder: Path,
    signer: Signer,
    database_url: str,
    redis_url: str,
    *options: str,
    code: str = "",
    **environ: str,
) -> Iterator[Web]:
    """Start gunicorn on a free port, and end it afterwards, whatever happened.

    ``code`` is the folder of another release.
    """
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
        **environ,
    }
    log = folder / "web.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "python:orchestrator_api.gunicorn_conf", *options],
            env=environment,
            cwd=code or None,
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
