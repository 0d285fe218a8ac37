"""What goes wrong, counted by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("incidents")


class Counted(Protocol):
    """How often something happened, and a word on it that tells of no tenant."""

    @property
    def count(self) -> int: ...
    @property
    def detail(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What went wrong in processes of one kind."""

    component: str
    kind: str
    count: int
    first_utc: datetime
    last_utc: datetime
    detail: str | None


def add(cur: Cursor, component: str, noted: Mapping[str, Counted]) -> None:
    """Add to the counts of a component."""
    cur.execute(
        _SQL["add"],
        {
            "component": component,
            "kinds": list(noted),
            "counts": [one.count for one in noted.values()],
            "details": [one.detail for one in noted.values()],
        },
    )


def list_all(cur: Cursor) -> list[Incident]:
    """List what has gone wrong since the installation began, the latest first."""
    cur.execute(_SQL["list_all"])
    return [
        Incident(
            component=row[0], kind=row[1], count=row[2], first_utc=row[3], last_utc=row[4], detail=row[5]
        )
        for row in cur.fetchall()
    ]


def counts(cur: Cursor) -> dict[tuple[str, str], int]:
    """Give the counts by component and kind."""
    cur.execute(_SQL["counts"])
    return {(row[0], row[1]): int(row[2]) for row in cur.fetchall()}
