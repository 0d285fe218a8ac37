"""What a stream of events is made of: cursors, filters, lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shared.domain.models import DagId, RunId
from shared.domain.states import RunStatus

CURSOR_PATTERN: Final = "0|(?:[1-9][0-9]{0,18})[.](?:0|[1-9][0-9]{0,18})"
_CURSOR = re.compile(CURSOR_PATTERN)
_MAX = (1 << 63) - 1


class Cursor(NamedTuple):
    """A place in the order of a tenant's events: behind the event with these numbers."""

    xid: int
    event_id: int

    def __str__(self) -> str:
        return "0" if self == START else f"{self.xid}.{self.event_id}"

    @staticmethod
    def parse(text: str) -> Cursor | None:
        """Read what ``str`` gave; ``None`` if it is something else."""
        if _CURSOR.fullmatch(text) is None:
            return None
        xid, _, event_id = text.partition(".")
        cursor = Cursor(int(xid), int(event_id or 0))
        return cursor if max(cursor) <= _MAX else None


START: Final = Cursor(0, 0)
"""Before the first event of all."""


class StreamedEvent(NamedTuple):
    """An event with its place; ``line`` is what the ledger has hashed."""

    cursor: Cursor
    line: str

    @property
    def seq(self) -> int:
        """Read its number within the run."""
        begin = self.line.index('"seq":') + 6
        return int(self.line[begin : self.line.index(",", begin)])

    def to_line(self) -> str:
        """Write the line with its cursor, as canonical JSON: without that member it is the ledger's again."""
        return self.line.replace('"dagId":', f'"cursor":"{self.cursor}","dagId":', 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFilter:
    """Which events are wanted: those of a DAG, of one run, of runs that are in this state just then.

    An event is looked at as the text that it is. It is canonical JSON, and no value in it can hold
    a quotation mark, so that a member stands in it in one way only.
    """

    dag_id: DagId | None = None
    status: RunStatus | None = None
    run_id: RunId | None = None
    members: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """What stands in the line of each event that is wanted."""

    def __post_init__(self) -> None:
        wanted = {"dagId": self.dag_id, "runId": self.run_id, "status": self.status}
        members = tuple(f'"{name}":"{value}"' for name, value in wanted.items() if value is not None)
        object.__setattr__(self, "members", members)

    def wants(self, line: str) -> bool:
        """Tell whether an event is wanted, by its line in the ledger."""
        return all(member in line for member in self.members)
