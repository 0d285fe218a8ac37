"""Load the named queries of the ``.sql`` files.

A file holds queries, each under a line ``-- name: <name>`` and a sentence on what it
does. ``load("runs")`` reads ``sql/runs.sql`` and gives a mapping from name to text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_FOLDER = Path(__file__).parent / "sql"
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


def load(aggregate: str) -> Mapping[str, str]:
    """Return the queries of one aggregate; a name that stands twice is an error."""
    parts = _NAME.split((_FOLDER / f"{aggregate}.sql").read_text(encoding="utf-8"))
    names, bodies = parts[1::2], parts[2::2]
    queries = {name: body.strip() for name, body in zip(names, bodies, strict=True)}
    if len(queries) != len(names):
        raise ValueError(f"{aggregate}.sql names a query twice")
    return MappingProxyType(queries)


def aggregates() -> list[str]:
    """Name all files, for the tests that hold queries and code together."""
    return sorted(path.stem for path in _FOLDER.glob("*.sql"))
