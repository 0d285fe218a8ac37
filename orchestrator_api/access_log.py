"""One line for each request, whoever answered it. Never a query, a header or a body."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from gunicorn.http.message import Request
from gunicorn.http.wsgi import Response

from orchestrator_api.connections import HandedOver

_ENVIRON_KEY: Final = "orchestrator.access"
_UPGRADED_KEY: Final = "orchestrator.upgraded"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the application has found out about a request."""

    trace_id: str
    route: str | None
    tenant: str | None
    subject: str | None

    def attributes(self) -> dict[str, str]:
        """Name what is known in the words of OpenTelemetry."""
        named = {"http.route": self.route, "orchestrator.tenant": self.tenant}
        return {name: value for name, value in named.items() if value is not None}


def tell(environ: dict[str, Any], known: Known) -> None:
    """Leave for the access log what only the application knows."""
    environ[_ENVIRON_KEY] = known


def upgrade(environ: dict[str, Any]) -> None:
    """Leave for the access log that the request became a WebSocket."""
    environ[_UPGRADED_KEY] = True


def is_upgraded(environ: Mapping[str, Any]) -> bool:
    """Tell whether the request became a WebSocket."""
    return _UPGRADED_KEY in environ


def upgraded(request: Request, environ: Mapping[str, Any]) -> None:
    """Log a request that became a WebSocket; how that ended is told in a line of its own."""
    known: Known | None = environ.get(_ENVIRON_KEY)
    _log.info(
        "request",
        method=request.method,
        path=request.path,
        status=101,
        remote=environ.get("REMOTE_ADDR"),
        **_facts(known),
    )


def served(response: Response, request: Request, environ: Mapping[str, Any], took: timedelta) -> None:
    """Log a request that the application answered, once its last byte is sent, or cannot be."""
    known: Known | None = environ.get(_ENVIRON_KEY)
    # The server calls this in a ``finally``: an exception on its way is why the answer ended.
    short = response.response_length is not None and response.sent < response.response_length
    bodiless = request.method == "HEAD" or (response.status or "").startswith("304")
    cut = sys.exc_info()[0] not in (None, HandedOver) or (short and not bodiless)
    facts: dict[str, object] = {"aborted": True} if cut else {}
    facts |= _facts(known)
    _log.info(
        "request",
        method=request.method,
        path=request.path,
        # None: the application failed before it began an answer.
        status=None if response.status is None else int(response.status[:3]),
        bytes=response.sent,
        duration_ms=round(took.total_seconds() * 1000, 3),
        remote=environ.get("REMOTE_ADDR"),
        **facts,
    )


def _facts(known: Known | None) -> dict[str, object]:
    if known is None:
        return {}
    return {
        "trace_id": known.trace_id,
        "tenant": known.tenant,
        "subject": known.subject,
        "route": known.route,
    }


def refused(status: int, trace_id: str, remote: object, request: Request | None, size: int) -> None:
    """Log what the server refused by itself; it may not even have a method."""
    _log.info(
        "request",
        trace_id=trace_id,
        method=getattr(request, "method", None),
        path=getattr(request, "path", None),
        status=status,
        bytes=size,
        remote=remote[0] if isinstance(remote, tuple) else remote,
        refused_by="server",
    )
