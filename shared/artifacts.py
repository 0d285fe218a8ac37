"""The artifact store: bytes under their SHA-256, written once, shared by all who wrote the same.

Who may read which hash is the ledger's business; the store knows no tenants.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import structlog

from shared.domain.models import Sha256
from shared.errors import ArtifactNotFound, OrchestratorError, StoreUnavailable

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

CHUNK_BYTES = 1 << 20
SWEEP_EVERY_SECONDS = 15
SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactTooLarge(ValueError):
    """The content is over ``max_bytes``; nothing was stored."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"an artifact may have at most {max_bytes} bytes")
        self.max_bytes = max_bytes


class ArtifactCorrupt(OrchestratorError):
    """The stored bytes do not have the hash that they are stored under."""


class ArtifactStore(Protocol):
    """Where artifacts are kept. Every method may raise StoreUnavailable: out of reach, or full."""

    def put_bytes(self, content: bytes, *, max_bytes: int | None = None) -> tuple[Sha256, int]:
        """Store ``content`` for good and return its hash and size; raises ArtifactTooLarge."""

    def put_file(self, path: Path, *, max_bytes: int | None = None) -> tuple[Sha256, int]:
        """Store a copy of a file, never of what a symbolic link points to; raises ArtifactTooLarge."""

    def open(self, sha256: Sha256) -> BinaryIO:
        """Open the content for reading; seekable; raises ArtifactNotFound."""

    def size(self, sha256: Sha256) -> int:
        """Return the size in bytes; raises ArtifactNotFound."""

    def copy_to(self, sha256: Sha256, target: Path) -> None:
        """Write the content to a new read-only file and check its hash.

        Raises ArtifactNotFound, ArtifactCorrupt when the bytes have another hash, and OSError
        when ``target`` cannot be written.
        """


def open_store(url: str) -> ArtifactStore:
    """Open the store at ``file:///absolute/folder``, making the folder; refuse others with ValueError."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ValueError(f"the artifact store must be file:///absolute/folder, not {parts.scheme or url!r}")
    return FolderStore(Path(unquote(parts.path)))


class FolderStore:
    """Artifacts as files ``aa/aabb...`` in one folder, which several processes may share.

    A file appears under its name only complete and synced: it is written under ``.new/``,
    synced, renamed, and the folder synced. A writer locks its file (``flock``), so that what
    a crash leaves in ``.new/`` is known by its free lock; it is never read, and removed when
    a store is opened or written to. A folder without ``.new/`` is no store: it may be where
    one is to be mounted, and what is written there would be gone afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new = folder / ".new"
        with _translated():
            self._new.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remove_leftovers()

    def put_bytes(self, content: bytes, *, max_bytes: int | None = None) -> tuple[Sha256, int]:
        if max_bytes is not None and len(content) > max_bytes:
            raise ArtifactTooLarge(max_bytes)
        sha256 = Sha256(hashlib.sha256(content).hexdigest())
        with _translated():
            if not self._holds(sha256, len(content)):
                with self._temporary() as (file, temporary):
                    file.write(content)
                    self._keep(file, temporary, sha256)
        return sha256, len(content)

    def put_file(self, path: Path, *, max_bytes: int | None = None) -> tuple[Sha256, int]:
        digest, size = hashlib.sha256(), 0
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with (
            os.fdopen(source, "rb", buffering=0) as reader,
            _translated(),
            self._temporary() as (file, temporary),
        ):
            while chunk := reader.read(CHUNK_BYTES):
                size += len(chunk)
                if max_bytes is not None and size > max_bytes:
                    raise ArtifactTooLarge(max_bytes)
                digest.update(chunk)
                file.write(chunk)
            sha256 = Sha256(digest.hexdigest())
            if not self._holds(sha256, size):
                self._keep(file, temporary, sha256)
        return sha256, size

    def open(self, sha256: Sha256) -> BinaryIO:
        with _translated():
            try:
                return self._path(sha256).open("rb")
            except FileNotFoundError as error:
                raise self._missing(sha256) from error

    def size(self, sha256: Sha256) -> int:
        with _translated():
            try:
                return self._path(sha256).stat().st_size
            except FileNotFoundError as error:
                raise self._missing(sha256) from error

    def copy_to(self, sha256: Sha256, target: Path) -> None:
        digest = hashlib.sha256()
        # A copy, not a hard link: the owner of a linked file could make it writable again
        # and change what is stored under the hash.
        with self.open(sha256) as source, target.open("xb") as copy:
            for chunk in _chunks(source):
                digest.update(chunk)
                copy.write(chunk)
            os.fchmod(copy.fileno(), 0o444)
        if digest.hexdigest() != sha256:
            target.unlink()
            raise ArtifactCorrupt(f"the stored bytes of artifact {sha256} have another hash")

    def _path(self, sha256: Sha256) -> Path:
        if SHA256.fullmatch(sha256) is None:
            raise ArtifactNotFound("an artifact is named by 64 lowercase hex digits")
        return self._folder / sha256[:2] / sha256

    def _missing(self, sha256: Sha256) -> OrchestratorError:
        """Tell an artifact that does not exist from a whole store that is away."""
        if self._new.is_dir():
            return ArtifactNotFound(f"no artifact {sha256}")
        return StoreUnavailable("the artifact store cannot be used: its folder is away")

    def _holds(self, sha256: Sha256, size: int) -> bool:
        """Tell whether the content is there already. One of another size has been damaged: write it anew."""
        try:
            return self._path(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    @contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        """Open a new file on the same file system; it is gone afterwards unless it was kept."""
        if time.monotonic() >= self._sweep_at:
            self._remove_leftovers()
        file, path = self._new_file()
        try:
            with file:
                yield file, path
        finally:
            path.unlink(missing_ok=True)

    def _new_file(self) -> tuple[BinaryIO, Path]:
        while True:
            path = self._new / uuid4().hex
            file = path.open("xb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                file.close()
                path.unlink(missing_ok=True)
                raise
            if os.fstat(file.fileno()).st_nlink:
                return file, path
            # Between the two somebody took it for a leftover.
            file.close()

    def _remove_leftovers(self) -> None:
        """Remove the files that nobody has locked: their writers are dead."""
        self._sweep_at = time.monotonic() + SWEEP_EVERY_SECONDS
        for path in self._new.iterdir():
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            except (FileNotFoundError, BlockingIOError):
                continue  # Kept meanwhile, or swept by another; or it is being written.
            except OSError as error:
                # It is in nobody's way, and who only reads can do so.
                LOGGER.warning("artifact_leftover_not_removed", error=error.strerror)

    def _keep(self, file: BinaryIO, temporary: Path, sha256: Sha256) -> None:
        """Give the written file its name. Two writers of one hash both succeed: the bytes are the same."""
        target = self._path(sha256)
        file.flush()
        os.fchmod(file.fileno(), 0o444)
        os.fsync(file.fileno())
        made = not target.parent.exists()
        target.parent.mkdir(exist_ok=True, mode=0o700)
        temporary.rename(target)
        _sync_folder(target.parent)
        if made:
            _sync_folder(self._folder)


def verified(file: BinaryIO, sha256: Sha256) -> Iterator[bytes]:
    """Read an open artifact to its end; give the last piece only when the hash of all of them holds.

    Raises ArtifactCorrupt otherwise: whoever counts what comes is told of a size that is never reached.
    """
    digest, last = hashlib.sha256(), b""
    for chunk in _chunks(file):
        if last:
            yield last
        digest.update(chunk)
        last = chunk
    if digest.hexdigest() != sha256:
        raise ArtifactCorrupt(f"the stored bytes of artifact {sha256} have another hash")
    yield last


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while True:
        with _translated():
            chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the file system's errors into the one that callers know to retry."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreUnavailable(
            "the artifact store is full" if full else f"the artifact store cannot be used: {error.strerror}"
        ) from error
