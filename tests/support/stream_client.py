"""A client of the event stream that can leave in every way there is, also in the middle of a line."""

from __future__ import annotations

import http.client
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tests.support.rest import API

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STREAM = f"{API}/runs/stream"
CURSOR_HEADER = "X-Stream-Cursor"
SILENT_S = 40.0
"""A server that says nothing for so long, not even a heartbeat, is gone."""
_CURSOR = re.compile(r'"cursor":"([^"]+)",')


class Way(Enum):
    """How lines come."""

    WEBSOCKET = "websocket"
    HTTP = "http"


class Cut(Enum):
    """How a client leaves."""

    GOODBYE = "goodbye"
    """As the protocol has it; for HTTP it is the same as ``CLOSE``."""
    CLOSE = "close"
    """The connection is closed, and nothing is said."""
    RESET = "reset"
    """The connection is reset."""


class Refused(Exception):
    """The server does not begin a stream."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}")
        self.status = status


class Line(str):
    """A line as it came."""

    __slots__ = ()

    @property
    def cursor(self) -> str:
        return self._member()[1]

    @property
    def hashed(self) -> str:
        """The line without its cursor, as the ledger has hashed it."""
        begin, end = self._member().span()
        return self[:begin] + self[end:]

    def _member(self) -> re.Match[str]:
        (found,) = _CURSOR.finditer(self)
        return found


class Connection:
    """A stream that has begun. ``cut`` may be called while another thread reads the lines."""

    def __init__(
        self, sock: Severable, begins_at: str, messages: Iterator[str], goodbye: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._messages = messages
        self._goodbye = goodbye
        self.begins_at = begins_at
        """The cursor in the head of the answer."""
        self.close_code: int | None = None
        """Why the server has closed a WebSocket."""
        self.whole = False
        """Whether an answer by HTTP has come to its end."""

    def lines(self) -> Iterator[Line]:
        """Give lines until the stream ends, in whatever way."""
        try:
            yield from map(Line, self._messages)
            self.whole = True
        except ConnectionClosed as error:
            self.close_code = None if error.rcvd is None else error.rcvd.code
        except (OSError, http.client.HTTPException):
            return  # It was cut, by us or by the server.

    def cut(self, how: Cut, *, after_bytes: int = 0) -> None:
        """Leave; with ``after_bytes`` as soon as so much more was received, which may end within a line."""
        if how is Cut.GOODBYE:
            self._goodbye()
        else:
            self._sock.sever(after_bytes, reset=how is Cut.RESET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A tenant's stream, and the token of who asks for it."""

    url: str
    token: str
    tenant: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "X-Stella-Tenant": self.tenant}

    def open(self, way: Way, query: Mapping[str, str]) -> AbstractContextManager[Connection]:
        """Begin a stream; raises Refused, or OSError where nobody answers."""
        return _websocket(self, query) if way is Way.WEBSOCKET else _http(self, query)


@contextmanager
def _websocket(source: Source, query: Mapping[str, str]) -> Iterator[Connection]:
    sock = Severable.connected(source.url)
    sock.settimeout(None)
    try:
        opened = connect(
            f"ws://{urlsplit(source.url).netloc}{STREAM}?{urlencode(query)}",
            sock=sock,
            additional_headers=source.headers,
            proxy=None,
            compression=None,
            # With a full queue the library would hear no answer to its goodbye.
            max_queue=None,
            legacy=True,
        )
    except InvalidStatus as error:
        answer = error.response
        raise Refused(answer.status_code, bytes(answer.body or b"").decode()) from error
    except WebSocketException as error:
        raise ConnectionError(f"the handshake came to nothing: {error!r}") from error
    with opened as ws:
        assert ws.response is not None

        def messages() -> Iterator[str]:
            while True:
                yield str(ws.recv())

        yield Connection(sock, ws.response.headers[CURSOR_HEADER], messages(), ws.close)


@contextmanager
def _http(source: Source, query: Mapping[str, str]) -> Iterator[Connection]:
    sock = Severable.connected(source.url)
    connection = http.client.HTTPConnection("unused")
    connection.sock = sock
    try:
        try:
            connection.request("GET", f"{STREAM}?{urlencode(query)}", headers=source.headers)
            response = connection.getresponse()
        except http.client.HTTPException as error:
            raise ConnectionError(f"there was no answer: {error!r}") from error
        with response:
            if response.status != http.client.OK:
                raise Refused(response.status, response.read().decode())

            def messages() -> Iterator[str]:
                rest = b""
                while piece := response.read1(65_536):
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from (line.decode() for line in lines if line)
                assert not rest, f"the stream has come to its end within a line: {rest!r}"

            begins_at = response.headers[CURSOR_HEADER]
            yield Connection(sock, begins_at, messages(), lambda: sock.sever(0, reset=False))
    finally:
        connection.close()


class Severable(socket.socket):
    """A socket that another thread may sever, now or after some more bytes."""

    _left: int | None = None
    """How much may still be received, once it is to be severed."""

    @classmethod
    def connected(cls, url: str, *, receive_buffer: int | None = None) -> Severable:
        """Connect to a server; ``receive_buffer`` is what the kernel keeps for a client that reads late."""
        parts = urlsplit(url)
        sock = cls(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(SILENT_S)
            sock.connect((parts.hostname, parts.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def sever(self, after_bytes: int, *, reset: bool) -> None:
        """End after some more bytes: the thread that reads finds nothing more then, and closes the socket."""
        self._left = after_bytes
        # It may have come to its end by itself.
        with suppress(OSError):
            if reset:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if after_bytes == 0:
                # The server hears nothing of this, but who waits for bytes does.
                self.shutdown(socket.SHUT_RD)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        piece = b"" if self._left == 0 else super().recv(min(size, self._left or size), flags)
        self._take(len(piece))
        return piece

    def recv_into(self, buffer: WriteableBuffer, size: int = 0, flags: int = 0) -> int:
        if self._left == 0:
            return 0
        whole = memoryview(buffer)
        taken = super().recv_into(whole[: self._left or size or len(whole)], 0, flags)
        self._take(taken)
        return taken

    def _take(self, size: int) -> None:
        if self._left is not None:
            self._left = max(0, self._left - size)
