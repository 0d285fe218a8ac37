"""Many WebSocket clients of the event stream in one process: ``python -m bench.stream_reader``.

It reads one JSON object from its standard input, connects, says ``ready`` with the seconds that took, reads
until its standard input ends, and writes what it has found as JSON. It must cost little: frames are not taken
apart, lines are counted by how they end, and the last one of each read tells its time.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bench.api_client import API

_READ_BYTES: Final = 1 << 18
_END: Final = b'"}'
_TIME: Final = b'"timestamp":"'
_TIME_CHARS: Final = 24
_DESCRIPTORS_BESIDE: Final = 100


@dataclass(slots=True)
class _Client:
    sock: socket.socket
    lines: int = 0
    last_byte: bytes = b""


def main() -> None:
    """Serve one measurement."""
    wanted = json.loads(sys.stdin.readline())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted["active"] + wanted["idle"] + _DESCRIPTORS_BESIDE
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if most == -1 else min(most, needed), most))
    begun = time.monotonic()
    idle = [_Client(_connect(wanted, wanted["idle_as"])) for _ in range(wanted["idle"])]
    active = [_Client(_connect(wanted, wanted["active_as"])) for _ in range(wanted["active"])]
    _say({"ready": time.monotonic() - begun})
    _say(_read(active, idle))


def _read(active: list[_Client], idle: list[_Client]) -> dict[str, object]:
    """Read until the standard input ends; give the lines of each active client, and the delays of reads."""
    delays: list[float] = []
    broken = 0
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        for client in [*active, *idle]:
            selector.register(client.sock, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    return {"lines": [client.lines for client in active], "delays": delays, "broken": broken}
                data = key.data.sock.recv(_READ_BYTES)
                now = time.time()
                if not data:
                    broken += 1
                    selector.unregister(key.data.sock)
                key.data.lines += (key.data.last_byte + data).count(_END)
                key.data.last_byte = data[-1:]
                at = data.rfind(_TIME) + len(_TIME)
                text = data[at : at + _TIME_CHARS]
                if at >= len(_TIME) and len(text) == _TIME_CHARS:
                    delays.append(now - datetime.fromisoformat(text.decode()).timestamp())


def _connect(wanted: dict[str, Any], who: dict[str, str]) -> socket.socket:
    sock = socket.create_connection((wanted["host"], wanted["port"]))
    head = (
        f"GET {API}/runs/stream HTTP/1.1",
        f"Host: {wanted['host']}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
        f"Authorization: Bearer {who['token']}",
        f"X-Stella-Tenant: {who['tenant']}",
    )
    sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(_READ_BYTES)
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise RuntimeError(f"no WebSocket: {answer[:500]!r}")
    return sock


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
