"""A machine whose disk is full, or that has other things to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

from tests.chaos.fault import Target, fault

HOGS = 4
CHUNK = b"\0" * 65_536


@fault("disk of artifacts and of working folders full", lasts=True, within_s=10)
def disk_full(target: Target) -> Iterator[None]:
    """Their file systems are filled to the last byte; the ballast is removed to heal."""
    ballast = [folder / ".ballast" for folder in target.small_disks]
    try:
        for path in ballast:
            with suppress(OSError), path.open("wb", buffering=0) as file:
                while True:
                    file.write(CHUNK)
        yield
    finally:
        for path in ballast:
            path.unlink(missing_ok=True)


@fault("processors busy", lasts=True, within_s=15)
def processors_busy(_target: Target) -> Iterator[None]:
    """Four processes that only count; their end heals."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(HOGS)]
    try:
        yield
    finally:
        for hog in hogs:
            os.kill(hog.pid, signal.SIGKILL)
            hog.wait()
