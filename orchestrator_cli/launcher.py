"""Start the supervisor of a stack, pass signals on to it, and be gone after it."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGTERM

from orchestrator_cli.errors import CommandError
from orchestrator_cli.options import UpOptions
from shared.embedded.process_tree import adopt_orphans, kill_all_below, send


class Launcher:
    """A running supervisor.

    It reads a pipe whose other end only this process has: when this process is
    killed, the pipe closes, and the supervisor ends everything. When the supervisor
    is killed, its children come to this process, which kills them.
    """

    def __init__(self, options: UpOptions, *, read_output: bool = False) -> None:
        if platform.system() != "Linux":
            raise CommandError("`orch up` watches its processes by means that only Linux has")
        adopt_orphans()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator_cli.supervise", options.to_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if read_output else None,
            start_new_session=True,
        )

    def wait_until_up(self) -> bool:
        """Read the line that tells that the stack is up; False when it ended instead."""
        output = self._process.stdout
        return output is not None and output.readline() != b""

    def request_stop(self) -> None:
        """Ask for an orderly stop; a second time, for a quick one."""
        send(self._process.pid, SIGTERM)
        # A frozen supervisor cannot heed it.
        send(self._process.pid, SIGCONT)

    def wait(self) -> int:
        """Wait for the end of the supervisor and leave nothing behind; give its exit status."""
        status = self._process.wait()
        kill_all_below(within_s=5)
        if status < 0:
            sys.stderr.write(
                f"orch up: its supervisor was ended by signal {-status}; nothing is left running\n"
            )
            return 1
        return status


@contextmanager
def launched(options: UpOptions) -> Iterator[Launcher]:
    """Run a stack for the length of the block."""
    launcher = Launcher(options, read_output=True)
    try:
        yield launcher
    finally:
        launcher.request_stop()
        launcher.wait()
