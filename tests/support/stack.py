"""`orch up`, driven from outside: as a process, by its signals and its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator_cli.client import Client
from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.keys import Grant, mint
from shared.embedded.process_tree import descendants, start_ticks
from tests.support.eventually import eventually

TENANT = "acme"
ALL_SCOPES = ("orchestrator:read", "orchestrator:write", "orchestrator:admin")
DOWN_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """An `orch up` that has said that it is up."""

    process: subprocess.Popen[str]
    folder: DataFolder
    line: str

    @property
    def url(self) -> str:
        """Where the API answers."""
        return str(self.description()["url"])

    def description(self) -> dict[str, object]:
        """What the stack wrote down about itself."""
        description: dict[str, object] = json.loads(self.folder.stack_file.read_text())
        return description

    @property
    def supervisor_pid(self) -> int:
        """Give the pid of the process behind it that starts and stops everything."""
        return int(str(self.description()["supervisorPid"]))

    def pid_of(self, name: str) -> int:
        """Give the pid of one of its programs as it runs now."""
        processes = self.description()["processes"]
        assert isinstance(processes, dict)
        return int(processes[name]["pid"])

    def tree(self) -> dict[int, int | None]:
        """List everything that runs below it, each with the time of its start."""
        return {pid: start_ticks(pid) for pid in descendants(self.process.pid)}

    def client(self, tenant: str = TENANT) -> Client:
        """Make a client with all scopes for the tenant."""
        grant = Grant(subject="tester", tenants=[tenant], operator=False, scopes=ALL_SCOPES, ttl_s=3_600)
        return Client(self.url, token=mint(self.folder.keys, grant), tenant=tenant)

    def stop(self) -> int:
        """Ask for an orderly stop and give the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=DOWN_WITHIN_S)


def alive(tree: dict[int, int | None]) -> set[int]:
    """Tell which processes of a tree still run."""
    return {pid for pid, started in tree.items() if started is not None and start_ticks(pid) == started}


def orch(*arguments: str) -> list[str]:
    """Give the command line of `orch` in this environment."""
    return [sys.executable, "-m", "orchestrator_cli.main", *arguments]


def clean_environ() -> dict[str, str]:
    """Give an environment without the settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}


@contextmanager
def running_stack(
    data_dir: Path, *options: str, port: int = 0, environ: dict[str, str] | None = None
) -> Iterator[RunningStack]:
    """Start `orch up`, at any port by default, and wait until it is up; leave nothing of it behind."""
    process = subprocess.Popen(
        orch("up", "--data-dir", str(data_dir), "--port", str(port), *options),
        stdout=subprocess.PIPE,
        text=True,
        env={**clean_environ(), **(environ or {})},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"orch up ended with {process.wait()} and did not say that it is up"
        stack = RunningStack(process=process, folder=DataFolder(path=data_dir), line=line)
        tree = stack.tree()
        yield stack
        if process.poll() is None:
            tree |= stack.tree()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=DOWN_WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()
    eventually(lambda: not alive(tree), within=15)
