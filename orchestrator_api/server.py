"""What gunicorn would do otherwise: log plain lines, answer in HTML, wait for a slow client for ever."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from selectors import EVENT_READ
from types import FrameType, MappingProxyType
from typing import Any, ClassVar, Final, cast

from flask import Flask
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import (  # type: ignore[attr-defined]  # The stubs are older.
    InvalidHeader,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.http.message import Request
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import (  # type: ignore[attr-defined]
    _DEFER,
    STOP_KEEPALIVE_LINGER,
    TConn,
    ThreadWorker,
)
from structlog.contextvars import clear_contextvars

from orchestrator_api import access_log
from orchestrator_api.connections import Connection, HandedOver, Patience, PatientSocket, WholeBody
from orchestrator_api.context import PREFIX
from orchestrator_api.parts import parts_of
from shared.ids import new_trace_id

_STATUS = MappingProxyType({LimitRequestLine: 414, LimitRequestHeaders: 431})
_REASON = MappingProxyType(
    {
        400: "Bad Request",
        414: "URI Too Long",
        431: "Request Header Fields Too Large",
        500: "Internal Server Error",
        503: "Service Unavailable",
    }
)
_CODE = MappingProxyType({500: "INTERNAL", 503: "UNAVAILABLE"})
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_PAUSE_SECONDS: Final = 0.05
_ROOM: Final = 100
"""How many idle connections make room at a time, when there are as many as there may be."""
_SILENT_SECONDS: Final = 1.0
"""Who has sent nothing for so long is not about to."""
_STREAMS_END_SECONDS: Final = 4.0
_OURS: Final = (InvalidResponseHeader, InvalidResponseHeaderName)
"""gunicorn counts these among the mistakes of clients, but they are the application's."""
_SINGLE: Final = frozenset({"IDEMPOTENCY-KEY", "X-STELLA-TENANT"})
"""Two of them would be joined by a comma, which is a key like any other."""


_HEALTH: Final = f"GET {PREFIX}/admin/health".encode("ascii")


class JsonLines(Logger):
    """Sends gunicorn's own messages, and the access log, through the logging that the process has set up."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for name in ("gunicorn.error", "gunicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True

    def access(
        self, resp: Response, req: Request, environ: MutableMapping[str, Any], request_time: timedelta
    ) -> None:
        if self.cfg.accesslog:
            access_log.served(resp, req, environ, request_time)


class Worker(ThreadWorker):
    """Threads that serve requests, and only whole heads get one; what is no request gets the envelope."""

    patience: ClassVar = Patience()
    pending_conns: deque[Connection]  # type: ignore[assignment]  # ``accept`` makes no others.
    queue_seconds = 2.0
    """How long a request may wait for a thread, before it is refused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy = 0
        self._crowded = False
        self._queued: deque[tuple[float, Connection, Future[bool]]] = deque()
        # Who asks for health must learn that there is too much to do, or that all threads hang.
        self._health_thread: ThreadPoolExecutor | None = None

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        super().check_config(cfg, log)
        if cfg.is_ssl:
            raise RuntimeError("leave TLS to a proxy in front: this worker reads heads before a thread does")

    def enqueue_req(self, conn: TConn) -> None:
        """Have a thread serve the request whose head has come, or refuse it when none comes to it in time."""
        served: Future[bool]
        if self._busy >= self.cfg.threads and _ours(conn).head.startswith(_HEALTH):
            if self._health_thread is None:
                self._health_thread = ThreadPoolExecutor(1, "health")
            served = self._health_thread.submit(self.handle, conn)
        else:
            served = self.tpool.submit(self.handle, conn)
        self._busy += 1
        served.add_done_callback(lambda fs: self.method_queue.defer(self.finish_request, conn, fs))
        self._queued.append((time.monotonic(), _ours(conn), served))

    def finish_request(self, conn: TConn, fs: Future[bool]) -> None:
        self._busy -= 1
        super().finish_request(conn, fs)

    def accept(self, listener: socket.socket) -> None:
        try:
            accepted, client = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self.log.warning("no connection can be accepted: %s", error)
                # Not here: an event of a connection that would be closed may be next in this turn.
                self._crowded = True
                # What waits to be accepted wakes the loop at once, again and again.
                time.sleep(_NO_ROOM_PAUSE_SECONDS)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        sock = PatientSocket.over(accepted, self.patience)
        self._collect(Connection(self.cfg, sock, client, listener.getsockname()))

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        _ours(conn).expect_head()
        self._collect(_ours(conn))

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        if _ours(conn).receive_head():
            self._drop_pending(_ours(conn))
            self.enqueue_req(conn)

    def murder_pending(self) -> None:
        """Refuse those whose head did not arrive in time, and those that no thread has come to in time.

        Who never sent a byte gets no answer.
        """
        self._refuse_late()
        if self._crowded or self.nr_conns >= self.worker_connections:
            self._crowded = False
            self._make_room()
        # A process that is told to stop waits for a head no longer than for a next request.
        ahead = 0.0 if self.alive else self.patience.head_seconds - STOP_KEEPALIVE_LINGER
        late = time.monotonic() + ahead
        for conn in [conn for conn in self.pending_conns if conn.head_due <= late]:
            self._drop_pending(conn)
            self.nr_conns -= 1
            if conn.head:
                clear_contextvars()
                self._refuse(conn.sock, conn.client, 400, "the request did not arrive in time", None)
            conn.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: requests under way are served to their end, but nobody waits for that of a step."""
        # The signal may come while the application is being put together.
        app: object = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            parts_of(app).followers.close()
            parts_of(app).streams.close()
        super().handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until told to stop, then until all streams have heard of that."""
        super().run()
        app: object = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            parts_of(app).streams.close()
            parts_of(app).streams.join(_STREAMS_END_SECONDS)

    def handle(self, conn: TConn) -> bool:
        # What the request before has left behind in this thread is not about this one.
        clear_contextvars()
        try:
            if not _ours(conn).begin_request():
                return cast(bool, _DEFER)
        except LimitRequestHeaders as error:
            self.handle_error(None, conn.sock, conn.client, error)
            kept = False
        else:
            kept = super().handle(conn)
        if not kept and not _ours(conn).sock.handed_over:
            _ours(conn).end()
        return kept

    def handle_request(self, req: Request, conn: TConn) -> bool:
        sock = _ours(conn).sock
        names = [name for name, _ in req.headers if name in _SINGLE]
        if len(set(names)) < len(names):
            raise InvalidHeader(f"one of {sorted(_SINGLE)} comes twice", req)
        WholeBody.guard(req, sock)
        try:
            kept = super().handle_request(req, conn)
            sock.answered = True
            return kept
        except (HandedOver, StopIteration):
            # Without a mark of a WebSocket of its own, flask-sock tells of one by the latter.
            if sock.handed_over:
                return False
            raise
        except TimeoutError as error:
            # gunicorn knows this end of a connection as nobody's failure. The access log has the request.
            raise StopIteration from error
        finally:
            sock.expect_within(self.patience.drain_seconds)

    def handle_error(
        self,
        req: Request | None,
        client: socket.socket,
        addr: str | int | tuple[str, int],
        exc: BaseException,
    ) -> None:
        """Answer what never reached the application and its error handlers."""
        if isinstance(client, PatientSocket) and client.answered:
            # The rest of a body that nobody wanted is broken. The client has its answer: no second one.
            self.log.debug("the connection ends: %s", exc)
            return
        if isinstance(exc, ParseException) and not isinstance(exc, _OURS):
            status = _STATUS.get(type(exc), 400)
            self._refuse(client, addr, status, "this is no HTTP request that the server can read", req)
        else:
            self.log.error("request failed", exc_info=exc)
            self._refuse(client, addr, 500, "the request failed unexpectedly", req)

    def _collect(self, conn: Connection) -> None:
        """Collect a head without a thread, and have a thread serve it once it is there."""
        if conn.receive_head():
            self.enqueue_req(conn)
            return
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _drop_pending(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)

    def _make_room(self) -> None:
        """Close connections on which nothing happens, those first that were kept open after a request."""
        now = time.monotonic()
        asked = [_ours(conn) for conn in itertools.islice(self.keepalived_conns, _ROOM)]
        begun = now + self.patience.head_seconds - _SILENT_SECONDS
        silent = [conn for conn in self.pending_conns if not conn.head and conn.head_due < begun]
        for conn in [*asked, *silent][:_ROOM]:
            if conn in self.keepalived_conns:
                self.poller.unregister(conn.sock)
                self.keepalived_conns.remove(conn)
            else:
                self._drop_pending(conn)
            self.nr_conns -= 1
            conn.close()

    def _refuse_late(self) -> None:
        """Refuse the requests that have waited for too long; their turn would come ever later."""
        late = time.monotonic() - self.queue_seconds
        while self._queued:
            since, conn, served = self._queued[0]
            if since > late and not (served.running() or served.done()):
                return
            self._queued.popleft()
            # Only one of us gets it: this, or a thread. Then gunicorn closes the connection.
            if served.cancel():
                clear_contextvars()
                # What is left unread when a connection is closed takes the answer with it.
                conn.drain_now()
                self._refuse(conn.sock, conn.client, 503, "there is more to do than can be done now", None)
                conn.finish_now()
                self._count_overload()

    def _count_overload(self) -> None:
        app: object = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            parts_of(app).metrics.overloaded()

    def _refuse(
        self, client: socket.socket, addr: object, status: int, message: str, req: Request | None
    ) -> None:
        trace_id = new_trace_id()
        code = _CODE.get(status, "INVALID_ARGUMENT")
        again = "Retry-After: 1\r\n" if status == 503 else ""
        body = json.dumps({"error": {"code": code, "message": message, "trace_id": trace_id}})
        head = (
            f"HTTP/1.1 {status} {_REASON[status]}\r\nConnection: close\r\n"
            "Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"
            f"X-Content-Type-Options: nosniff\r\n{again}"
            f"X-Trace-Id: {trace_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self.cfg.accesslog:
            access_log.refused(status, trace_id, addr, req, len(body))
        try:
            # The main thread calls this, too, and it must not wait for a client.
            client.setblocking(False)
            socket.socket.send(client, (head + body).encode("ascii"))
        except OSError as error:
            self.log.debug("the client did not wait for the refusal: %s", error)


def _ours(conn: TConn) -> Connection:
    assert isinstance(conn, Connection)  # ``accept`` makes no others.
    return conn
