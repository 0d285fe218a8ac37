"""Wait for processes to come up, and leave none behind."""

from __future__ import annotations

import signal as signals
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.subject import BenchError
from shared.embedded.process_tree import kill_tree

_PAUSE_S = 0.05


@contextmanager
def stopped_after(
    process: subprocess.Popen[bytes], *, within_s: float, signal: signals.Signals = signals.SIGTERM
) -> Iterator[None]:
    """Ask a process to end after the block; kill it, with all below it, when it does not."""
    try:
        yield
    finally:
        process.send_signal(signal)
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()


def wait_until(fact: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Ask for a fact until it holds; BenchError when the time is over."""
    deadline = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > deadline:
            raise BenchError(f"{what} did not come up within {within_s:.0f} s")
        time.sleep(_PAUSE_S)
