"""The event stream: from the ledger to a WebSocket, or to the body of a response without an end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from flask import Response, g, request
from simple_websocket import Server  # type: ignore[import-untyped]

from orchestrator_api import access_log, query
from orchestrator_api.connections import HandedOver, PatientSocket
from orchestrator_api.context import common_headers, principal, tenant, trace_id
from orchestrator_api.ndjson import CONTENT_TYPE
from orchestrator_api.parts import parts
from orchestrator_api.stream import upgrade
from orchestrator_api.stream.client import Client, Subscription
from orchestrator_api.stream.wire import Framing, HttpWire, WebSocketWire, Wire
from shared.domain.event_stream import StreamFilter
from shared.domain.states import RunStatus
from shared.services import events

CURSOR_HEADER = "X-Stream-Cursor"
_SOCKET = "gunicorn.socket"


def follow() -> Response:
    """Send events as lines of a response that ends when the token does, or the server."""
    response = Response(content_type=CONTENT_TYPE)
    place = _Place()
    response.call_on_close(place.leave)
    response.headers[CURSOR_HEADER] = str(place.subscription.position)
    framing = Framing.PLAIN if request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0" else Framing.CHUNKED
    environ = request.environ

    def body() -> Iterator[bytes]:
        yield b""  # The head goes out first.
        place.hand_over(_socket(environ), HttpWire(framing))
        raise HandedOver

    # Nobody iterates the body of an answer to HEAD.
    response.response = body()
    return response


def before_upgrade() -> None:
    """Do all that may refuse a WebSocket, before flask-sock accepts it."""
    environ = request.environ
    upgrade.check(environ, parts().stream_origins)
    place = g.stream_place = _Place()
    # Compression would cost each client its own copy of every message, and 100 kB.
    environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
    head = {**common_headers(), CURSOR_HEADER: str(place.subscription.position)}
    environ[_SOCKET] = upgrade.Handshake(_socket(environ), head)


def follow_socket(ws: Server) -> None:
    """Send events as messages of a WebSocket whose handshake is made."""
    place = cast(_Place, g.stream_place)
    access_log.upgrade(request.environ)
    place.hand_over(cast(upgrade.Handshake, ws.sock).sock, WebSocketWire(ws.ws))
    # flask-sock closes what is still connected.
    ws.connected = False


def after_upgrade() -> None:
    """Give back the place of a WebSocket that came to nothing."""
    if (place := g.pop("stream_place", None)) is not None:
        place.leave()


class _Place:
    """A stream that is about to begin: what its client gets, and its place among all streams."""

    def __init__(self) -> None:
        self._streams = parts().streams
        self._left = False
        self._trace_id = trace_id()
        self._expires_at = principal().expires_at
        wanted = StreamFilter(
            dag_id=query.optional(request.args, "dagId", query.dag_id),
            status=query.optional(request.args, "status", query.one_of(RunStatus)),
            run_id=query.optional(request.args, "runId", query.run_id),
        )
        after = query.optional(request.args, "after", query.cursor)
        self._streams.enter(tenant())
        try:
            # Before the answer begins: nothing that is committed after it may be missed.
            position = events.present(parts().db, tenant()) if after is None else after
        except BaseException:
            self._streams.leave(tenant())
            raise
        self.subscription = Subscription(tenant=tenant(), wanted=wanted, position=position)

    def hand_over(self, sock: PatientSocket, wire: Wire) -> None:
        """Have the stream served from now on; the server lets go of the socket."""
        client = Client(
            subscription=self.subscription,
            sock=sock.hand_over(),
            wire=wire,
            expires_at=self._expires_at,
            trace_id=self._trace_id,
        )
        self._left = True
        self._streams.adopt(client)

    def leave(self) -> None:
        """Give the place back, unless the stream has begun."""
        if not self._left:
            self._left = True
            self._streams.leave(self.subscription.tenant)


def _socket(environ: Mapping[str, object]) -> PatientSocket:
    return cast(PatientSocket, environ[_SOCKET])
