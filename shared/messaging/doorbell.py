"""Doorbells: Celery messages that say a step may be ready, or a run may have decisions to make.

A doorbell carries ids only. It is sent after the commit that it tells of, and it may be
lost, late, or delivered twice: the claim in PostgreSQL decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from celery import Celery
from kombu.exceptions import KombuError
from kombu.utils.uuid import uuid
from redis.exceptions import RedisError

from shared.domain.models import RunId, TenantId
from shared.errors import QueueUnavailable
from shared.messaging.celery_app import (
    DECIDE_RUN,
    DECISIONS_QUEUE,
    EXECUTE_STEP,
    SOCKET_TIMEOUT_SECONDS,
    queue_name,
)
from shared.messaging.run_traces import RunTraces

MESSAGE_VERSION = 1
"""Goes up when a field is added. Workers of the release before get the message, too, and pass over what they
do not know; so a field never changes its meaning and is never taken away: that would be another task."""

MAX_DECISIONS = 1_000
"""About so many runs may wait in Redis for their decisions. The others are found in PostgreSQL."""

Message = tuple[str, str, dict[str, object], dict[str, str]]
"""Queue, task name, keyword arguments, headers of the trace."""


class StepDoorbell(Protocol):
    """The ids of a step that may be ready, and the pool whose queue takes the message."""

    @property
    def tenant(self) -> TenantId: ...
    @property
    def run_id(self) -> RunId: ...
    @property
    def step_no(self) -> int: ...
    @property
    def pool(self) -> str: ...


def send(app: Celery, doorbells: Sequence[StepDoorbell], traces: RunTraces | None = None) -> None:
    """Ring for steps, all in one Redis round trip; raises QueueUnavailable.

    After an error some of them may have been sent.
    """
    _publish(
        app,
        (
            (
                queue_name(bell.pool),
                EXECUTE_STEP,
                {
                    "v": MESSAGE_VERSION,
                    "tenant": bell.tenant,
                    "run_id": str(bell.run_id),
                    "step_no": bell.step_no,
                },
                _headers(traces, bell.run_id),
            )
            for bell in doorbells
        ),
    )


def send_decide(app: Celery, runs: Sequence[tuple[TenantId, RunId]], traces: RunTraces | None = None) -> None:
    """Ring for runs with steps whose ``when`` decides now, as far as there is room; raises QueueUnavailable.

    Those that there is no room for are undecided for longer, and so the sweeper asks for them again.
    """
    if not runs:
        return
    room = room_for_decisions(app)
    _publish(
        app,
        (
            (
                DECISIONS_QUEUE,
                DECIDE_RUN,
                {"v": MESSAGE_VERSION, "tenant": tenant, "run_id": str(run_id)},
                _headers(traces, run_id),
            )
            for tenant, run_id in runs[:room]
        ),
    )


def _headers(traces: RunTraces | None, run_id: RunId) -> dict[str, str]:
    return {} if traces is None else traces.headers(run_id)


def _publish(app: Celery, messages: Iterable[Message]) -> None:
    """Publish through a kept connection, as Celery's ``send_task`` would, at a fifth of its cost."""
    amqp = app.amqp
    try:
        with (
            app.producer_pool.acquire(block=True, timeout=SOCKET_TIMEOUT_SECONDS) as producer,
            producer.batch(),  # type: ignore[attr-defined]  # New in kombu 5.7; the stubs are older.
        ):
            for queue, task, kwargs, trace in messages:
                message = amqp.create_task_message(
                    uuid(),
                    task,
                    kwargs=kwargs,
                    argsrepr="",
                    kwargsrepr="",
                    origin="orchestrator",
                    ignore_result=True,
                )
                producer.publish(
                    message.body,
                    exchange="",
                    routing_key=queue,
                    serializer="json",
                    headers={**message.headers, **trace},
                    **message.properties,
                )
    except (KombuError, RedisError, OSError) as error:
        raise QueueUnavailable("Redis is out of reach") from error


def room_for_decisions(app: Celery) -> int:
    """Count the messages that ``send_decide`` would send; raises QueueUnavailable."""
    return max(0, MAX_DECISIONS - _length(app, DECISIONS_QUEUE))


def waiting(app: Celery, pool: str) -> int:
    """Count the doorbells of a pool that Redis holds; raises QueueUnavailable."""
    return _length(app, queue_name(pool))


def _length(app: Celery, queue: str) -> int:
    try:
        with app.pool.acquire(block=True, timeout=SOCKET_TIMEOUT_SECONDS) as connection:
            # To declare a queue is a local matter with Redis; the answer has its length.
            channel = connection.default_channel  # type: ignore[attr-defined]  # The stubs take it for producers.
            return int(channel.queue_declare(queue).message_count)
    except (KombuError, RedisError, OSError) as error:
        raise QueueUnavailable("Redis is out of reach") from error
