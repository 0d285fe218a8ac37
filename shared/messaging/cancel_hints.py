"""Hints that a run was cancelled, from the API to the workers, so that they look at once.

A hint is sent after the commit and may be lost: a worker learns of the cancellation with
the next renewal of its leases all the same, and only from the ledger. So nothing is
believed of a hint but that it may be worth a look.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Final, cast
from uuid import UUID

from celery import Celery
from kombu.exceptions import KombuError
from redis.client import PubSub
from redis.exceptions import RedisError

from shared.domain.models import RunId
from shared.errors import QueueUnavailable
from shared.messaging.celery_app import KEY_PREFIX, SOCKET_TIMEOUT_SECONDS
from shared.messaging.complaint import Complaint
from shared.messaging.redis_client import open_client

_CHANNEL: Final = "cancelled"
_LONGEST_WAIT_SECONDS: Final = 1.0
_PING_SECONDS: Final = 5.0
_SILENT_SECONDS: Final = 10.0
"""Nothing heard for so long, not even the answer to a ping: the connection is dead, whatever TCP says."""
_MOST_AT_ONCE: Final = 1_000


def send(app: Celery, run_ids: Collection[RunId]) -> None:
    """Tell all workers that these runs were cancelled, in one round trip; raises QueueUnavailable."""
    if not run_ids:
        return
    try:
        with app.pool.acquire(block=True, timeout=SOCKET_TIMEOUT_SECONDS) as connection:
            client = connection.default_channel.client  # type: ignore[attr-defined]  # The stubs lack it.
            with client.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    # kombu's client adds the prefix of the keys to the channel, too.
                    pipe.publish(_CHANNEL, str(run_id))
                pipe.execute()
    except (KombuError, RedisError, OSError) as error:
        raise QueueUnavailable("Redis is out of reach") from error


class CancelHints:
    """Where a worker hears the hints, by a connection of its own."""

    def __init__(self, redis_url: str) -> None:
        self._client = open_client(redis_url, timeout_seconds=SOCKET_TIMEOUT_SECONDS)
        self.forged = Complaint("cancel_hint_refused")
        """Messages that name no run."""

    def hear(self) -> Iterator[frozenset[RunId]]:
        """Give the runs that were hinted at as the hints come, and none at least once a second.

        Raises QueueUnavailable once Redis is out of reach, or silent.
        """
        try:
            with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                pubsub.subscribe(KEY_PREFIX + _CHANNEL)
                heard = asked = time.monotonic()
                while True:
                    messages = _next(pubsub)
                    now = time.monotonic()
                    if messages:
                        heard = now
                    elif now - heard > _SILENT_SECONDS:
                        raise QueueUnavailable("Redis is silent")
                    if now - asked > _PING_SECONDS:
                        pubsub.ping()
                        asked = now
                    yield frozenset(self._runs(messages))
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def _runs(self, messages: list[dict[str, object]]) -> Iterator[RunId]:
        for message in messages:
            if message["type"] == "message":
                try:
                    yield RunId(UUID(cast("bytes", message["data"]).decode("ascii")))
                except ValueError as error:
                    self.forged.note(error)


def _next(pubsub: PubSub) -> list[dict[str, object]]:
    """Wait for a message, and take those that have come with it."""
    messages: list[dict[str, object]] = []
    wait = _LONGEST_WAIT_SECONDS
    while len(messages) < _MOST_AT_ONCE and (message := pubsub.get_message(timeout=wait)) is not None:
        messages.append(message)
        wait = 0.0
    return messages
