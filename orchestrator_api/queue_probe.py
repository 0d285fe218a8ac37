"""Ask Redis whether it is there, without waiting long for the answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from redis.exceptions import RedisError

from shared.errors import QueueUnavailable
from shared.messaging.redis_client import open_client

_TIMEOUT_SECONDS = 1.0
_REMEMBERED_SECONDS = 1.0


def queue_probe(redis_url: str) -> Callable[[], None]:
    """Make a function that raises QueueUnavailable unless Redis answers within a second.

    Who asks within a second of a failure is told so at once.
    """
    client = open_client(redis_url, timeout_seconds=_TIMEOUT_SECONDS)

    silent_until = float("-inf")

    def ping() -> None:
        nonlocal silent_until
        if time.monotonic() < silent_until:
            raise QueueUnavailable("Redis did not answer a moment ago")
        try:
            client.ping()
        except (RedisError, OSError) as error:
            silent_until = time.monotonic() + _REMEMBERED_SECONDS
            raise QueueUnavailable("Redis does not answer") from error

    return ping
