"""What the supervisor is asked from outside: by signals, and by the loss of its launcher."""

from __future__ import annotations

import os
import select
import signal
import socket
from types import FrameType


class Requests:
    """The wish that the stack stops, and how urgent it is.

    The first SIGTERM or SIGINT asks for an orderly stop, a second one for a quick
    one. The launcher holds the other end of ``launcher``; when that closes the
    launcher was killed, and everything has to be gone within seconds.
    """

    def __init__(self, launcher: int) -> None:
        self.stop = False
        self.hurry = False
        self._launcher = launcher
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        self._keep_open = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        # A handler that does nothing: the end of a child has to wake the loop.
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.hurry = self.stop
        self.stop = True

    def wait(self, seconds: float) -> None:
        """Wait until something happens, or for so long."""
        watched: list[socket.socket | int] = [self._wake]
        if not self.hurry:
            watched.append(self._launcher)
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake in ready:
            self._wake.recv(4096)
        if self._launcher in ready and not os.read(self._launcher, 4096):
            self.stop = self.hurry = True
