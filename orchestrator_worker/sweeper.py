"""The recovery loop: ``python -m orchestrator_worker.sweeper``.

Whatever a crash, a lost message or an outage left undone is found in the ledger and set
going again. Every verb is idempotent and guarded, so any number of sweepers may run.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog
from celery import Celery

from shared.config import ConfigError, Need, Settings, load_settings
from shared.domain.models import RunId, TenantId
from shared.errors import StoreUnavailable, Unavailable
from shared.log import configure_logging
from shared.messaging import doorbell
from shared.messaging.celery_app import make_celery
from shared.messaging.complaint import TALLY, Complaint
from shared.messaging.queue_keys import QueueKeys
from shared.services import calls, dispatch, incidents, metrics, recovery, schema, warm, workers
from shared.services.recovery import Backlog, Doorbell
from shared.store.db import Database

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

T = TypeVar("T")

BATCH = 500
SHORTEST_PAUSE_SECONDS = 0.02
"""What is due and cannot be had, since somebody holds its run, must not be asked for without a pause."""
LONGEST_BACKOFF_SECONDS = 1.0
"""It goes on so soon after PostgreSQL or Redis is back."""
BATCH_SECONDS = 30.0
"""A batch, or what keeps house, may take long where there is much to do."""
HOUSEKEEPING_EVERY_ROUNDS = 600
COUNT_EVERY_ROUNDS = 20
COUNT_SECONDS = 1.0
"""An old ledger is counted in pieces of this length: retries and rescues must not wait for it."""
EX_CONFIG = 78


class Sweeper:
    """Sweeps round after round. One verb's failure is noted and keeps no other from being tried.

    Nor does one row keep others from their turn: the ledger sets it aside for a while
    (``orch.put_aside``), and so each row's failure is told here once.
    """

    def __init__(
        self, db: Database, app: Celery, settings: Settings, queue_keys: QueueKeys, *, sweeper_id: str
    ) -> None:
        self._db = db
        self._app = app
        self._settings = settings
        self._queue_keys = queue_keys
        self._sweeper_id = sweeper_id
        self._next_report = float("-inf")
        self._batch = BATCH
        self.set_aside = Complaint("row_set_aside")
        """Rows that a verb failed on."""
        self.mended = Complaint("queue_key_removed")
        """Keys of our queues in Redis that were no queues."""
        self._rounds = 0
        self._failures_in_a_row = 0
        self._stop = threading.Event()
        self._verbs: tuple[tuple[Callable[[], None], Complaint], ...] = tuple(
            (verb, Complaint(f"sweep_{verb.__name__.strip('_')}_failed"))
            for verb in (
                self._report,
                self._wake,
                self._rescue,
                self._admit,
                self._dispatch,
                self._resend,
                self._decide,
                self._count,
                self._keep_house,
            )
        )

    def run(self) -> None:
        """Sweep until ``stop`` is called."""
        while not self._stop.is_set():
            all_well = self.sweep()
            self._failures_in_a_row = 0 if all_well else self._failures_in_a_row + 1
            self._stop.wait(self._pause_seconds())

    def stop(self) -> None:
        """Have ``run`` return after the verb that it is at."""
        self._stop.set()

    def sweep(self) -> bool:
        """Do one round of all verbs; tell whether none failed."""
        all_well = True
        for verb, complaint in self._verbs:
            if self._stop.is_set():
                break
            try:
                verb()
            except Unavailable as error:
                complaint.note(error)
                all_well = False
                if isinstance(error, StoreUnavailable):
                    # Perhaps there was too much to do within the time that a statement has.
                    self._batch = max(1, self._batch // 4)
            except Exception as error:
                # The other verbs, and the next round of this one, are what keeps runs from hanging.
                complaint.note(error)
                LOGGER.exception("sweep_failed", verb=verb.__name__)
                all_well = False
        self._rounds += 1
        if all_well:
            self._batch = BATCH
        return all_well

    def _pause_seconds(self) -> float:
        interval = self._settings.sweep_interval_ms / 1000
        if self._failures_in_a_row:
            return max(interval, min(interval * 2.0**self._failures_in_a_row, LONGEST_BACKOFF_SECONDS))
        try:
            due_ms = recovery.next_due_ms(self._db)
        except Unavailable:
            # The verbs of the next round will say so.
            return interval
        return interval if due_ms is None else min(interval, max(SHORTEST_PAUSE_SECONDS, due_ms / 1000))

    def _report(self) -> None:
        """Tell that this sweeper is alive, and what went wrong."""
        now = time.monotonic()
        if now < self._next_report:
            return
        workers.register_sweeper(self._db, self._sweeper_id, heartbeat_ms=self._settings.heartbeat_ms)
        self._next_report = now + self._settings.heartbeat_ms / 1000
        for row in recovery.tell_aside(self._db):
            self.set_aside.note(
                verb=row.verb, tenant=row.tenant, run_id=str(row.run_id), number=row.step_no, why=row.reason
            )
        incidents.report(self._db, "sweeper", TALLY)

    def _wake(self) -> None:
        """Queue retries that are due."""
        while (woken := recovery.wake(self._db, limit=self._batch)) and not self._stop.is_set():
            self._ring(woken)

    def _rescue(self) -> None:
        """Take steps away from workers that are gone."""
        rescued = recovery.rescue(self._db, limit=self._batch)
        if rescued.backlogs or rescued.undecided:
            LOGGER.info("steps_rescued", backlogs=len(rescued.backlogs), undecided=len(rescued.undecided))
        self._ring(rescued.backlogs)
        self._ask(rescued.undecided)

    def _admit(self) -> None:
        """Give away places of concurrency keys: to what was woken or rescued, or for one who died over it."""
        for tenant, key in recovery.keys_with_room(self._db, limit=BATCH):
            self._ring(frozenset(Backlog(tenant, pool) for pool in dispatch.admit(self._db, tenant, key)))

    def _dispatch(self) -> None:
        """Send what nobody has sent: a dispatch that failed, or that was full when the step became ready."""
        self._ring(recovery.backlogs(self._db) | recovery.let_go(self._db))
        _for_each(self._settings.pools, lambda pool: self._send(dispatch.pick(self._db, pool, None)))

    def _resend(self) -> None:
        """Send again what Redis has lost; what only waits there for a free slot is left alone."""
        for key in self._queue_keys.mend():
            self.mended.note(key=key)
        _for_each(self._settings.pools, self._resend_to)

    def _resend_to(self, pool: str) -> None:
        # In this order: what is claimed in between counts for less, not for lost.
        waiting = doorbell.waiting(self._app, pool)
        missing = recovery.count_sent(self._db, pool) - waiting
        if missing > 0:
            lost = recovery.resend(
                self._db,
                pool,
                older_than_ms=self._settings.resend_after_ms,
                limit=min(missing, self._batch),
            )
            if lost:
                LOGGER.info("doorbells_sent_again", pool=pool, count=len(lost))
                doorbell.send(self._app, lost)

    def _decide(self) -> None:
        """Ask again for decisions that nobody has made."""
        # Whoever is asked for in vain is asked for less often; that Redis is full must not count as that.
        room = min(self._batch, doorbell.room_for_decisions(self._app))
        self._ask(recovery.ask_undecided(self._db, older_than_ms=self._settings.resend_after_ms, limit=room))

    def _count(self) -> None:
        """Count what has ended, so that no scrape finds much that is not counted."""
        if self._rounds % COUNT_EVERY_ROUNDS == 0:
            metrics.catch_up(self._db, None, within_seconds=COUNT_SECONDS, stopped=self._stop.is_set)

    def _keep_house(self) -> None:
        """Forget workers that are long gone, and requests to warm up and keys that have expired."""
        if self._rounds % HOUSEKEEPING_EVERY_ROUNDS == 0:
            workers.forget_dead(self._db)
            recovery.forget_aside(self._db)
            warm.forget_old(self._db)
            while calls.forget_expired(self._db, limit=BATCH) == BATCH and not self._stop.is_set():
                pass

    def _ring(self, backlogs: frozenset[Backlog]) -> None:
        _for_each(
            sorted(backlogs, key=lambda backlog: (backlog.pool, backlog.tenant)),
            lambda backlog: self._send(dispatch.pick(self._db, backlog.pool, backlog.tenant)),
        )

    def _send(self, bells: list[Doorbell]) -> None:
        if bells:
            doorbell.send(self._app, bells)

    def _ask(self, runs: frozenset[tuple[TenantId, RunId]] | list[tuple[TenantId, RunId]]) -> None:
        doorbell.send_decide(self._app, list(runs))


def _for_each(things: Iterable[T], act: Callable[[T], None]) -> None:
    """Do it for each. One that fails keeps none of the others from their turn; the first is raised then.

    When a server is away there is no use in trying the others.
    """
    failed: Exception | None = None
    for thing in things:
        try:
            act(thing)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # It is raised in the end.
            failed = failed or error
    if failed is not None:
        raise failed


def main() -> int:
    """Sweep until a signal ends it, then return at once: a verb cut short is one transaction, or none."""
    try:
        settings = load_settings(os.environ, need=Need.DATABASE | Need.REDIS)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    configure_logging(settings.log_level, component="sweeper")
    db = Database(
        settings.database_url,
        role="orch_service",
        size=2,
        application_name="orchestrator-sweeper",
        answer_seconds=BATCH_SECONDS,
    )
    if too_old := schema.why_too_old(db):
        sys.stderr.write(f"{too_old}\n")
        return EX_CONFIG
    sweeper_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    sweeper = Sweeper(db, make_celery(settings), settings, QueueKeys(settings), sweeper_id=sweeper_id)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: ended.set())
    # The sweeps run beside the main thread, which so hears signals even while PostgreSQL hangs.
    thread = threading.Thread(target=sweeper.run, name="sweeps", daemon=True)
    thread.start()
    LOGGER.info("sweeper_ready")
    ended.wait()
    sweeper.stop()
    thread.join(1.0)
    if not thread.is_alive():
        try:
            workers.deregister_sweeper(db, sweeper_id)
        except Unavailable:
            LOGGER.info("sweeper_not_deregistered")
    LOGGER.info("sweeper_ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
