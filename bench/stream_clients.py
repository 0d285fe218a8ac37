"""The other side of ``bench.stream_reader``: clients of the event stream in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.orchestrator import TENANT, Orchestrator
from bench.processes import stopped_after
from bench.stream_reader import Found, Wanted
from bench.subject import BenchError

_STOP_S: Final = 20.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
"""In these the kernel counts CPU time, so many a second."""


class Clients:
    """Clients that are connected, and read."""

    def __init__(self, reader: subprocess.Popen[bytes]) -> None:
        self._reader = reader
        self.connect_seconds = float(self._answer()["ready"])

    def heard_again(self) -> int:
        """Count the clients that got a line since they had to connect again."""
        assert self._reader.stdin is not None
        self._reader.stdin.write(b"\n")
        self._reader.stdin.flush()
        return int(self._answer()["heard_again"])

    def end(self) -> Found:
        """Have them stop; give what they have found. BenchError if one of them is not where all are."""
        assert self._reader.stdin is not None
        self._reader.stdin.close()
        found = Found(**self._answer())
        if found.astray:
            raise BenchError(f"{found.astray} clients missed a line, or got one twice")
        return found

    def _answer(self) -> dict[str, Any]:
        assert self._reader.stdout is not None
        line = self._reader.stdout.readline()
        if not line:
            raise BenchError("the clients of the stream ended; what they wrote above says why")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def clients(ours: Orchestrator, *, active: int, idle: int = 0, idle_tenants: int = 0) -> Iterator[Clients]:
    """Connect clients of the tenant with the events, and idle ones of others, the same number of each."""
    others = [f"bench-idle-{number}" for number in range(idle_tenants)]
    wanted = Wanted(
        host=ours.address[0],
        port=ours.address[1],
        token=ours.token_for(TENANT, *others),
        tenants={TENANT: active, **{name: idle // len(others) for name in others}},
    )
    reader = subprocess.Popen(
        [sys.executable, "-m", "bench.stream_reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with stopped_after(reader, within_s=_STOP_S):
        assert reader.stdin is not None
        reader.stdin.write(json.dumps(asdict(wanted)).encode() + b"\n")
        reader.stdin.flush()
        yield Clients(reader)


@dataclass(frozen=True, slots=True)
class WebProcess:
    """The web process that serves: its memory, and the CPU time that it has used so far."""

    pid: int
    kilobytes: int
    cpu_s: float

    @classmethod
    def now(cls, ours: Orchestrator) -> WebProcess:
        master = ours.process("web")
        (pid,) = Path(f"/proc/{master}/task/{master}/children").read_text(encoding="ascii").split()
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        user, system = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
        ticks = int(user) + int(system)
        return cls(int(pid), int(status.partition("VmRSS:")[2].split()[0]), ticks / _TICKS)
