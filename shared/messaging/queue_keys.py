"""The keys of our queues in Redis: each must be a list, or not be there at all."""

from __future__ import annotations

from collections.abc import Iterable

from redis.exceptions import RedisError

from shared.config import Settings
from shared.errors import QueueUnavailable
from shared.messaging.celery_app import DECISIONS_QUEUE, KEY_PREFIX, SOCKET_TIMEOUT_SECONDS, queue_name
from shared.messaging.redis_client import open_client

_FREE_OR_QUEUE = (b"none", b"list")


class QueueKeys:
    """Looks at the queues of an installation past Celery, with a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        self._client = open_client(settings.redis_url, timeout_seconds=SOCKET_TIMEOUT_SECONDS)
        self._keys = [KEY_PREFIX + name for name in (DECISIONS_QUEUE, *map(queue_name, settings.pools))]

    def mend(self) -> list[str]:
        """Remove keys that are no queues, and name them; raises QueueUnavailable.

        Every worker that waits for any queue would only get errors, and so would who
        sends. What a queue holds can be sent again; what such a key holds is not ours.
        """
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for key in self._keys:
                    pipe.type(key)
                wrong = [
                    key
                    for key, kind in zip(self._keys, pipe.execute(), strict=True)
                    if kind not in _FREE_OR_QUEUE
                ]
            if wrong:
                self._client.delete(*wrong)
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error
        return wrong

    def waiting(self, names: Iterable[str]) -> int:
        """Count the messages in some queues; raises QueueUnavailable."""
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.llen(KEY_PREFIX + name)
                return sum(pipe.execute())
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error

    def check_writable(self) -> None:
        """Raise QueueUnavailable unless Redis takes what workers and senders send.

        One that follows another, is full, or cannot save does not.
        """
        key = f"{KEY_PREFIX}probe"
        try:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.set(key, "", px=1_000)
                pipe.delete(key)
                pipe.execute()
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis takes nothing") from error

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
