"""A whole stack under test: its tenants by HTTP, its processes by signals, its ledger by the invariants."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals
from types import MappingProxyType
from typing import cast

import httpx
import psycopg2
import redis

from orchestrator_cli.keys import Grant, mint
from shared.embedded.process_tree import descendants, start_ticks
from tests.support.eventually import eventually
from tests.support.invariants import check_invariants
from tests.support.rest import API, Document, Rest
from tests.support.stack import ALL_SCOPES, RunningStack, alive, running_stack

LEASE_S = 3.0
GRACE_S = 1.0
KILL_GRACE_S = 1.0
TIMINGS = {
    "ORCH_LEASE_MS": "3000",
    "ORCH_GRACE_MS": "1000",
    "ORCH_KILL_GRACE_MS": "1000",
    "ORCH_SWEEP_INTERVAL_MS": "100",
    "ORCH_RESEND_AFTER_MS": "1000",
}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A running stack, as its tenants and its operator see it."""

    stack: RunningStack

    def rest(self, tenant: str | None = None, *, scopes: tuple[str, ...] = ALL_SCOPES) -> Rest:
        """Make a client for a tenant; for a new one when none is named."""
        name = tenant or f"tenant-{next(_numbers)}"
        return Rest(self.stack.url, token=self.token(name, scopes=scopes), tenant=name)

    def token(self, *tenants: str, scopes: tuple[str, ...] = ALL_SCOPES) -> str:
        """Sign a token with the stack's key; without a tenant, an operator's."""
        grant = Grant(subject="tester", tenants=tenants, operator=not tenants, scopes=scopes, ttl_s=3_600)
        return mint(self.stack.folder.keys, grant)

    def processes(self) -> dict[str, int]:
        """Give the pids of the stack's programs; one that is down may be missing, or dead."""
        described = cast("dict[str, dict[str, int]]", self.stack.description()["processes"])
        return {name: process["pid"] for name, process in described.items()}

    def workers(self) -> list[str]:
        return [name for name in self.processes() if name.startswith("worker")]

    def worker_of(self, attempt: Document) -> str:
        """Name the worker program that makes an attempt: its id holds its pid."""
        pid = int(attempt["workerId"].rsplit("-", 2)[1])
        return next(name for name, worker in self.processes().items() if worker == pid)

    def is_healthy(self) -> bool:
        """Tell whether the API answers, and says that all it needs is there."""
        try:
            answer = httpx.get(f"{self.stack.url}{API}/admin/health", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK

    def await_health(self, *, within: float = 30.0) -> None:
        """Wait until the API is there and has all it needs."""
        eventually(self.is_healthy, within=within)

    def signal(self, name: str, number: Signals) -> int:
        """Send a signal to one of the programs; give its pid."""
        pid = self.processes()[name]
        os.kill(pid, number)
        return pid

    def kill_and_await_next(self, name: str, number: Signals = SIGKILL) -> None:
        """End a program, by default as a crash would, and wait until the supervisor has started it again."""
        dead = self.signal(name, number)
        eventually(lambda: self.processes().get(name, dead) != dead, within=20)

    def kill_with_all_below(self, name: str) -> None:
        """Kill a program, and wait until its children have noticed and are gone, too."""
        pid = self.processes()[name]
        tree = {each: start_ticks(each) for each in (pid, *descendants(pid))}
        os.kill(pid, SIGKILL)
        eventually(lambda: not alive(tree))

    @contextmanager
    def supervisor_frozen(self) -> Iterator[None]:
        """Keep what dies within the block from being started again before its end."""
        os.kill(self.stack.supervisor_pid, SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.stack.supervisor_pid, SIGCONT)

    def redis(self) -> redis.Redis:
        """Open a client to the stack's Redis."""
        return redis.Redis.from_url(self._environ()["ORCH_REDIS_URL"], socket_timeout=5)

    def log(self, name: str) -> str:
        """Read what a program has logged so far."""
        return (self.stack.folder.log / f"{name}.log").read_text(encoding="utf-8")

    def step_processes(self) -> dict[int, int | None]:
        """List the processes of steps that run, wherever they went, each with the time of its start."""
        folder = str(self.stack.folder.work)
        below = {pid for name in self.workers() for pid in descendants(self.processes()[name])}
        everywhere = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        found = below | {pid for pid in everywhere if _belongs_to_step(pid, folder)}
        return {pid: ticks for pid in found if (ticks := start_ticks(pid)) is not None}

    def check(self) -> None:
        """Hold the ledger to its rules: every run has ended, and no process of a step is left over."""
        eventually(lambda: not self.step_processes(), within=5)
        owner_url = self._environ()["ORCH_MIGRATION_DATABASE_URL"]
        with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
            check_invariants(cur)

    def _environ(self) -> dict[str, str]:
        return cast("dict[str, str]", self.stack.description()["environ"])


@contextmanager
def running_site(
    data_dir: Path,
    *,
    workers: int = 2,
    concurrency: int = 4,
    port: int = 0,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Site]:
    """Run a stack with short timings, and other settings in ``environ``; nothing of it is left at the end."""
    options = ("--workers", str(workers), "--concurrency", str(concurrency))
    with running_stack(data_dir, *options, port=port, environ={**TIMINGS, **environ}) as stack:
        yield Site(stack=stack)


def _belongs_to_step(pid: int, work_folder: str) -> bool:
    """Tell by what no process of a step can shake off unless it means to: its variables, its folder."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        return f"ORCH_OUTPUT_DIR={work_folder}".encode() in environ or str(
            Path(f"/proc/{pid}/cwd").readlink()
        ).startswith(work_folder)
    except OSError:
        return False  # It has ended, or is another user's.
