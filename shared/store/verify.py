"""The rules that the ledger keeps at any moment, as queries for what breaks them."""

from __future__ import annotations

from dataclasses import dataclass

from shared.domain.states import MAX_LOST_ATTEMPTS, TRANSITIONS
from shared.store.db import Cursor, one
from shared.store.queries import load

_SQL = load("verify")

_WHOLE_TABLES = """
SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on;
SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on; SET LOCAL plan_cache_mode = auto;
SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0
"""
"""Without statistics (a ledger that grew just now) a nested loop would take minutes for a long run."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that does not hold, and where."""

    rule: str
    tenant: str
    run_id: str
    place: str


def plan_for_whole_tables(cur: Cursor) -> None:
    """Have the rest of the transaction planned for queries that read everything."""
    cur.execute(_WHOLE_TABLES)


def broken_chains(cur: Cursor) -> list[Broken]:
    """Find events that are missing or were changed."""
    cur.execute(_SQL["broken_chains"])
    return _broken(cur)


def wrong_histories(cur: Cursor) -> list[Broken]:
    """Find events that tell what cannot have happened, or what the rows do not show."""
    legal = [f"{transition.source}>{transition.target}" for transition in TRANSITIONS]
    cur.execute(_SQL["wrong_histories"], {"legal": legal})
    return _broken(cur)


def wrong_attempts(cur: Cursor) -> list[Broken]:
    """Find attempts that overlap, win twice, come after the end, or are not counted."""
    cur.execute(_SQL["wrong_attempts"], {"max_lost": MAX_LOST_ATTEMPTS})
    return _broken(cur)


def wrong_steps(cur: Cursor) -> list[Broken]:
    """Find steps whose columns contradict each other or the steps before them."""
    cur.execute(_SQL["wrong_steps"])
    return _broken(cur)


def wrong_runs(cur: Cursor) -> list[Broken]:
    """Find runs that do not follow from their steps, lost runs, and files of nobody."""
    cur.execute(_SQL["wrong_runs"], {})
    return _broken(cur)


def count_runs(cur: Cursor) -> tuple[int, int]:
    """Count all runs, and those that have not ended."""
    cur.execute(_SQL["count_runs"])
    row = one(cur.fetchone())
    return int(row[0]), int(row[1])


def _broken(cur: Cursor) -> list[Broken]:
    return [Broken(*(str(value) for value in row)) for row in cur.fetchall()]
