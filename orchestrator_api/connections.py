"""How long a client may take to send a request and to take its answer.

A thread serves one request at a time, and there are few of them. A stall alone
is no measure: a client that sends a byte a second never stalls. So each part of an
exchange has a time for the whole of it, in which its size counts.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gunicorn.config import Config
from gunicorn.http.body import Body
from gunicorn.http.errors import LimitRequestHeaders, NoMoreData
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.util import close, close_graceful
from gunicorn.workers.gthread import TConn

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_HEAD_BYTES: Final = 32_768
"""Room for a line and a token of 8 KiB each, and for all else that an honest client sends."""
_MAX_DRAIN_BYTES: Final = 1 << 24
_RECV_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What a client is granted.

    A head comes in one or two packets: 15 seconds bear a few that were lost. A body
    gets 30 seconds and what it takes at 16 KiB a second, less than any link that
    people still use; the largest body (8 MiB) may then take nine minutes. Each piece of an
    answer gets the same. A stream may last as long as it likes: its pieces count one by one.
    """

    head_seconds: float = 15.0
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    bytes_per_second: float = 16_384.0
    drain_seconds: float = 1.0
    """For a body that nobody wants to read, before the connection is given up."""
    linger_seconds: float = 1.0
    """For the client to take the last answer and close its side, before ours is closed."""


class HandedOver(OSError):
    """The answer is not at its end, but others send the rest of it: the socket is theirs."""


class PatientSocket(socket.socket):
    """A client's socket that raises TimeoutError when the client has used up its time."""

    patience: Patience
    answered: bool
    """Whether the request that came last has its answer: no other must follow."""
    handed_over: bool
    """Whether the connection is no longer ours."""
    _allowed_until: float
    """In monotonic time, before the bytes that came in are counted."""
    _received: int

    @classmethod
    def over(cls, accepted: socket.socket, patience: Patience) -> PatientSocket:
        """Take over an accepted socket, which must not be used any more."""
        made = cls(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        made.patience = patience
        made.answered = False
        made.handed_over = False
        made.expect_within(patience.head_seconds)
        return made

    def hand_over(self) -> socket.socket:
        """Give the connection away, with no limits of time on it."""
        self.handed_over = True
        return socket.socket(self.family, self.type, self.proto, fileno=self.detach())

    def expect_within(self, seconds: float) -> None:
        """Grant ``seconds`` from now for all that is to be received, and more as it comes."""
        self._allowed_until = time.monotonic() + seconds
        self._received = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        earned = self._received / self.patience.bytes_per_second
        left = self._allowed_until + earned - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client takes too long to send")
        self.settimeout(left)
        piece = super().recv(size, flags)
        self._received += len(piece)
        return piece

    def recv_now(self) -> bytes | None:
        """Take what has arrived from a socket that does not block: ``None`` is nothing, no bytes the end."""
        try:
            return super().recv(_RECV_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self.settimeout(self.patience.answer_seconds)
        return super().send(data, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        # Python's time-out of ``sendall`` is for the whole of it.
        more = memoryview(data).nbytes / self.patience.bytes_per_second
        self.settimeout(self.patience.answer_seconds + more)
        super().sendall(data, flags)


class Connection(TConn):
    """A connection whose head is collected without a thread."""

    sock: PatientSocket

    def __init__(self, cfg: Config, sock: PatientSocket, client: Any, server: Any) -> None:
        super().__init__(cfg, sock, client, server)
        # A thread gets the connection with a head, and never has to wait for the first byte.
        self.data_ready = True
        self.head = b""
        self.ended = False
        self.expect_head()

    def expect_head(self) -> None:
        """Grant the client its time for a head from now on."""
        self.head_due = time.monotonic() + self.sock.patience.head_seconds

    def receive_head(self) -> bool:
        """Take what has arrived of a head; tell whether the parser can judge it."""
        piece = self.sock.recv_now()
        if piece is not None:
            self.head += piece
            self.ended = not piece
        return self.has_head

    @property
    def has_head(self) -> bool:
        """Tell whether what has come is a whole head, or can become none any more."""
        head = self.head
        return (
            self.ended
            or b"\r\n\r\n" in head
            or len(head) > MAX_HEAD_BYTES
            or head.count(b"\n") != head.count(b"\r\n")
        )

    def begin_request(self) -> bool:
        """Give the parser what was collected; false if that is only the beginning of a head.

        A client may have sent the beginning of this request behind the one before.
        """
        self.init()
        assert isinstance(self.parser, RequestParser)  # The only one without TLS.
        unreader = self.parser.unreader
        self.head = unreader.take_buffered() + self.head
        if not self.has_head:
            self.expect_head()
            return False
        head, self.head = self.head, b""
        if len(head) > MAX_HEAD_BYTES and b"\r\n\r\n" not in head[:MAX_HEAD_BYTES]:
            raise LimitRequestHeaders("the head is too large")
        unreader.unread(head)
        self.sock.answered = False
        self.sock.expect_within(self.sock.patience.head_seconds)
        return True

    def drain_now(self) -> None:
        """Throw away what has arrived, without waiting for more."""
        self.sock.setblocking(False)
        drained = 0
        while drained < _MAX_DRAIN_BYTES and (piece := self.sock.recv_now()):
            drained += len(piece)

    def finish_now(self) -> None:
        """Tell the client that nothing more will come, without waiting for it to hear that."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # It did not wait for us.
        self.drain_now()

    def end(self) -> None:
        """Let the client take the last answer. Called in a thread, since it can take a while."""
        patience = self.sock.patience
        self.sock.expect_within(patience.linger_seconds)
        close_graceful(self.sock, timeout=patience.linger_seconds, max_drain=_MAX_DRAIN_BYTES)

    def close(self, graceful: bool = False) -> None:
        """Close at once: this is the thread that serves all connections, and ``end`` was called before."""
        close(self.sock)


class WholeBody:
    """Reads a body, and ends the connection with a body that does not arrive whole and in time."""

    def __init__(self, request: Request, sock: PatientSocket) -> None:
        assert request.body is not None
        self._request = request
        self._reader = request.body.reader
        self._left = getattr(self._reader, "length", None)
        sock.expect_within(sock.patience.body_seconds)

    @classmethod
    def guard(cls, request: Request, sock: PatientSocket) -> None:
        """Have the body of ``request`` read so."""
        request.body = Body(cls(request, sock))  # type: ignore[arg-type]  # All it needs is ``read``.

    def read(self, size: int) -> bytes:
        try:
            piece: bytes = self._reader.read(size)
            if self._left is not None:
                # gunicorn's reader takes the end of the connection for the end of the body.
                if len(piece) < min(size, self._left):
                    raise NoMoreData
                self._left -= len(piece)
        except Exception:
            # Where a next request would begin is unknown: the answer says that there will be none.
            self._request.force_close()
            raise
        return piece
