"""Run a program with all that it starts as one tree that ends with the attempt.

What is guaranteed on Linux: when ``run`` returns, no process of the tree is left, also none
that moved to a session of its own; when the worker is killed, the tree is gone within about
a second. When the keeper is killed, the tree is known by its environment instead: a program
that kills its keeper and hides from that can break this; only a PID namespace can stop it.
Elsewhere the guarantee covers the program's process group.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator_worker.stray_processes import kill_strays
from shared.plugins import Stop, StopReason

KEEPER = Path(__file__).with_name("tree_keeper.py")
CHUNK_BYTES = 65_536
SPARE_SECONDS = 5.0
"""How much longer than its orders allow the keeper may take before it counts as stuck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. The environment is complete: nothing is inherited. No value may hold a NUL.

    ``folder`` is the attempt's own. A variable should name a path below it: see ``kill_strays``.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Exited:
    """The program ended by itself with ``status``."""

    status: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The program was ended by a signal, ours or another's."""

    signal: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """The system could not start the program; ``errno`` says why."""

    errno: int


@dataclass(frozen=True, slots=True)
class KeeperLost:
    """The keeper died without a report, so how the program ended is unknown."""


Ending = Exited | Killed | NotStarted | KeeperLost


def run(
    command: Command,
    *,
    stop: Stop,
    kill_grace_seconds: float,
    on_stdout: Callable[[bytes], None],
    on_stderr: Callable[[bytes], None],
) -> Ending:
    """Run ``command`` until it and all that it started have ended, by themselves or because of ``stop``.

    Output is handed on as it comes, from the calling thread. A stop is SIGTERM, and SIGKILL
    after the grace time; a lost lease is SIGKILL at once, since another worker may begin.
    """
    with ExitStack() as stack:
        wake, waker = socket.socketpair()
        stack.enter_context(wake)
        stack.enter_context(waker)
        report_read, report_write = os.pipe()
        report = stack.enter_context(os.fdopen(report_read, "rb", buffering=0))
        with os.fdopen(report_write, "wb", buffering=0):
            keeper = _start_keeper(command.cwd, report_write)
        stack.enter_context(keeper)
        sinks = {"out": on_stdout, "err": on_stderr}
        watch = _Watch(keeper, report, wake, kill_grace_seconds, sinks, command.folder)

        def wake_up() -> None:
            # The attempt may be over and the socket closed: then there is nobody to wake.
            with suppress(OSError):
                waker.send(b"!")

        try:
            watch.begin(command, stop)
            stack.callback(stop.call_on_stop(wake_up))
            return watch.until_end(stop)
        finally:
            watch.fall_silent()
            watch.kill()


def _start_keeper(cwd: Path, report_write: int) -> subprocess.Popen[bytes]:
    inherited = ("LD_LIBRARY_PATH", "PATH")
    return subprocess.Popen(
        # Isolated and without site: quick to start, and nothing in the work folder is imported.
        [sys.executable, "-I", "-S", str(KEEPER), str(report_write)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=cwd,
        env={name: os.environ[name] for name in inherited if name in os.environ},
        pass_fds=(report_write,),
        start_new_session=True,
    )


class _Watch:
    """One thread's view of a keeper: its output, its report, and the orders given to it."""

    def __init__(
        self,
        keeper: subprocess.Popen[bytes],
        report: IO[bytes],
        wake: socket.socket,
        kill_grace_seconds: float,
        sinks: Mapping[str, Callable[[bytes], None]],
        folder: Path,
    ) -> None:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        self._keeper = keeper
        self._control = keeper.stdin
        self._report = report
        self._wake = wake
        self._grace_seconds = kill_grace_seconds
        self._sinks = sinks
        self._folder = folder
        self._control_lock = threading.Lock()
        self._silent = False
        self._reported = b""
        self._give_up_at: float | None = None
        self._selector = selectors.DefaultSelector()
        self._selector.register(keeper.stdout, selectors.EVENT_READ, "out")
        self._selector.register(keeper.stderr, selectors.EVENT_READ, "err")
        self._selector.register(report, selectors.EVENT_READ, "report")
        self._selector.register(wake, selectors.EVENT_READ, "wake")
        self._open = {"out", "err", "report"}

    def begin(self, command: Command, stop: Stop) -> None:
        fields = [str(len(command.argv)), *command.argv, *(f"{k}={v}" for k, v in command.env.items())]
        body = b"\0".join(os.fsencode(field) for field in fields)
        self._send(b"%d %d\n" % (self._grace_seconds * 1000, len(body)) + body)
        # The keeper has the same clock, and outlives a worker that is frozen.
        stop.call_on_hold(lambda: self._tell_until(stop.held_until))
        self._tell_until(stop.held_until)

    def until_end(self, stop: Stop) -> Ending:
        while self._open:
            timeout = None if self._give_up_at is None else self._give_up_at - time.monotonic()
            if timeout is not None and timeout <= 0:
                break
            for key, _ in self._selector.select(timeout):
                if key.data == "wake":
                    self._selector.unregister(self._wake)
                    self._give_order(stop.reason)
                else:
                    self._read(key.fd, key.data)
        return self._ending()

    def _read(self, descriptor: int, source: str) -> None:
        chunk = os.read(descriptor, CHUNK_BYTES)
        if source != "report":
            if chunk:
                self._sinks[source](chunk)
        else:
            self._reported += chunk
            if not chunk:
                # The keeper is gone and with it the tree, so the output ends now. Where the
                # tree can get away from it, somebody may hold the pipes open: wait no longer.
                self._give_up_at = time.monotonic() + SPARE_SECONDS
                self._kill_those_of_lost_keeper()
        if not chunk:
            self._selector.unregister(descriptor)
            self._open.discard(source)

    def _give_order(self, reason: StopReason | None) -> None:
        at_once = reason is StopReason.LEASE_LOST
        self._send(b"K" if at_once else b"T")
        # The command may have stopped it.
        self._keeper.send_signal(signal.SIGCONT)
        self._give_up_at = time.monotonic() + (0 if at_once else self._grace_seconds) + SPARE_SECONDS

    def _tell_until(self, moment: float | None) -> None:
        """Tell the keeper until when to go on without us. The thread of the leases calls this, too."""
        with self._control_lock:
            if moment is None or self._silent:
                return
            poller = select.poll()
            poller.register(self._control, select.POLLOUT)
            # A keeper that the command has stopped reads nothing: nobody must wait for it here.
            if poller.poll(0):
                self._send(b"%d\n" % (moment * 1000))

    def fall_silent(self) -> None:
        """Write nothing more: the pipe is about to be closed."""
        with self._control_lock:
            self._silent = True

    def _send(self, data: bytes) -> None:
        # A keeper that is gone cannot be told anything; that it is gone shows in its report.
        with suppress(BrokenPipeError):
            while data:
                data = data[self._control.write(data) or 0 :]

    def _ending(self) -> Ending:
        for line in self._reported.splitlines():
            word, number = line.split()
            if word == b"exit":
                return Exited(int(number))
            if word == b"signal":
                return Killed(int(number))
            if word == b"error":
                return NotStarted(int(number))
        return KeeperLost()

    def kill(self) -> None:
        """Make sure that the keeper is gone; without a report, kill what it watched over as well."""
        self._selector.close()
        if self._give_up_at is None and self._keeper.poll() is None:
            # An exception is on its way out. The end of the control pipe tells the keeper that
            # nobody waits any more. One that is stuck has had its time.
            self._control.close()
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(SPARE_SECONDS)
        self._keeper.kill()
        self._keeper.wait()
        self._kill_those_of_lost_keeper()

    def _kill_those_of_lost_keeper(self) -> None:
        if not isinstance(self._ending(), KeeperLost):
            return
        for line in self._reported.splitlines():
            with suppress(ProcessLookupError):
                os.killpg(int(line.removeprefix(b"started ")), signal.SIGKILL)
        kill_strays(self._folder)
