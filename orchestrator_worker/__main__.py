"""A worker process: ``python -m orchestrator_worker``."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from functools import partial
from typing import cast

import structlog

from orchestrator_worker import work_folders
from orchestrator_worker.cancel_listener import CancelListener
from orchestrator_worker.celery_app import StepPool, make_controller, make_worker_celery, worker_queues
from orchestrator_worker.lease import LeaseKeeper
from orchestrator_worker.log_feed import LogFeed
from orchestrator_worker.settler import Settler
from orchestrator_worker.shutdown import Shutdown
from orchestrator_worker.tasks import StepRunner, register
from orchestrator_worker.warm_listener import WarmListener
from orchestrator_worker.watchdog import Watchdog
from shared.artifacts import open_store
from shared.config import ConfigError, Need, Settings, load_settings
from shared.domain.models import WorkerId
from shared.errors import OrchestratorError, Unavailable
from shared.garbage import collect_seldom
from shared.log import configure_logging
from shared.messaging.cancel_hints import CancelHints
from shared.messaging.complaint import TALLY
from shared.messaging.dispatcher import Dispatcher
from shared.messaging.live_log import LiveLogs
from shared.messaging.queue_keys import QueueKeys
from shared.plugins import StopReason, load_catalog
from shared.services import incidents, schema, work, workers
from shared.store.db import Database
from shared.tracing import open_tracer

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

EX_CONFIG = 78
SERVICE_CONNECTIONS = 3
"""Beside one a slot: for the dispatcher, requests to warm up, and one to spare."""
TRANSITION_SECONDS = 15.0
"""A completion may have thousands of steps to unlock; while it takes long the lease is renewed."""


def main() -> int:
    """Take doorbells and run steps until a signal ends it."""
    try:
        settings = load_settings(os.environ, need=Need.DATABASE | Need.REDIS | Need.WORKER)
        configure_logging(settings.log_level, component="worker")
        return serve(settings, WorkerId(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"))
    except (ConfigError, OrchestratorError) as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG


def serve(settings: Settings, worker_id: WorkerId) -> int:
    """Run this process's worker; returns the exit status."""
    size = settings.worker_concurrency + SERVICE_CONNECTIONS
    db = Database(
        settings.database_url,
        role="orch_service",
        size=size,
        application_name="orchestrator-worker",
        answer_seconds=TRANSITION_SECONDS,
    )
    # A renewal must not wait behind anything, nor for so long that there is no time for another.
    db_of_leases = Database(
        settings.database_url,
        role="orch_service",
        size=1,
        application_name="orchestrator-worker",
        answer_seconds=max(0.5, settings.lease_ms / 4_000),
    )
    if too_old := schema.why_too_old(db):
        sys.stderr.write(f"{too_old}\n")
        return EX_CONFIG
    app = make_worker_celery(settings)
    catalog = load_catalog()
    dispatcher = Dispatcher(db, app, slots=settings.worker_concurrency)
    controller = make_controller(app, settings, hostname=f"orchestrator@{worker_id}")
    pool = cast(StepPool, controller.pool)
    settler = Settler(
        db,
        pool,
        worker_id=worker_id,
        pools=frozenset(settings.worker_pools),
        lease_ms=settings.lease_ms,
        pure=catalog.pure() if settings.handoff_ms else frozenset(),
    )
    keeper = LeaseKeeper(
        partial(work.renew, db_of_leases, lease_ms=settings.lease_ms),
        partial(_tell_alive, db_of_leases, settings, worker_id, settler),
        lease_ms=settings.lease_ms,
        kill_grace_ms=settings.kill_grace_ms,
        heartbeat_ms=settings.heartbeat_ms,
    )
    shutdown = Shutdown(
        grace_ms=settings.grace_ms,
        kill_grace_ms=settings.kill_grace_ms,
        release=partial(keeper.stop_all, StopReason.RELEASED),
        running=keeper.running,
    )
    feed = LogFeed(LiveLogs(settings.redis_url), max_bytes=settings.live_log_bytes)
    runner = StepRunner(
        db=db,
        settings=settings,
        catalog=catalog,
        store=open_store(settings.artifacts_url),
        dispatcher=dispatcher,
        keeper=keeper,
        shutdown=shutdown,
        feed=feed,
        worker_id=worker_id,
        pool=pool,
        settler=settler,
        tracer=open_tracer(settings.otlp_endpoint, service="orchestrator-worker"),
    )
    register(app, runner)
    listener = WarmListener(db, catalog, worker_id)
    cancel_listener = CancelListener(CancelHints(settings.redis_url), keeper.renew_soon)
    watchdog = Watchdog(
        QueueKeys(settings),
        worker_queues(settings),
        pool,
        deaf_after_ms=settings.deaf_after_ms,
        draining=lambda: shutdown.draining,
        give_up=shutdown.give_up,
    )
    shutdown.install(pool.wake)
    work_folders.sweep(settings.work_dir)
    keeper.start()
    listener.start()
    cancel_listener.start()
    watchdog.start()
    LOGGER.info(
        "worker_ready", worker_id=worker_id, pools=settings.worker_pools, slots=settings.worker_concurrency
    )
    collect_seldom()
    controller.start()
    watchdog.close()
    # Celery waits for its threads only if its loop has begun; attempts may be running in either case.
    pool.stop()
    feed.close()
    dispatcher.close()
    try:
        incidents.report(db, "worker", TALLY)
        workers.deregister(db, worker_id)
    except Unavailable:
        LOGGER.info("worker_not_deregistered")
    listener.close()
    cancel_listener.close()
    keeper.close()
    db.close()
    db_of_leases.close()
    shutdown.finished()
    LOGGER.info("worker_ended")
    return int(controller.exitcode or 0)


def _tell_alive(db: Database, settings: Settings, worker_id: WorkerId, settler: Settler) -> None:
    workers.register(
        db,
        worker_id,
        pools=settings.worker_pools,
        slots=settings.worker_concurrency,
        heartbeat_ms=settings.heartbeat_ms,
    )
    settler.share = workers.share(db, worker_id)
    incidents.report(db, "worker", TALLY)


if __name__ == "__main__":
    sys.exit(main())
