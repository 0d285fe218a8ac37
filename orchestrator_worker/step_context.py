"""What a plugin gets to see and use while it runs one attempt."""

from __future__ import annotations

import mimetypes
import re
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath

from orchestrator_worker.work_folders import WorkFolder
from shared.artifacts import ArtifactStore
from shared.domain.models import ArtifactRef, Claim, RunId, Sha256, StepId, TenantId
from shared.domain.trace import TraceContext
from shared.errors import ArtifactNotFound, Unavailable
from shared.plugins import Limits, Stop

LOG_NAME = "log"
LOG_TYPE = "text/plain; charset=utf-8"
UNKNOWN_TYPE = "application/octet-stream"
MAX_NAME_BYTES = 1_024
WORD = r"[\w!#$&^.+-]+"
CONTENT_TYPE = re.compile(rf"{WORD}/{WORD}( *; *{WORD}=({WORD}|\"[ !#-\[\]-~]*\"))*", re.ASCII)


class AttemptLog:
    """The log of one attempt, in memory, up to ``max_bytes``; what comes later is counted and dropped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._dropped = 0
        self._lock = threading.Lock()
        self.on_first_write: Callable[[], None] | None = None
        """Called once, when there is something to read."""

    def write(self, data: bytes) -> None:
        with self._lock:
            begun, self.on_first_write = self.on_first_write, None
            room = self._max_bytes - len(self._buffer)
            self._buffer += data[:room]
            self._dropped += max(0, len(data) - room)
        if begun is not None:
            begun()

    def line(self, text: str) -> None:
        self.write(text.encode(errors="replace") + b"\n")

    def piece(self, start: int, most: int) -> bytes:
        """Return what was logged so far, from byte ``start`` on, at most so many bytes of it."""
        with self._lock:
            return bytes(self._buffer[start : start + most])

    def content(self) -> bytes:
        """Return what was logged, with a mark at the end if some of it was dropped."""
        with self._lock:
            mark = f"\n[log cut here: {self._dropped} more bytes were written]\n" if self._dropped else ""
            # Copied once: a log may be the largest thing in the worker's memory.
            return b"".join((self._buffer, mark.encode()))


class AttemptContext:
    """The ``StepContext`` of one attempt. Costs nothing until something in it is used."""

    def __init__(
        self,
        claim: Claim,
        *,
        stop: Stop,
        limits: Limits,
        store: ArtifactStore,
        work_root: Path,
        owns: Callable[[Sha256], bool],
        trace: TraceContext,
    ) -> None:
        self._claim = claim
        self._store = store
        self._work_root = work_root
        self._owns = owns
        self._folder: WorkFolder | None = None
        self.log = AttemptLog(limits.max_log_bytes)
        self.stop = stop
        self.limits = limits
        self.trace = trace

    @property
    def tenant(self) -> TenantId:
        return self._claim.tenant

    @property
    def run_id(self) -> RunId:
        return self._claim.run_id

    @property
    def step_id(self) -> StepId:
        return self._claim.step_id

    @property
    def attempt(self) -> int:
        return self._claim.attempt

    @property
    def traceparent(self) -> str:
        return self.trace.traceparent

    @property
    def tracestate(self) -> str:
        return self.trace.state

    def work_dir(self) -> Path:
        if self._folder is None:
            try:
                self._folder = WorkFolder(self._work_root)
            except OSError as error:
                # Whatever it is, it is this worker's trouble: another one, or a later try, may have a folder.
                raise Unavailable(f"the worker cannot make a work folder: {error.strerror}") from error
        return self._folder.path

    def put_artifact(self, name: str, content: Path | bytes, content_type: str | None = None) -> ArtifactRef:
        check_artifact_name(name)
        limit = self.limits.max_artifact_bytes
        if isinstance(content, Path):
            sha256, size = self._store.put_file(content, max_bytes=limit)
        else:
            sha256, size = self._store.put_bytes(content, max_bytes=limit)
        known = content_type is not None and CONTENT_TYPE.fullmatch(content_type) is not None
        return ArtifactRef(
            name=name,
            sha256=sha256,
            size_bytes=size,
            content_type=content_type if known and content_type is not None else guess_type(name),
        )

    def fetch_artifact(self, sha256: Sha256, to: Path) -> None:
        # Asked first: what is not this tenant's must look the same as what does not exist.
        if not self._owns(sha256):
            raise ArtifactNotFound(f"no artifact {sha256}")
        self._store.copy_to(sha256, to)

    def keep_log(self) -> ArtifactRef | None:
        """Store what was logged, if anything was."""
        content = self.log.content()
        if not content:
            return None
        sha256, size = self._store.put_bytes(content)
        return ArtifactRef(name=LOG_NAME, sha256=sha256, size_bytes=size, content_type=LOG_TYPE)

    def close(self) -> None:
        """Remove the work folder, if there is one."""
        if self._folder is not None:
            folder, self._folder = self._folder, None
            folder.remove()


def check_artifact_name(name: str) -> None:
    """Refuse, with ValueError, a name that is no relative path or that cannot be shown or stored."""
    path = PurePosixPath(name)
    if name == LOG_NAME:
        raise ValueError(f"the artifact name {LOG_NAME!r} is kept for the step's own log")
    if not name or str(path) != name or path.is_absolute() or ".." in path.parts or name == ".":
        raise ValueError(f"an artifact name must be a plain relative path, not {name!r}")
    if not name.isprintable() or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ValueError(f"an artifact name must be printable and at most {MAX_NAME_BYTES} bytes long")


def guess_type(name: str) -> str:
    """Guess a content type by the ending of a name, alike on every machine."""
    guessed, encoding = _types().guess_type(name)
    return guessed if guessed is not None and encoding is None else UNKNOWN_TYPE


@cache
def _types() -> mimetypes.MimeTypes:
    # Not the module's own table: that one reads whatever files the machine has.
    types = mimetypes.MimeTypes()
    types.add_type("text/markdown", ".md")
    types.add_type("application/x-ndjson", ".ndjson")
    return types
