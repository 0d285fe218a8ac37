"""What processes use of the machine, as the kernel tells it in /proc. Linux."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.embedded.process_tree import descendants

_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""In these the kernel counts CPU time, so many a second."""
_USER, _CHILDREN_SYSTEM = 11, 15
"""In /proc/<pid>/stat, counted from the state: own and reaped children's, each user and system."""
_FORGET_PEAK: Final = "5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one process, in kilobytes (of 1,024 bytes)."""

    resident: int
    """With what it shares with others, such as libraries (RSS)."""
    own: int
    """What would be free again if it ended (USS)."""


def memory(pid: int) -> Memory:
    """Tell how much memory a process has now; OSError when it is gone, or another user's."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return Memory(resident=kilobytes["Rss"], own=kilobytes["Private_Clean"] + kilobytes["Private_Dirty"])


def forget_peak(pid: int) -> None:
    """Have the kernel count a process's peak from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK, encoding="ascii")


def peak(pid: int) -> int:
    """Tell the most resident memory that a process has had since then, in kilobytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def cpu_seconds(pid: int) -> float:
    """Tell the CPU time that a process, all below it and all that ended below it have used so far."""
    ticks = 0
    for process in (pid, *descendants(pid)):
        try:
            stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            # It has just ended; its parent has its time now, or will have it at the next look.
            continue
        ticks += sum(int(number) for number in stat.rpartition(")")[2].split()[_USER:_CHILDREN_SYSTEM])
    return ticks / _TICKS
