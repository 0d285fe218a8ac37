"""A peer outside our environment: the interpreter that has it, and a process of it to talk to."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.peer_lines import READY
from bench.processes import stopped_after
from bench.shapes import Shape
from bench.subject import BenchError

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / "build" / "peers"
"""`make bench PEERS=...` makes an environment here for each of them."""
_START_S = 60.0
_TIMEOUT_S = 600.0
"""For one measurement: Prefect takes minutes for the longest."""
_PROBE_S = 30
_LOG_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPython:
    """An interpreter that has a peer installed."""

    package: str
    program: Path
    version: str
    """The package's."""


def find_python(package: str, environ: Mapping[str, str]) -> PeerPython:
    """Find an interpreter with ``package``: the one that BENCH_<PACKAGE>_PYTHON names, else that of `make`.

    Raises BenchError if there is none.
    """
    variable = f"BENCH_{package.upper()}_PYTHON"
    program = Path(environ.get(variable) or VENVS / package / "bin" / "python")
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        told = subprocess.run(
            [program, "-c", ask], capture_output=True, text=True, timeout=_PROBE_S, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(
            f"{program} does not have {package}: `make bench PEERS={package}` installs it there,"
            f" or {variable} names a Python that has it"
        ) from error
    return PeerPython(package=package, program=program, version=told.stdout.strip())


class PeerProcess:
    """A process that calls the peer, and measures by its own clock: that is a favour to the peer."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, *, slow: bool) -> None:
        self.name = name
        self.slow = slow
        self._process = process
        self._log = log

    def measure(self, shape: Shape) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(shape)).encode() + b"\n")
        self._process.stdin.flush()
        return float(self._line(_TIMEOUT_S))

    def wait_until_ready(self) -> None:
        """Wait until it can be given a shape."""
        if self._line(_START_S) != READY:
            raise BenchError(f"{self.name} did not begin as it should")

    def _line(self, within_s: float) -> str:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            raise BenchError(f"{self.name} gave no answer within {within_s:.0f} s: {last_words(self._log)}")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended: {last_words(self._log)}")
        return line.decode().strip()


def last_words(log: Path) -> str:
    """Give the end of what a process wrote, for people."""
    return log.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]


@contextmanager
def peer_process(
    name: str,
    python: PeerPython,
    argv: Sequence[str],
    log: Path,
    *,
    environ: Mapping[str, str] | None = None,
    slow: bool = False,
) -> Iterator[PeerProcess]:
    """Run a module of this package with another interpreter; it may still be starting."""
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [python.program, "-m", *argv],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
        )
    with stopped_after(process, within_s=10):
        yield PeerProcess(name, process, log, slow=slow)
