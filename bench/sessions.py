"""What PostgreSQL's sessions do while something is measured: work, or wait, and for what."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Final

import psycopg2

from bench.orchestrator import Orchestrator

EACH_S: Final = 0.05
"""A look costs about a tenth of a commit."""
_LOOK: Final = """
SELECT
    CASE
        WHEN a.wait_event IS NULL THEN 'work'
        WHEN a.wait_event IN ('WALSync', 'WalSync', 'WALWrite', 'WalWrite') THEN 'write the WAL'
        WHEN a.wait_event_type = 'Lock' THEN 'wait for a lock'
        ELSE 'wait otherwise'
    END,
    count(*)
FROM pg_stat_activity AS a
WHERE a.backend_type = 'client backend' AND a.state = 'active' AND a.pid <> pg_backend_pid()
GROUP BY 1
"""
_DOINGS: Final = ("work", "write the WAL", "wait for a lock", "wait otherwise")


class Seen:
    """What was seen, look by look."""

    def __init__(self) -> None:
        self._looks = 0
        self._counted = Counter[str]()

    def add(self, look: Mapping[str, int]) -> None:
        self._looks += 1
        self._counted.update(look)

    def mean(self) -> dict[str, float]:
        """Tell how many sessions did what at a time."""
        return {doing: self._counted[doing] / max(1, self._looks) for doing in _DOINGS}


@contextmanager
def sessions(ours: Orchestrator) -> Iterator[Seen]:
    """Look at the sessions of the stack's PostgreSQL again and again during the block."""
    seen, stop = Seen(), threading.Event()

    def watch() -> None:
        with closing(psycopg2.connect(ours.owner_url)) as owner, owner.cursor() as cur:
            owner.autocommit = True
            while not stop.wait(EACH_S):
                cur.execute(_LOOK)
                seen.add(dict(cur.fetchall()))

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        try:
            yield seen
        finally:
            stop.set()
        watching.result()
