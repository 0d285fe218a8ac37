"""A proxy between a process and its server, which breaks what passes in the ways that networks do."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

_CHUNK = 65_536
_TICK_SECONDS = 0.05
"""How soon a thread that waits for bytes notices that it shall end."""

Target = tuple[str, int] | Path
"""A host and port, or a unix socket."""


class Mode(Enum):
    """What becomes of connections: of those that are open, and of those that come."""

    PASS = "pass"
    """All bytes go through, slowed by ``delay_seconds`` and ``bytes_per_second``."""
    REFUSE = "refuse"
    """Nobody listens: what is open is closed, what comes is refused."""
    RESET = "reset"
    """What is open ends with a reset, and what comes does as soon as it is accepted."""
    BLACKHOLE = "blackhole"
    """Bytes vanish and nobody is told, on what is open and on what comes."""
    HALF_OPEN = "half open"
    """What is open goes dark as in ``BLACKHOLE``, and stays so for good; what comes passes."""


class Proxy:
    """Listens on a port of 127.0.0.1 and forwards to ``target``. What it does may change at any time."""

    def __init__(self, target: Target) -> None:
        self.delay_seconds = 0.0
        """How long each piece of bytes is held back, in either direction."""
        self.bytes_per_second: float | None = None
        self._target = target
        self._lock = threading.Lock()
        self._mode = Mode.PASS
        self._links: set[_Link] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    @property
    def connections(self) -> int:
        """How many connections are open through it, dark ones among them."""
        with self._lock:
            return len(self._links)

    def set(self, mode: Mode) -> None:
        """Break, or mend. A connection that was dark stays dark: its bytes are lost, as none of TCP's are."""
        with self._lock:
            refused, self._mode = self._mode is Mode.REFUSE, mode
            links = list(self._links)
            for link in links:
                link.dark |= mode in (Mode.BLACKHOLE, Mode.HALF_OPEN)
        if mode is Mode.REFUSE and not refused:
            # A mere close would not wake the thread that accepts, and the port would go on listening.
            self._listener.shutdown(socket.SHUT_RDWR)
        if mode is not Mode.REFUSE and refused:
            self._listener = self._listen(self.port)
        if mode in (Mode.REFUSE, Mode.RESET):
            for link in links:
                link.end(reset=mode is Mode.RESET)

    def close(self) -> None:
        """End everything."""
        self.set(Mode.REFUSE)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), name="proxy", daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return  # REFUSE
                self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            server = _connect(self._target)
        except OSError:
            _reset(client)
            return
        link = _Link(self, client, server)
        with self._lock:
            mode = self._mode
            link.dark = mode is Mode.BLACKHOLE
            self._links.add(link)
        link.start()
        if mode in (Mode.REFUSE, Mode.RESET):
            link.end(reset=True)

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection, with a thread for each direction; the one that ends last closes it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.dark = False
        self._proxy = proxy
        self._ends = (client, server)
        self._ended = threading.Event()
        self._reset = False
        self._lock = threading.Lock()
        self._pumps = 2

    def start(self) -> None:
        for end in self._ends:
            end.settimeout(_TICK_SECONDS)
        client, server = self._ends
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, sink), name="proxy-link", daemon=True).start()

    def end(self, *, reset: bool = False) -> None:
        self._reset |= reset
        self._ended.set()
        for end in self._ends:
            # It wakes the thread that reads, and tells the other side nothing yet.
            with suppress(OSError):
                end.shutdown(socket.SHUT_RD)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        # An end that is gone is a broken network's daily business: the link ends.
        with suppress(OSError):
            while not self._ended.is_set():
                piece = self._read(source)
                if piece == b"":
                    break
                if piece is not None and not self.dark:
                    self._write(sink, piece)
        self.end()
        with self._lock:
            self._pumps -= 1
            last = self._pumps == 0
        if last:
            self._close()

    def _read(self, source: socket.socket) -> bytes | None:
        """Read what is there: nothing yet is ``None``, and also the end of a connection that is dark."""
        if self.dark:
            self._ended.wait(_TICK_SECONDS)
            return None
        try:
            return source.recv(_CHUNK)
        except TimeoutError:
            return None

    def _write(self, sink: socket.socket, piece: bytes) -> None:
        rate = self._proxy.bytes_per_second
        self._ended.wait(self._proxy.delay_seconds + (len(piece) / rate if rate else 0.0))
        left = memoryview(piece)
        while left and not self.dark and not self._ended.is_set():
            with suppress(TimeoutError):
                left = left[sink.send(left) :]

    def _close(self) -> None:
        client, server = self._ends
        if self._reset:
            _reset(client)
        client.close()
        server.close()
        self._proxy._forget(self)


@contextmanager
def proxied(target: Target) -> Iterator[Proxy]:
    """Lend a proxy that passes everything, until it is told otherwise."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _connect(target: Target) -> socket.socket:
    if isinstance(target, Path):
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(target))
        return server
    return socket.create_connection(target, timeout=5)


def _reset(client: socket.socket) -> None:
    """Close without a goodbye: the other side sees its connection reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
