"""A supervisor over shell commands, as a process of its own: ``python -m tests.support.supervised LOG JSON``.

It adopts and kills every orphan below it, which a process that runs tests must not do.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from orchestrator_cli.errors import CommandError
from orchestrator_cli.requests import Requests
from orchestrator_cli.supervisor import LOGGER, Supervisor
from shared.embedded.process_tree import adopt_orphans
from shared.embedded.program import Program

STOP_WITHIN_S = 1.0


def main() -> None:
    """Keep the commands running until a signal, then stop them in the order given."""
    environ = {"PATH": "/bin:/usr/bin"}
    folder, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
    LOGGER.addHandler(logging.FileHandler(folder / "up.log"))
    adopt_orphans()
    supervisor = Supervisor(Requests(sys.stdin.fileno()), folder)
    for name, command in commands.items():
        supervisor.keep(Program(name=name, argv=("/bin/sh", "-c", command), folder=folder, environ=environ))
    try:
        supervisor.run_until(lambda: False, within_s=60, what="nothing happened")
    except CommandError as error:
        (folder / "error").write_text(str(error))
    for name in commands:
        supervisor.stop([name], within_s=STOP_WITHIN_S)
    supervisor.kill_rest()


if __name__ == "__main__":
    main()
