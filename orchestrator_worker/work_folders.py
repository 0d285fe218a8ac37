"""Private folders of attempts: made on demand, removed afterwards, swept up after a crash.

A folder is locked (``flock``) by the process that made it for as long as the attempt runs.
So a folder whose lock can be had belongs to nobody, whatever happened to its worker.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

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
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Renamed only once it is locked, so that a sweep never sees it without its lock.
        unlocked.rename(self.path)

    def remove(self) -> None:
        """Remove the folder with all that is in it, then let the lock go."""
        try:
            remove_tree(self.path)
        finally:
            os.close(self._lock)


def sweep(root: Path) -> int:
    """Remove the folders that dead workers left below ``root``; return how many. Call it at start."""
    removed = 0
    for path in [*root.glob(PREFIX + "*"), *root.glob(UNLOCKED_PREFIX + "*")]:
        with suppress(FileNotFoundError, BlockingIOError):
            if (
                path.name.startswith(UNLOCKED_PREFIX)
                and path.stat().st_mtime > time.time() - UNLOCKED_SECONDS
            ):
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(path)
                removed += 1
            finally:
                os.close(lock)
    return removed


def remove_tree(path: Path) -> None:
    """Remove a folder, also when its owner has taken permissions away from parts of it; follow no link."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        _open_up(path)
        shutil.rmtree(path)


def _open_up(path: Path) -> None:
    folders = [path]
    while folders:
        folder = folders.pop()
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            folders.extend(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
