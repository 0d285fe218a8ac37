"""How the text of a setting becomes a value. Each function raises ValueError with what is expected."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

MIN_SECRET_BYTES = 32

_POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def text(value: str) -> str:
    """Take the text as it is."""
    return value


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Make a parser for whole numbers from ``low`` to ``high``."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,15}", value) or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(value)

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    """Make a parser for one of a few words."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return value

    return parse


def url(*schemes: str) -> Callable[[str], str]:
    """Make a parser for URLs of some schemes."""

    def parse(value: str) -> str:
        if urlsplit(value).scheme not in schemes:
            raise ValueError("must begin with " + " or ".join(f"{scheme}://" for scheme in schemes))
        return value

    return parse


def http_address(value: str) -> str:
    """Take the address of an HTTP service, without a password in it: it would end in logs."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("must be http://host:port or https://host:port, without a user name")
    if parts.query or parts.fragment or parts.port == 0:
        raise ValueError("must have no query, no fragment and a port that exists")
    return value


def folder_url(value: str) -> str:
    """Take the URL of an absolute folder."""
    parts = urlsplit(value)
    if parts.scheme != "file" or parts.netloc or not unquote(parts.path).startswith("/"):
        raise ValueError("must be the URL of an absolute folder, file:///path")
    return value


def absolute_path(value: str) -> Path:
    """Take an absolute path: a relative one would depend on where the process was started."""
    path = Path(value)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def folder(value: str) -> Path:
    """Take the absolute path of a folder that this process may read."""
    path = absolute_path(value)
    if not path.is_dir() or not os.access(path, os.R_OK | os.X_OK):
        raise ValueError("must name a folder that this process may read")
    return path


def readable_file(value: str) -> Path:
    """Take the absolute path of a file that this process may read."""
    path = absolute_path(value)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise ValueError("must name a file that this process may read")
    return path


def secret_file(value: str) -> Path:
    """Take the path of a file that holds enough bytes for a key."""
    path = readable_file(value)
    if path.stat().st_size < MIN_SECRET_BYTES:
        raise ValueError(f"must name a file of at least {MIN_SECRET_BYTES} random bytes")
    return path


def pools(value: str) -> tuple[str, ...]:
    """Take the names of pools, separated by commas."""
    names = tuple(part.strip() for part in value.split(","))
    if not all(_POOL.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise ValueError(f"must be different names ({_POOL.pattern}), separated by commas")
    return names


def hosts(value: str) -> tuple[str, ...]:
    """Take networks and host names, separated by commas."""
    return tuple(_network_or_name(part.strip()) for part in value.split(","))


def _network_or_name(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        # What looks like a number was meant as an address: as a name it would never match what was meant.
        if re.fullmatch(r"[0-9./]+", value) or not _HOST_NAME.fullmatch(value):
            raise ValueError("must be networks (10.0.0.0/8) or host names, separated by commas") from None
        return value.lower()


def origins(value: str) -> tuple[str, ...]:
    """Take the origins of sites as browsers send them (RFC 6454), separated by commas."""
    return tuple(_origin(part.strip()) for part in value.split(","))


def _origin(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or value.lower() != f"{parts.scheme}://{parts.netloc}".lower():
        raise ValueError("must be like https://console.example.com, separated by commas")
    return value.lower()
