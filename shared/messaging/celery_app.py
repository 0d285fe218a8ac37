"""Celery as transport only: fixed queues, ids in JSON, nothing that Redis would have to remember.

PostgreSQL says what is true and the sweeper sends again what was lost, so a message is
acknowledged before it is run, kept nowhere else, and has no result. See docs/adr/.
"""

from __future__ import annotations

import ssl
from urllib.parse import parse_qsl, urlencode

from celery import Celery
from kombu import Queue

from shared.config import Settings

EXECUTE_STEP = "orchestrator.execute_step"
DECIDE_RUN = "orchestrator.decide_run"
DECISIONS_QUEUE = "decisions"
"""Every worker takes from it, whatever its pools: evaluating a ``when`` needs no pool."""

SOCKET_TIMEOUT_SECONDS = 4.0
KEY_PREFIX = "orchestrator:"
"""Of each key that Celery makes in Redis."""


_OF_POOL = "steps."


def queue_name(pool: str) -> str:
    """Return the queue of a pool."""
    return _OF_POOL + pool


def pool_of(queue: str) -> str | None:
    """Return the pool whose queue this is, if it is one's."""
    return queue.removeprefix(_OF_POOL) if queue.startswith(_OF_POOL) else None


def make_celery(settings: Settings, *, cls: type[Celery] = Celery) -> Celery:
    """Build the Celery app of this process; connects to nothing yet."""
    app = cls("orchestrator", broker=_broker_url(settings.redis_url), set_as_current=False)
    names = [DECISIONS_QUEUE, *(queue_name(pool) for pool in settings.pools)]
    app.conf.update(
        broker_transport_options=_transport_options(),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        task_queues=[Queue(name, routing_key=name) for name in names],
        task_default_queue=DECISIONS_QUEUE,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,
        result_backend=None,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_concurrency=settings.worker_concurrency,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # A message is never delivered again, so a worker that connects anew has no reason to take fewer.
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    if settings.redis_url.startswith("rediss:"):
        # Left to itself, kombu would take any certificate.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


def _broker_url(redis_url: str) -> str:
    """Spell the address of a unix socket as kombu does: ``redis+socket:///path?virtual_host=0``."""
    if not redis_url.startswith("unix:"):
        return redis_url
    address, _, query = redis_url.removeprefix("unix:").partition("?")
    options = [(("virtual_host" if name == "db" else name), value) for name, value in parse_qsl(query)]
    return f"redis+socket:{address}" + (f"?{urlencode(options)}" if options else "")


def _transport_options() -> dict[str, object]:
    return {
        # The copy that kombu keeps of each message costs two more Redis transactions, and guards
        # against nothing that the ledger does not guard against already.
        "ack_emulation": False,
        "global_keyprefix": KEY_PREFIX,
        "priority_steps": [0],
        "queue_order_strategy": "round_robin",
        "client_name": "orchestrator",
        # A frozen or half-open Redis must not hold a thread for longer than this. kombu leaves out
        # by itself what a unix socket does not have.
        "socket_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 5,
        # A sender tries once: the sweeper sends again. A consumer retries by settings of its own.
        "max_retries": 1,
        "interval_start": 0,
    }
