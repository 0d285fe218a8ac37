"""On what it was measured: a figure without its machine and its versions says little."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from shared.embedded.postgres import find_binaries
from shared.embedded.redis import find_server

_PACKAGES = ("celery", "kombu", "redis", "psycopg2-binary", "flask", "gunicorn")
_PROBE_S = 10


def describe() -> dict[str, str]:
    """Name the machine and the versions, for people."""
    return {
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, {_memory_gib()} GiB",
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": _number([str(find_binaries() / "postgres"), "--version"])
        + ", embedded, `fsync` and `synchronous_commit` on",
        "Redis": f"{find_server().name} {_number([str(find_server()), '--version'])}, nothing kept on disk",
        "Packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }


def load() -> str:
    """Tell how many processes of others want the processors: on a busy machine only the ratios count."""
    one, five, fifteen = os.getloadavg()
    return f"{one:.1f}, {five:.1f}, {fifteen:.1f} processes over 1, 5 and 15 minutes"


def _cpu() -> str:
    found = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_gib() -> int:
    found = re.search(r"^MemTotal: +(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return round(int(found[1]) / 2**20) if found else 0


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _number(argv: list[str]) -> str:
    told = subprocess.run(argv, capture_output=True, text=True, timeout=_PROBE_S, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", told)
    return found[0] if found else told.strip()
