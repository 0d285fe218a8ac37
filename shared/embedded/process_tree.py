"""Which processes descend from which, and how to end all of them. Linux: it reads /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_STARTTIME = 19  # in /proc/<pid>/stat, counted from the state, which follows the name
_PPID = 1


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, however it left its session."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may hold anything, parentheses too.
    return text.rpartition(")")[2].split()


def start_ticks(pid: int) -> int | None:
    """Tell when a process started, in ticks since boot: with its pid, that names it for good."""
    stat = _stat(pid)
    return None if stat is None or stat[0] == "Z" else int(stat[_STARTTIME])


def children(pid: int) -> set[int]:
    """List the direct children of a process, zombies included."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(int(child) for child in task.read_text().split())
    return found


def descendants(pid: int) -> set[int]:
    """List everything below a process."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        new = children(queue.pop()) - found
        found |= new
        queue += new
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_tree(pid: int) -> None:
    """Kill a process and everything below it, also what left its process group."""
    doomed = [pid, *descendants(pid)]
    for process in doomed:
        send(process, signal.SIGKILL)


def kill_adopted(keep: Iterable[int] = ()) -> None:
    """Kill every child of this process that is not in ``keep``, with all below it, and reap it."""
    for pid in children(os.getpid()) - set(keep):
        kill_tree(pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def kill_all_below(within_s: float) -> set[int]:
    """Kill everything below this process; give what is left when the time is over."""
    deadline = time.monotonic() + within_s
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        kill_adopted()
        time.sleep(0.02)
    return left
