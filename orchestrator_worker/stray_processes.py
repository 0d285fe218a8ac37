"""End the processes of an attempt that nobody watches over any more.

Whoever killed a tree's keeper, or all of a worker at once, may have left processes in sessions
of their own: they have no parent that knows them. Their environment still does: it names the
attempt's private folder, unless they have taken care that it does not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GIVE_UP_SECONDS = 2.0
PAUSE_SECONDS = 0.01


def kill_strays(folder: Path) -> None:
    """Kill every process with a variable that names a path below ``folder``, until none is left.

    Only Linux tells the environment of a process. One that hangs in the kernel is given up.
    """
    give_up_at = time.monotonic() + GIVE_UP_SECONDS
    while (strays := _strays(b"=" + os.fsencode(folder) + b"/")) and time.monotonic() < give_up_at:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)


def _strays(mark: bytes) -> list[int]:
    if sys.platform != "linux":
        return []
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and mark in _environ(pid)]


def _environ(pid: int) -> bytes:
    """Read what a process had in its environment at its start; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return b""  # It has ended, or is another user's and so not ours to end.
