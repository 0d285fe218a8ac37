"""The folder that holds all of an installation's data, and the rule that one stack at a time uses it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator_cli.errors import CommandError
from orchestrator_cli.keys import KeyFiles
from shared.embedded.postgres import SOCKET_NAME
from shared.embedded.process_tree import kill_tree, start_ticks

MIN_FREE_BYTES = 256 * 1024 * 1024
_MAX_SOCKET_PATH_BYTES = 100
_HAND_OVER_S = 1.0
_STOPPING_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFolder:
    """Where everything is."""

    path: Path

    @property
    def cluster(self) -> Path:
        return self.path / "postgres"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def work(self) -> Path:
        return self.path / "work"

    @property
    def keys(self) -> KeyFiles:
        return KeyFiles(folder=self.path / "keys")

    @property
    def stack_file(self) -> Path:
        """What runs on the folder now: address, processes, and the settings to reach the servers."""
        return self.path / "stack.json"

    def make(self) -> None:
        """Make what is missing, for the owner alone; raise CommandError when there is no room for data."""
        try:
            for folder in (self.path, self.redis, self.log, self.artifacts, self.work, self.path / "run"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise CommandError(f"the data folder {self.path} cannot be used: {error.strerror}") from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise CommandError(f"the data folder {self.path} cannot be written to")
        if free < MIN_FREE_BYTES:
            raise CommandError(
                f"the disk of {self.path} has {free // 2**20} MiB free, {MIN_FREE_BYTES // 2**20} are needed"
            )

    @contextmanager
    def locked(self, pid: int) -> Iterator[None]:
        """Hold the folder in the name of ``pid``; raise CommandError when another stack has it.

        The stack of an `orch up` that was killed takes some seconds to end itself. It
        says so in the lock, and is waited for.
        """
        # Not in append mode: whatever the offset, Linux would then write at the end.
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _take(lock, self.path / "lock", self.path)
            _describe(lock, pid, stopping=False)
            yield
        finally:
            os.close(lock)

    def tell_stopping(self, pid: int) -> None:
        """Tell whoever waits for the folder that its stack is on its way out."""
        with (self.path / "lock").open("r+") as lock:
            _describe(lock.fileno(), pid, stopping=True)

    @contextmanager
    def sockets(self) -> Iterator[Path]:
        """Lend the folder of the servers' sockets; a short one elsewhere where its path would not fit."""
        usual = self.path / "run"
        fits = len(os.fsencode(usual / SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES
        # PostgreSQL reads a list of folders, with quotes.
        if fits and not set(",\"'") & set(str(usual)):
            yield usual
            return
        short = Path(tempfile.mkdtemp(prefix="orch-run-"))
        try:
            yield short
        finally:
            shutil.rmtree(short, ignore_errors=True)

    def keep_last_logs(self) -> None:
        """Begin new log files, and keep those of the last start."""
        for file in self.log.glob("*.log"):
            file.replace(file.with_suffix(".log.1"))

    def write_stack(self, stack: Mapping[str, object]) -> None:
        """Write down what runs, for operators, and for the next start if this one is killed."""
        unfinished = self.stack_file.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_text(json.dumps(stack, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self.stack_file)

    def end_leftovers(self) -> None:
        """Kill what a stack left behind that was killed whole; the lock tells that none runs."""
        try:
            processes = json.loads(self.stack_file.read_text(encoding="utf-8"))["processes"]
        except (FileNotFoundError, ValueError, KeyError):
            return
        for process in processes.values():
            # A number alone may by now be anybody's.
            if start_ticks(process["pid"]) == process["startTicks"]:
                kill_tree(process["pid"])
        self.stack_file.unlink()


def _take(descriptor: int, lock_file: Path, folder: Path) -> None:
    begun = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, state = [*lock_file.read_text().split(), "", ""][:2]
            patience = _STOPPING_S if state == "stopping" else _HAND_OVER_S
            if time.monotonic() - begun > patience:
                raise CommandError(f"the data folder {folder} is in use by pid {holder}") from None
            time.sleep(0.05)
        else:
            return


def _describe(descriptor: int, pid: int, *, stopping: bool) -> None:
    os.pwrite(descriptor, f"{pid:<10} {'stopping' if stopping else 'running '}\n".encode(), 0)
