"""PostgreSQL that dies, hangs, throws clients out, or lets them wait."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg2

from tests.chaos.fault import UNREACHABLE, Target, fault, frozen, with_all_below

STORM_SHOTS = 8
STORM_PAUSE_S = 0.1
OURS = "application_name LIKE 'orchestrator%'"


@fault("PostgreSQL killed", within_s=15)
def postmaster_killed(target: Target) -> Iterator[None]:
    """SIGKILL to the postmaster."""
    target.program("postgres").send(signal.SIGKILL)
    yield


@fault("PostgreSQL stopped at once", within_s=15)
def postmaster_quits(target: Target) -> Iterator[None]:
    """SIGQUIT to the postmaster: an immediate stop, with recovery at the next start."""
    target.program("postgres").send(signal.SIGQUIT)
    yield


@fault("PostgreSQL process killed", within_s=10)
def backend_killed(target: Target) -> Iterator[None]:
    """SIGKILL to one server process: PostgreSQL ends all others and recovers."""
    with suppress(*UNREACHABLE), target.postgres() as cur:
        cur.execute(f"SELECT pid FROM pg_stat_activity WHERE {OURS}")
        pids = {row[0] for row in cur.fetchall()}
        backends = [process for process in with_all_below(target.program("postgres")) if process.pid in pids]
        # In a user namespace PostgreSQL counts its pids from 1: then any of its processes must do.
        victims = backends or with_all_below(target.program("postgres"))[1:]
        if victims:
            target.random.choice(victims).send(signal.SIGKILL)
    yield


@fault("PostgreSQL frozen", lasts=True, within_s=10)
def postgres_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to all processes of PostgreSQL; SIGCONT heals."""
    yield from frozen(with_all_below(target.program("postgres")))


@fault("connections cut again and again", within_s=8)
def backends_terminated(target: Target) -> Iterator[None]:
    """pg_terminate_backend on every connection of ours, eight times within a second."""
    with suppress(*UNREACHABLE), target.postgres() as cur:
        for _ in range(STORM_SHOTS):
            cur.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
            time.sleep(STORM_PAUSE_S)
    yield


@fault("runs locked", lasts=True, within_s=8)
def table_locked(target: Target) -> Iterator[None]:
    """LOCK TABLE orch.runs in a transaction that stays open; its end heals."""
    with _open_transaction(target) as cur:
        if cur is not None:
            cur.execute("SET LOCAL lock_timeout = '2s'")
            with suppress(*UNREACHABLE):
                cur.execute("LOCK TABLE orch.runs IN ACCESS EXCLUSIVE MODE")
        yield


@fault("rows locked", lasts=True, within_s=8)
def rows_locked(target: Target) -> Iterator[None]:
    """SELECT FOR UPDATE on half of the running runs in a transaction that stays open; its end heals."""
    with _open_transaction(target) as cur:
        if cur is not None:
            with suppress(*UNREACHABLE):
                cur.execute(
                    "SELECT 1 FROM orch.runs WHERE status = 'running' AND hashtext(run_id::text) % 2 = 0"
                    " FOR UPDATE SKIP LOCKED"
                )
        yield


@fault("no connection left", lasts=True, within_s=10)
def connections_taken(target: Target) -> Iterator[None]:
    """Strangers take every connection that the server has, ours are cut; theirs are closed to heal."""
    with ExitStack() as strangers, suppress(*UNREACHABLE):
        first = strangers.enter_context(target.postgres())
        for cut in (False, True):
            if cut:
                first.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
            with suppress(*UNREACHABLE):
                while True:
                    strangers.enter_context(target.postgres())
        yield
        return
    yield


@contextmanager
def _open_transaction(target: Target) -> Iterator[psycopg2.extensions.cursor | None]:
    """Begin a transaction that lasts for the block; None when PostgreSQL is out of reach."""
    with ExitStack() as stack:
        cur = None
        with suppress(*UNREACHABLE):
            cur = stack.enter_context(target.postgres())
            cur.execute("BEGIN")
        yield cur
