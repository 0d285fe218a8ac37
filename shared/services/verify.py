"""Hold a whole ledger to its rules, while it is in use."""

from __future__ import annotations

from dataclasses import dataclass

from shared.store import verify as store
from shared.store.db import Cursor, Database
from shared.store.verify import Broken

__all__ = ["Broken", "Verified", "broken_rules", "verify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was read, and what of it breaks a rule."""

    runs: int
    running: int
    broken: list[Broken]


def verify(db: Database) -> Verified:
    """Read the ledger as of one moment, in a read-only transaction: nobody waits for it."""
    with db.snapshot(None) as cur:
        store.plan_for_whole_tables(cur)
        runs, running = store.count_runs(cur)
        return Verified(runs=runs, running=running, broken=broken_rules(cur))


def broken_rules(cur: Cursor) -> list[Broken]:
    """Find what breaks a rule, in a transaction that sees all tenants."""
    broken = store.broken_chains(cur)
    # An event that was changed may be no JSON.
    if not broken:
        broken += store.wrong_histories(cur)
    return broken + store.wrong_attempts(cur) + store.wrong_steps(cur) + store.wrong_runs(cur)
