"""One connection that sends bytes as they are, and reads whatever comes back."""

from __future__ import annotations

import socket
from dataclasses import dataclass

_TIMEOUT_S = 60.0


class NoAnswer(Exception):
    """The server closed the connection, or sent what is no HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """A kept connection, opened again when the server has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._buffer = b""

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def send(self, request: bytes, *, head: bool) -> Answer:
        """Send a request and read its answer, which has no body when ``head``; raises NoAnswer."""
        fresh = self._socket is None
        try:
            return self._send(request, head=head)
        except (OSError, NoAnswer) as error:
            self.close()
            if fresh:
                raise NoAnswer(str(error)) from error
        try:
            # The server may have closed a kept connection just before: that is no answer to this request.
            return self._send(request, head=head)
        except (OSError, NoAnswer) as error:
            self.close()
            raise NoAnswer(str(error)) from error

    def _send(self, request: bytes, *, head: bool) -> Answer:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=_TIMEOUT_S)
        try:
            self._socket.sendall(request)
        except OSError:
            if not self._buffer and not self._more():
                raise
        answer = self._read(head=head)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def _read(self, *, head: bool) -> Answer:
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit():
            raise NoAnswer(f"no HTTP: {lines[0][:80]!r}")
        status = int(rest[:3])
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if head or status in (204, 304):
            return Answer(status=status, headers=headers, body=b"")
        if "x-stream-cursor" in headers:
            # It has no end: the next request needs another connection.
            self.close()
            return Answer(status=status, headers=headers, body=b"")
        return Answer(status=status, headers=headers, body=self._body(headers))

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self._until(b"\r\n"), 16):
                pieces.append(self._exactly(size + 2)[:-2])
            self._until(b"\r\n")
            return b"".join(pieces)
        return self._exactly(int(headers["content-length"]))

    def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            if not self._more():
                raise NoAnswer("closed before the end of the head")
        found, _, self._buffer = self._buffer.partition(end)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._more():
                raise NoAnswer("closed before the end of the body")
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self) -> bool:
        assert self._socket is not None
        piece = self._socket.recv(1 << 16)
        self._buffer += piece
        return bool(piece)
