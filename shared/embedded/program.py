"""A program to run for as long as the stack is up: what to start, and how it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class EmbeddedError(Exception):
    """An embedded server cannot run here; the message says why, for the person at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The identity a program runs under, where it must not be the caller's own."""

    prefix: tuple[str, ...] = ()
    """Put before the command; it has to replace itself by the command, not wait for it."""
    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Hand a file or folder over to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start, where, and the signal that asks it to stop."""

    name: str
    argv: tuple[str, ...]
    folder: Path
    environ: Mapping[str, str]
    account: Account = Account()
    stop_signal: signal.Signals = signal.SIGTERM

    def start(self, log_file: Path) -> subprocess.Popen[bytes]:
        """Start it as the leader of its own session, with its output appended to ``log_file``.

        A session of its own keeps Ctrl-C at the terminal from reaching it: whoever
        started it decides the order in which programs stop.
        """
        with log_file.open("ab") as log:
            return subprocess.Popen(
                [*self.account.prefix, *self.argv],
                cwd=self.folder,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.account.uid,
                group=self.account.gid,
                extra_groups=None if self.account.uid is None else [],
            )
