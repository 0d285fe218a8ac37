"""The body of an HTTP answer: read within bounds, stored, and shown where it is small."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from orchestrator_worker.output_folder import parse_json
from shared.domain import hashing
from shared.domain.models import ArtifactRef, Json
from shared.domain.states import ErrorCode
from shared.plugins import PluginFailed, StepContext

MAX_INLINE_BYTES = 65_536
IN_MEMORY_BYTES = 1 << 20
PIECE_BYTES = 65_536


class HttpRefused(Exception):
    """The step fails for a reason that was found on our side; ``failure`` says which."""

    def __init__(
        self, message: str, code: ErrorCode = ErrorCode.PLUGIN_ERROR, *, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.failure = PluginFailed(error_code=code, message=message, retryable=retryable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A body as it was meant, its content encoding undone: in memory, or in a file when it is large."""

    content: bytes | Path
    content_type: str
    charset: str | None

    def store(self, context: StepContext) -> ArtifactRef:
        return context.put_artifact("body", self.content, self.content_type)

    def text(self) -> str | None:
        """Return the body as text if it is small and is one."""
        if isinstance(self.content, Path) or len(self.content) > MAX_INLINE_BYTES:
            return None
        try:
            text = self.content.decode(self.charset or "utf-8")
        except (UnicodeDecodeError, LookupError):
            return None
        return None if "\0" in text else text

    def inline(self) -> dict[str, Json]:
        """Return ``json`` for JSON that can be recorded exactly, else ``text`` for text, else nothing."""
        text = self.text()
        if text is None:
            return {}
        kind = self.content_type.partition(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            try:
                value = parse_json(text.encode())
                hashing.canonical(value)
            except (ValueError, RecursionError):
                return {"text": text}
            return {"json": value}
        return {"text": text}


def read_body(response: httpx.Response, max_bytes: int, context: StepContext) -> Body:
    """Read an answer to its end; raises HttpRefused when it is over ``max_bytes``, unpacked."""
    pieces = _bounded(_unpacked(response), max_bytes)
    start = bytearray()
    content: bytes | Path | None = None
    for piece in pieces:
        start += piece
        if len(start) > IN_MEMORY_BYTES:
            content = _spill(start, pieces, context.work_dir() / f"body-{response.status_code}")
    return Body(
        content=bytes(start) if content is None else content,
        content_type=response.headers.get("content-type", ""),
        charset=response.charset_encoding,
    )


def _spill(start: bytearray, rest: Iterator[bytes], path: Path) -> Path:
    with path.open("wb") as file:
        file.write(start)
        file.writelines(rest)
    return path


def _bounded(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > max_bytes:
            raise HttpRefused(f"the body is over {max_bytes} bytes", ErrorCode.OUTPUTS_TOO_LARGE)
        yield piece


def _unpacked(response: httpx.Response) -> Iterator[bytes]:
    """Undo gzip in pieces of bounded size: a few bytes can stand for gigabytes."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        yield from response.iter_raw()
        return
    if encoding not in ("gzip", "x-gzip"):
        raise HttpRefused(f"the body is encoded as {encoding!r}, which was not asked for")
    unpacker = zlib.decompressobj(wbits=31)
    begun = False
    for received in response.iter_raw():
        packed = received
        while packed:
            if unpacker.eof:  # A body may be several members, one after the other.
                unpacker = zlib.decompressobj(wbits=31)
            begun = True
            try:
                yield unpacker.decompress(packed, PIECE_BYTES)
            except zlib.error as error:
                raise HttpRefused(f"the body is no sound gzip: {error}") from error
            packed = unpacker.unconsumed_tail or unpacker.unused_data
    if begun and not unpacker.eof:
        raise HttpRefused("the gzip body ends too early", retryable=True)
