"""How lines travel to a client: as WebSocket messages, or as chunks of an HTTP response."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Final, NamedTuple, Protocol

from wsproto import WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import FrameProtocol
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

MAX_MESSAGE_BYTES: Final = 4_096
MESSAGES_A_WINDOW: Final = 100
WINDOW_SECONDS: Final = 10.0
"""A client has nothing to say, but may say it: so much of it is read and thrown away."""


class CloseCode(IntEnum):
    """Why a stream ends, as the codes of RFC 6455 (7.4) have it; from 4000 on they are our own."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4401


class Framing(Enum):
    """How lines are made into bytes; the bytes are the same for all clients of a kind."""

    WEBSOCKET = "websocket"
    CHUNKED = "chunked"
    PLAIN = "plain"
    """For HTTP/1.0, which has no chunks."""


class Blob(NamedTuple):
    """Bytes to send, shared by all who get them, and where in them a message, or a chunk, ends."""

    data: bytes
    ends: Sequence[int]

    def rest_of_unit(self, offset: int) -> bytes:
        """Give what must follow the first ``offset`` bytes before anything else can be said."""
        if offset == 0:
            return b""
        return self.data[offset : self.ends[bisect_left(self.ends, offset)]]


class Encoder:
    """Makes lines into blobs. Not for several threads."""

    def __init__(self) -> None:
        self._frames = FrameProtocol(client=False, extensions=[])

    def encode(self, lines: Sequence[str], framing: Framing) -> Blob:
        """Make the bytes of at least one line."""
        if framing is Framing.WEBSOCKET:
            frames = [self._frames.send_data(line, fin=True) for line in lines]
            ends, end = [], 0
            for frame in frames:
                end += len(frame)
                ends.append(end)
            return Blob(b"".join(frames), ends)
        text = "".join(f"{line}\n" for line in lines).encode()
        data = text if framing is Framing.PLAIN else chunk(text)
        return Blob(data, (len(data),))


class Wire(Protocol):
    """One client's side of the protocol that its socket speaks."""

    framing: Framing

    def heartbeat(self) -> bytes:
        """Give what keeps an idle connection open."""

    def received(self, data: bytes) -> tuple[bytes, CloseCode | None]:
        """Take what the client sent: what to answer, and why the stream must end, if it must."""

    def farewell(self, code: CloseCode) -> bytes | None:
        """Give the last bytes; ``None`` if the connection is to be cut, so that nobody takes it for whole."""


class WebSocketWire:
    """Frames of RFC 6455."""

    framing = Framing.WEBSOCKET

    def __init__(self, connection: WSConnection) -> None:
        self._connection = connection
        self._closed: CloseConnection | None = None
        self._message_bytes = 0
        self._window_began = 0.0
        self._messages = 0

    def heartbeat(self) -> bytes:
        return self._connection.send(Ping())

    def received(self, data: bytes) -> tuple[bytes, CloseCode | None]:
        answer = b""
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                match event:
                    case CloseConnection():
                        if self._connection.state is ConnectionState.OPEN:
                            # wsproto's way to tell of a frame that is none.
                            return answer, CloseCode.PROTOCOL_ERROR
                        self._closed = event
                        return answer, CloseCode.NORMAL
                    case TextMessage() | BytesMessage():
                        self._message_bytes += len(event.data)
                        if self._message_bytes > MAX_MESSAGE_BYTES:
                            return answer, CloseCode.MESSAGE_TOO_BIG
                        if event.message_finished:
                            self._message_bytes = 0
                    case Ping():
                        answer += self._connection.send(event.response())
                    case _:
                        pass
                if self._says_too_much():
                    return answer, CloseCode.POLICY_VIOLATION
        except (RemoteProtocolError, LocalProtocolError):
            return answer, CloseCode.PROTOCOL_ERROR
        return answer, None

    def farewell(self, code: CloseCode) -> bytes | None:
        if self._connection.state is ConnectionState.REMOTE_CLOSING and self._closed is not None:
            return self._connection.send(self._closed.response())
        if self._connection.state is not ConnectionState.OPEN:
            return b""
        return self._connection.send(CloseConnection(code=code, reason=_REASONS.get(code)))

    def _says_too_much(self) -> bool:
        now = time.monotonic()
        if now - self._window_began > WINDOW_SECONDS:
            self._window_began, self._messages = now, 0
        self._messages += 1
        return self._messages > MESSAGES_A_WINDOW


class HttpWire:
    """The body of an HTTP response."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing

    def heartbeat(self) -> bytes:
        """Give an empty line."""
        return self._piece(b"\n")

    def received(self, data: bytes) -> tuple[bytes, CloseCode | None]:
        """Throw away what follows the request: no other is answered on this connection."""
        del data
        return b"", None

    def farewell(self, code: CloseCode) -> bytes | None:
        whole = code in (CloseCode.GOING_AWAY, CloseCode.TOKEN_EXPIRED)
        if not whole or self.framing is Framing.PLAIN:
            return b"" if whole else None
        return b"0\r\n\r\n"

    def _piece(self, data: bytes) -> bytes:
        return data if self.framing is Framing.PLAIN else chunk(data)


def chunk(data: bytes) -> bytes:
    """Write a chunk of RFC 9112 (7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_REASONS: Final = {
    CloseCode.GOING_AWAY: "the server stops; resume from the last cursor",
    CloseCode.POLICY_VIOLATION: "the client sends too much",
    CloseCode.INTERNAL_ERROR: "the stream failed; resume from the last cursor",
    CloseCode.TRY_AGAIN_LATER: "the client does not read; resume from the last cursor",
    CloseCode.TOKEN_EXPIRED: "the token has expired",
}
