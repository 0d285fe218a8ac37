"""Keep programs running: start them, start them again when they end, stop them with nothing left."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT

from orchestrator_cli.errors import CommandError
from orchestrator_cli.requests import Requests
from shared.embedded.process_tree import kill_adopted, kill_all_below, kill_tree, send, start_ticks
from shared.embedded.program import Program

LOGGER = logging.getLogger("orch.up")

FIRST_DELAY_S = 0.2
MAX_DELAY_S = 10.0
STABLE_S = 30.0
"""A program that ran for so long starts again with the first delay."""
MAX_FAILED_STARTS = 4
HURRIED_STOP_S = 1.5
"""What each tier gets when the launcher was killed: five in a row stay below ten seconds."""
_TICK_S = 0.25
_POLL_S = 0.03
_SHOWN_LINES = 15


@dataclass(slots=True, kw_only=True)
class _Kept:
    """A program that has to run, and how that goes."""

    program: Program
    prepare: Callable[[], None]
    is_ending: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0


class Supervisor:
    """Programs by name.

    This process is the parent of every orphan below it (``adopt_orphans``), so a
    child that it did not start has lost its own parent: a step whose worker was
    killed, a server process whose master was. It is killed: whoever starts the
    parent again must not meet it.
    """

    def __init__(self, requests: Requests, log_folder: Path) -> None:
        self._requests = requests
        self._log_folder = log_folder
        self._kept: dict[str, _Kept] = {}
        self._stopping: list[subprocess.Popen[bytes]] = []
        self._on_start: Callable[[], None] = lambda: None

    def keep(
        self,
        program: Program,
        prepare: Callable[[], None] = lambda: None,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start a program, and again whenever it ends; ``prepare`` runs before each start.

        One that says that it ``is_ending``, and is not told to, is made to end now.
        """
        self._kept[program.name] = _Kept(program=program, prepare=prepare, is_ending=is_ending)
        self._start_due()

    def call_on_start(self, callback: Callable[[], None]) -> None:
        """Call back after each start of a program: the processes have changed."""
        self._on_start = callback

    def processes(self) -> dict[str, dict[str, int | None]]:
        """Name the processes that run, in a way that stays true after their pids were given to others."""
        running = {name: kept.process.pid for name, kept in self._kept.items() if kept.process is not None}
        return {name: {"pid": pid, "startTicks": start_ticks(pid)} for name, pid in running.items()}

    def run_until(self, fact: Callable[[], bool], *, within_s: float, what: str) -> bool:
        """Supervise until the fact holds; False when a stop was requested before.

        Raises CommandError when the time is over, or a program cannot be kept running.
        """
        deadline = time.monotonic() + within_s
        while not self._requests.stop:
            self._tick()
            if fact():
                return True
            failing = [name for name, kept in self._kept.items() if kept.failures >= MAX_FAILED_STARTS]
            if failing:
                raise CommandError(f"{failing[0]} does not stay up:\n{self._last_lines(failing[0])}")
            if time.monotonic() > deadline:
                raise CommandError(f"{what} within {within_s:.0f} s; see {self._log_folder}")
            self._requests.wait(_POLL_S)
        return False

    def run(self) -> None:
        """Supervise until a stop is requested."""
        while not self._requests.stop:
            self._tick()
            self._requests.wait(_TICK_S)

    def stop(self, names: Iterable[str], *, within_s: float) -> None:
        """Stop some programs together: ask, wait, kill. The others are kept running meanwhile."""
        stopped = [self._kept.pop(name) for name in list(names) if name in self._kept]
        running = {kept.program.name: kept.process for kept in stopped if kept.process is not None}
        self._stopping = list(running.values())
        for kept in stopped:
            if kept.process is not None:
                send(kept.process.pid, kept.program.stop_signal)
                # One that is frozen cannot heed it.
                send(kept.process.pid, SIGCONT)
        begun = time.monotonic()
        while any(process.poll() is None for process in running.values()):
            bound = min(within_s, HURRIED_STOP_S) if self._requests.hurry else within_s
            if time.monotonic() > begun + bound:
                self._kill(running)
                break
            self._tick()
            self._requests.wait(_POLL_S)
        self._stopping = []

    def kill_rest(self) -> None:
        """Kill whatever is left below this process."""
        self._kept.clear()
        left = kill_all_below(within_s=3)
        if left:
            LOGGER.error("these processes could not be killed: %s", sorted(left))

    def _kill(self, running: dict[str, subprocess.Popen[bytes]]) -> None:
        for name, process in running.items():
            if process.poll() is None:
                LOGGER.warning("%s (pid %d) does not stop; it is killed", name, process.pid)
                kill_tree(process.pid)
                process.wait()

    def _tick(self) -> None:
        """Take note of what has ended, kill what that has orphaned, start what is due."""
        for name, kept in self._kept.items():
            if kept.process is None:
                continue
            if kept.process.poll() is None:
                if kept.is_ending():
                    send(kept.process.pid, kept.program.stop_signal)
            else:
                status = kept.process.returncode
                how = f"signal {-status}" if status < 0 else f"status {status}"
                self._retry_later(kept, f"{name} ended with {how}")
        ours = [kept.process for kept in self._kept.values() if kept.process is not None]
        kill_adopted(keep=[process.pid for process in [*ours, *self._stopping]])
        self._start_due()

    def _retry_later(self, kept: _Kept, why: str) -> None:
        now = time.monotonic()
        kept.process = None
        kept.failures = 1 if now - kept.started_at > STABLE_S else kept.failures + 1
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** (kept.failures - 1))
        kept.start_at = now + delay
        LOGGER.warning("%s; it starts again in %.1f s", why, delay)

    def _start_due(self) -> None:
        for name, kept in self._kept.items():
            if kept.process is None and time.monotonic() >= kept.start_at:
                kept.started_at = time.monotonic()
                try:
                    kept.prepare()
                    kept.process = kept.program.start(self._log_folder / f"{name}.log")
                except OSError as error:
                    # A full disk, most likely: what runs goes on, this is tried again.
                    self._retry_later(kept, f"{name} cannot be started: {error}")
                else:
                    self._on_start()

    def _last_lines(self, name: str) -> str:
        text = (self._log_folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-_SHOWN_LINES:])
