"""What comes before a WebSocket: whether the request may become one, and the head of the answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from orchestrator_api.connections import PatientSocket
from orchestrator_api.credentials import PROTOCOL
from orchestrator_api.errors import OriginForbidden
from shared.errors import InvalidArgument, Problem

_VERSION: Final = "13"
_KEY_BYTES: Final = 16


class NoThread:
    """Stands for the thread that simple-websocket would begin for a client: the hub reads all sockets."""

    def __init__(self, target: object) -> None:
        self.name = ""

    def start(self) -> None:
        """Begin nothing."""


OPTIONS: Final[Mapping[str, object]] = {"subprotocols": [PROTOCOL], "thread_class": NoThread}
"""How flask-sock makes its side of a WebSocket."""


class Handshake:
    """Stands for the thread that simple-websocket would begin for a client; the hub reads all sockets."""

    def __init__(self, sock: PatientSocket, headers: Mapping[str, str]) -> None:
        self.sock = sock
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def send(self, data: bytes) -> None:
        """Send the whole head, within the time that a client has for it."""
        line, _, rest = data.partition(b"\r\n")
        self.sock.sendall(line + b"\r\n" + self._headers.encode("latin-1") + rest)


def check(environ: Mapping[str, Any], origins: frozenset[str]) -> None:
    """Refuse what may not become a WebSocket: InvalidArgument; OriginForbidden for a page of elsewhere."""
    problems = []
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != _VERSION:
        problems.append(Problem("Sec-WebSocket-Version", f"must be {_VERSION}"))
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        problems.append(Problem("Sec-WebSocket-Key", "must be 16 bytes as base64"))
    if environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        problems.append(Problem("body", "the request of a WebSocket has none"))
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        problems.append(Problem("version", "a WebSocket begins with HTTP/1.1"))
    if problems:
        raise InvalidArgument("this request cannot become a WebSocket", problems)
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and not _is_ours(origin.lower(), environ.get("HTTP_HOST", "").lower(), origins):
        raise OriginForbidden("pages of this origin may not open streams here")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _is_ours(origin: str, host: str, origins: frozenset[str]) -> bool:
    """Tell whether a page is of this server, by whichever scheme a proxy in front speaks, or is listed."""
    if origin in origins:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and bool(host) and parts.netloc == host
