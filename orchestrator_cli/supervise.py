"""The process behind `orch up`: ``python -m orchestrator_cli.supervise OPTIONS``, started by the launcher.

It is not `orch up` itself so that a killed `orch up` leaves somebody who ends the rest.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError
from orchestrator_cli.keys import make_keys
from orchestrator_cli.options import UpOptions
from orchestrator_cli.requests import Requests
from orchestrator_cli.stack import Stack
from orchestrator_cli.supervisor import LOGGER, Supervisor
from shared.embedded.process_tree import adopt_orphans
from shared.embedded.program import EmbeddedError


def main(argv: list[str]) -> int:
    """Run a stack until the launcher asks for its end, or ends itself."""
    options = UpOptions.from_text(argv[1])
    launcher = os.getppid()
    requests = Requests(sys.stdin.fileno())
    adopt_orphans()
    try:
        folder = DataFolder(path=Path(options.data_dir))
        folder.make()
        with folder.locked(launcher):
            folder.keep_last_logs()
            _log_to(folder.log / "up.log")
            return _run(options, folder, requests, launcher)
    except (CommandError, EmbeddedError) as error:
        sys.stderr.write(f"orch up: {error}\n")
        return 1


def _run(options: UpOptions, folder: DataFolder, requests: Requests, launcher: int) -> int:
    options = replace(options, port=free_port(options.host, options.port))
    folder.end_leftovers()
    make_keys(folder.keys)
    supervisor = Supervisor(requests, folder.log)
    with folder.sockets() as sockets:
        stack = Stack(options, folder, supervisor, sockets)
        try:
            if stack.start():
                _say(f"orchestrator is up at {stack.url} (data in {folder.path}; Ctrl-C stops it)")
                supervisor.run()
        finally:
            folder.tell_stopping(launcher)
            stack.stop()
            supervisor.kill_rest()
            folder.stack_file.unlink(missing_ok=True)
    LOGGER.info("stopped")
    return 0


def free_port(host: str, port: int) -> int:
    """Make sure that the port can be listened on, before anything starts; choose one for port 0."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            chosen: int = probe.getsockname()[1]
            return chosen
    except OSError as error:
        raise CommandError(f"port {port} of {host} cannot be used: {error.strerror}") from error


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError as error:
        # Whoever started us may have stopped reading.
        LOGGER.warning("standard output is closed: %s", error.strerror)


def _log_to(file: Path) -> None:
    """Log to the terminal and into the folder; a terminal that is gone must not stop us."""
    logging.raiseExceptions = False
    to_terminal = logging.StreamHandler()
    to_terminal.setLevel(logging.WARNING)
    to_terminal.setFormatter(logging.Formatter("orch up: %(message)s"))
    to_file = logging.FileHandler(file, mode="w", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.handlers[:] = [to_terminal, to_file]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


if __name__ == "__main__":
    sys.exit(main(sys.argv))
