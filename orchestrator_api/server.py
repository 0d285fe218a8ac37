"""What gunicorn would do otherwise: log plain lines, answer in HTML, wait for a slow client for ever."""

from __future__ import annotations

import json
import logging
import socket
import struct
from types import FrameType, MappingProxyType
from typing import Final

from flask import Flask
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.message import Request
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import TConn, ThreadWorker

from orchestrator_api.parts import parts_of
from orchestrator_api.trace import trace_of

STALLED_SECONDS: Final = 30
"""A client that sends or takes nothing for this long loses its connection, and frees its thread."""

_STATUS = MappingProxyType(
    {
        LimitRequestLine: "414 URI Too Long",
        LimitRequestHeaders: "431 Request Header Fields Too Large",
    }
)


class JsonLines(Logger):
    """Sends gunicorn's own messages through the logging that the process has set up."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for name in ("gunicorn.error", "gunicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True


class Worker(ThreadWorker):
    """Threads that answer an unreadable request with the envelope, and give up on a stalled client."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: requests under way are served to their end, but nobody waits for that of a step."""
        app: object = self.wsgi
        if isinstance(app, Flask):
            parts_of(app).followers.close()
        super().handle_exit(sig, frame)

    def handle(self, conn: TConn) -> bool:
        # gunicorn makes the socket blocking before it reads the head, so the kernel has to count here.
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", STALLED_SECONDS, 0))
        return super().handle(conn)

    def handle_request(self, req: Request, conn: TConn) -> bool:
        conn.sock.settimeout(STALLED_SECONDS)
        return super().handle_request(req, conn)

    def handle_error(
        self,
        req: Request | None,
        client: socket.socket,
        addr: str | int | tuple[str, int],
        exc: BaseException,
    ) -> None:
        """Refuse what is no HTTP request, which never reaches the application and its error handlers."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        self.log.info("unreadable request: %s", type(exc).__name__)
        trace = trace_of(None).trace_id
        body = json.dumps(
            {
                "error": {
                    "code": "INVALID_ARGUMENT",
                    "message": "this is no HTTP request that the server can read",
                    "trace_id": trace,
                }
            }
        )
        head = (
            f"HTTP/1.1 {_STATUS.get(type(exc), '400 Bad Request')}\r\nConnection: close\r\n"
            f"Content-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"
            f"X-Trace-Id: {trace}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            write_nonblock(client, (head + body).encode("ascii"))
        except OSError as error:
            self.log.debug("the client did not wait for the refusal: %s", error)
