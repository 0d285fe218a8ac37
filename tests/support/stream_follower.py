"""A client that follows a stream for good: it loses its connection again and again, and nothing else."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from random import Random
from types import MappingProxyType
from typing import Self

from tests.support.stream_client import Connection, Cut, Line, Refused, Source, Way

RETRIED = (429, 503)
PAUSES_S = (0.02, 0.4)
"""Between two connections, no less and no more."""
MOST_LINES = 120
"""After how many lines of a connection it leaves, at the most."""
MOST_BYTES = 2_000
"""How much more it then receives, at the most: a few lines, the last of them as a rule in part."""


class Follower:
    """Collects the lines of a stream in a thread of its own, from one connection to the next.

    ``random`` says when it leaves and how; without it, it stays as long as it can. ``after`` of ``None`` is
    the moment at which it comes first.
    """

    def __init__(
        self,
        source: Source,
        way: Way,
        *,
        query: Mapping[str, str] = MappingProxyType({}),
        after: str | None = "0",
        random: Random | None = None,
    ) -> None:
        self.query = dict(query)
        self.way = way
        self.lines: list[Line] = []
        self.began_at = after
        """Where it began: the cursor before its first line."""
        self.told: Counter[str] = Counter()
        """What happened to it, and how often."""
        self._source = source
        self._cursor = after
        self._random = random
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    @property
    def name(self) -> str:
        chosen = ", ".join(f"{name}={value}" for name, value in self.query.items())
        return f"{self._source.tenant} by {self.way.value} ({chosen or 'everything'})"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop; raise what ended the thread, if anything did."""
        with self._lock:
            self._stopped.set()
            connection = self._connection
        if connection is not None:
            connection.cut(Cut.CLOSE)
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), f"{self.name} does not end"
        if self._failure is not None:
            raise self._failure

    def has(self, count: int) -> bool:
        """Tell whether so many lines have come; raise what ended the thread, if anything did."""
        if self._failure is not None:
            raise self._failure
        return len(self.lines) >= count

    def _follow(self) -> None:
        pauses = self._random or Random(0)
        try:
            while not self._stopped.is_set():
                self._follow_once()
                self._stopped.wait(pauses.uniform(*PAUSES_S))
        except BaseException as error:  # noqa: BLE001  # It is raised by whoever looks.
            self._failure = error

    def _follow_once(self) -> None:
        place = {} if self._cursor is None else {"after": self._cursor}
        try:
            with self._source.open(self.way, {**self.query, **place}) as connection:
                self.told["connected"] += 1
                if self._cursor is None:
                    self.began_at = self._cursor = connection.begins_at
                self._read(connection)
        except Refused as error:
            if error.status not in RETRIED:
                raise
            self.told[f"refused with {error.status}"] += 1
        except OSError:
            self.told["found nobody"] += 1

    def _read(self, connection: Connection) -> None:
        leaves_after = None if self._random is None else self._random.randrange(MOST_LINES)
        with self._lock:
            self._connection = connection
            if self._stopped.is_set():
                return
        if leaves_after == 0:
            self._leave(connection)
        left = leaves_after == 0
        for number, line in enumerate(connection.lines(), 1):
            self.lines.append(line)
            self._cursor = line.cursor
            if number == leaves_after:
                self._leave(connection)
                left = True
        if not left and not self._stopped.is_set():
            code = "the last chunk" if connection.whole else connection.close_code or "no goodbye"
            self.told[f"ended with {code}"] += 1

    def _leave(self, connection: Connection) -> None:
        assert self._random is not None
        how = self._random.choice(list(Cut))
        after_bytes = self._random.choice((0, self._random.randrange(1, MOST_BYTES)))
        within = " in the middle" if after_bytes and how is not Cut.GOODBYE else ""
        self.told[f"left by {how.value}{within}"] += 1
        connection.cut(how, after_bytes=after_bytes)
