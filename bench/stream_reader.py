"""Many WebSocket clients of the event stream in one process: ``python -m bench.stream_reader``.

It reads one JSON object (``Wanted``) from its standard input, connects, says ``ready`` with the seconds that
took, reads until its standard input ends, and writes what it has found as JSON (``Found``). For each empty
line it says how many clients are there again that had lost their connection: each goes on from its
cursor. The reader must cost little: what all clients get is parsed once, and each client is held to the same
lines in the same order.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import struct
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from datetime import datetime
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Final

from bench.api_client import API
from bench.frames import messages

_READ_BYTES: Final = 1 << 15
"""More would be fetched from the kernel for each read, and given back."""
_DESCRIPTORS_BESIDE: Final = 100
_AT_ONCE: Final = 64
"""So many clients of the first ones connect at a time. Those that lose their connection do not wait."""
RECONNECT_S: Final = 0.05
"""Before a client tries again that nobody, or a 503, has answered."""
_SAMPLED: Final = 10
"""Of every so many clients, one keeps note of when each run began."""
_SO_TIMESTAMPNS: Final = 35
_CURSOR_HEADER: Final = b"\r\nX-Stream-Cursor: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``tenants``: how many clients of each. The first gets the events; those of the others are idle."""

    host: str
    port: int
    token: str
    tenants: dict[str, int]


@dataclass(slots=True, kw_only=True)
class Found:
    """What clients of the first tenant got, all of them the same. Times are in seconds of the epoch."""

    lines: int = 0
    astray: int = 0
    """Clients that missed a line, got one twice, or in another order, or that were not there at the end."""
    broken: int = 0
    """Connections that ended."""
    refused: dict[str, int] = field(default_factory=dict)
    """By their status, or what else went wrong before a stream began."""
    delays: list[float] = field(default_factory=list)
    """From the time in a line to its arrival, of the last line of each read of each client."""
    begins: list[tuple[str, float]] = field(default_factory=list)
    """Runs, and when some of the clients learnt of the beginning of each."""
    connected_again: list[float] = field(default_factory=list)
    heard_again: list[float] = field(default_factory=list)
    """The first line that a client got after it had to connect again."""


@dataclass(slots=True)
class _Client:
    tenant: str
    sampled: bool
    sock: socket.socket | None = None
    begun: bool = False
    """The server has accepted it as a WebSocket."""
    again: bool = False
    """It has lost a connection, and has heard nothing since."""
    rest: bytes = b""
    after: str = ""
    place: int = 0
    """How many lines it has got."""
    stray: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """What is known of a line: the clients only need to know which one it is."""

    place: int
    cursor: str
    at: float
    began: str
    """The run that it tells the beginning of, if it does."""


def main() -> None:
    """Serve one measurement."""
    wanted = Wanted(**json.loads(sys.stdin.readline()))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sum(wanted.tenants.values()) + _DESCRIPTORS_BESIDE
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if most == -1 else min(most, needed), most))
    reader = Reader(wanted)
    begun = time.monotonic()
    reader.connect()
    _say({"ready": time.monotonic() - begun})
    _say(asdict(reader.read()))


class Reader:
    """All the clients, in one thread."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._selector = selectors.DefaultSelector()
        self._clients = [
            _Client(tenant, sampled=number % _SAMPLED == 0)
            for tenant, count in wanted.tenants.items()
            for number in range(count)
        ]
        self._active = self._clients[: next(iter(wanted.tenants.values()))]
        self._waiting: deque[tuple[float, _Client]] = deque()
        self._open = 0
        self._known: dict[bytes, _Line] = {}
        self._found = Found()
        self._delays = array("d")
        self._refused: Counter[str] = Counter()

    def connect(self) -> None:
        """Connect all clients."""
        yet = deque(self._clients)
        under_way = 0
        while self._open < len(self._clients):
            while yet and under_way - self._open < _AT_ONCE:
                self._begin(yet.popleft())
                under_way += 1
            self._turn(0.02)
        if self._refused or self._found.broken:
            raise RuntimeError(f"not all clients could connect: {dict(self._refused)}")

    def read(self) -> Found:
        """Read until the standard input ends."""
        self._selector.register(sys.stdin, EVENT_READ)
        while self._turn(1.0):
            pass
        found = self._found
        found.lines = len(self._known)
        found.astray = sum(not client.begun for client in self._clients) + sum(
            client.stray or client.place != found.lines for client in self._active if client.begun
        )
        found.delays, found.refused = self._delays.tolist(), dict(self._refused)
        return found

    def _turn(self, seconds: float) -> bool:
        """Serve what is there; false at the end of the standard input."""
        if self._waiting:
            seconds = min(seconds, max(0.0, self._waiting[0][0] - time.monotonic()))
        for key, events in self._selector.select(seconds):
            if key.data is None:
                if not sys.stdin.readline():
                    return False
                _say({"heard_again": len(self._found.heard_again)})
                continue
            if events & EVENT_WRITE:
                self._ask(key.data)
            else:
                self._receive(key.data)
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._begin(self._waiting.popleft()[1])
        return True

    def _begin(self, client: _Client) -> None:
        client.sock = sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.connect_ex((self._wanted.host, self._wanted.port))
        self._selector.register(sock, EVENT_WRITE, client)

    def _ask(self, client: _Client) -> None:
        assert client.sock is not None
        if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(client, "nobody")
            return
        client.sock.send(
            handshake(self._wanted.host, self._wanted.token, client.tenant, after=client.after or None)
        )
        self._selector.modify(client.sock, EVENT_READ, client)

    def _receive(self, client: _Client) -> None:
        assert client.sock is not None
        try:
            data, ancillary, _, _ = client.sock.recvmsg(_READ_BYTES, 64)
        except OSError:
            data, ancillary = b"", []
        if not data:
            self._lose(client, "no answer")
            return
        if not client.begun:
            data = self._take_head(client, client.rest + data)
            client.rest = b""
            if not client.begun:
                client.rest = data
                return
        if data:
            # When it was there, however long this process took to come to it.
            at = _seconds(ancillary[0][2]) if ancillary else time.time()
            client.rest = self._take(client, client.rest + data, at)

    def _take_head(self, client: _Client, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return data
        status = head[9:12].decode()
        if status != "101":
            self._lose(client, status)
            return b""
        client.begun = True
        self._open += 1
        if not client.after:
            client.after = head.partition(_CURSOR_HEADER)[2].partition(b"\r\n")[0].decode()
        if client.again:
            self._found.connected_again.append(time.time())
        return rest

    def _take(self, client: _Client, data: bytes, at: float) -> bytes:
        texts, rest = messages(data)
        line = None
        for text in texts:
            line = self._known.get(text) or self._learn(text)
            client.stray |= line.place != client.place
            client.place = line.place + 1
            if line.began and client.sampled:
                self._found.begins.append((line.began, at))
        if line is not None:
            client.after = line.cursor
            if client.again:
                client.again = False
                self._found.heard_again.append(at)
            else:
                self._delays.append(at - line.at)
        return rest

    def _learn(self, text: bytes) -> _Line:
        event: dict[str, Any] = json.loads(text)
        began = event["runId"] if event["type"] == "run.started" else ""
        at = datetime.fromisoformat(event["timestamp"]).timestamp()
        line = self._known[text] = _Line(len(self._known), event["cursor"], at, began)
        return line

    def _lose(self, client: _Client, why: str) -> None:
        assert client.sock is not None
        self._selector.unregister(client.sock)
        client.sock.close()
        if client.begun:
            self._open -= 1
            self._found.broken += 1
        else:
            self._refused[why] += 1
        client.begun, client.again, client.rest = False, True, b""
        self._waiting.append((time.monotonic() + RECONNECT_S, client))


def handshake(host: str, token: str, tenant: str, *, after: str | None) -> bytes:
    """Write the request for a WebSocket."""
    head = (
        f"GET {API}/runs/stream{'' if after is None else f'?after={after}'} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==",
        f"Authorization: Bearer {token}",
        f"X-Stella-Tenant: {tenant}",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def _seconds(timespec: bytes) -> float:
    seconds, nanoseconds = struct.unpack("qq", timespec)
    return float(seconds + nanoseconds / 1e9)


def _say(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
