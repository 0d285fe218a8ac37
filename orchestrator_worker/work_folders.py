"""Private folders of attempts: made on demand, removed afterwards, swept up after a crash.

A folder is locked (``flock``) by the process that made it for as long as the attempt runs.
So a folder whose lock can be had belongs to nobody, whatever happened to its worker.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import structlog

from orchestrator_worker.stray_processes import kill_strays

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

PREFIX = "attempt-"
UNLOCKED_PREFIX = "new-"
UNLOCKED_SECONDS = 60


class WorkFolder:
    """One locked folder below ``root``, mode 0700."""

    def __init__(self, root: Path) -> None:
        name = uuid4().hex
        unlocked = root / (UNLOCKED_PREFIX + name)
        self.path = root / (PREFIX + name)
        root.mkdir(parents=True, exist_ok=True)
        unlocked.mkdir(mode=0o700)
        self._lock = os.open(unlocked, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # Renamed only once it is locked, so that a sweep never sees it without its lock.
            unlocked.rename(self.path)
        except OSError:
            os.close(self._lock)
            raise

    def remove(self) -> None:
        """Remove the folder with all that is in it, then let the lock go."""
        try:
            remove_tree(self.path)
        finally:
            os.close(self._lock)


def sweep(root: Path) -> int:
    """Remove the folders that dead workers left below ``root``; return how many. Call it at start.

    What still runs in one is killed first: its step is another attempt's by now. A folder
    that cannot be removed is left to the next sweep; it must not keep a worker from its work.
    """
    removed = 0
    for path in [*root.glob(PREFIX + "*"), *root.glob(UNLOCKED_PREFIX + "*")]:
        try:
            removed += _sweep_one(path)
        except (FileNotFoundError, BlockingIOError):
            continue  # Another worker sweeps, too; or it is in use.
        except OSError as error:
            LOGGER.warning("work_folder_not_removed", folder=path.name, error=error.strerror)
    return removed


def _sweep_one(path: Path) -> bool:
    if path.name.startswith(UNLOCKED_PREFIX) and path.stat().st_mtime > time.time() - UNLOCKED_SECONDS:
        return False
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kill_strays(path)
        remove_tree(path)
    finally:
        os.close(lock)
    return True


def remove_tree(path: Path) -> None:
    """Remove a folder, however deep and whatever permissions its parts have lost; follow no link.

    A folder in it is emptied by moving the folders in that one up to the top. So no path
    grows, nothing recurses, and each folder is moved at most once.
    """
    try:
        top = _open_folder(path, None)
    except FileNotFoundError:
        return
    try:
        found = _empty(top)
        while found:
            name = found.pop()
            folder = _open_folder(name, top)
            try:
                for inner in _empty(folder):
                    moved = uuid4().hex
                    # To move a folder is to write into it: to the entry for its parent.
                    os.chmod(inner, 0o700, dir_fd=folder)
                    os.rename(inner, moved, src_dir_fd=folder, dst_dir_fd=top)
                    found.append(moved)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    with suppress(FileNotFoundError):
        path.rmdir()


def _open_folder(name: str | Path, parent: int | None) -> int:
    # The owner may always change the mode, and what is opened here is never a link.
    os.chmod(name, 0o700, dir_fd=parent)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _empty(folder: int) -> list[str]:
    """Remove all but the folders in an open folder; return the names of these."""
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        if not is_folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in listed if is_folder]
