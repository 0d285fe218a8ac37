"""Answer with NDJSON: a JSON object a line, sent while it is read, in constant memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager
from typing import Final

from flask import Response, request

CONTENT_TYPE: Final = "application/x-ndjson; charset=utf-8"
_CHUNK_BYTES = 1 << 16


def stream(source: AbstractContextManager[Iterable[bytes]]) -> Response:
    """Answer with the lines that ``source`` gives while it is open, each with its line feed.

    The first of them are read before the answer begins, so that whatever can be known by
    then is refused in the envelope. A failure after that cuts the connection. The source
    is closed before the last piece goes out, or when the client has gone, or stalled.
    """
    chunks = _chunks(source)
    first = next(chunks, b"")
    if request.method == "HEAD":
        # The server never sees, and so never closes, the content of a response that has no body.
        chunks.close()
        response = Response(iter(()), content_type=CONTENT_TYPE)
    else:
        connection: socket.socket | None = request.environ.get("gunicorn.socket")
        response = Response(_body(first, chunks, connection), content_type=CONTENT_TYPE)
        response.call_on_close(chunks.close)
    response.headers["Vary"] = "Accept"
    return response


def _chunks(source: AbstractContextManager[Iterable[bytes]]) -> Generator[bytes, None, None]:
    """Join lines to pieces that are worth sending."""
    lines: list[bytes] = []
    size = 0
    with source as read:
        for line in read:
            lines.append(line)
            size += len(line)
            if size >= _CHUNK_BYTES:
                yield b"".join(lines)
                lines, size = [], 0
    if lines:
        yield b"".join(lines)


def _body(
    first: bytes, rest: Generator[bytes, None, None], connection: socket.socket | None
) -> Generator[bytes, None, None]:
    yield first
    try:
        yield from rest
    except Exception:
        # Without its last chunk it looks cut; HTTP/1.0 has no chunks, and takes only a reset for a failure.
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        raise
