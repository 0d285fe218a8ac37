"""Connections to Redis beside Celery's."""

from __future__ import annotations

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def open_client(redis_url: str, *, timeout_seconds: float) -> Redis:
    """Make a client that waits so long for each answer, and never tries a second time by itself."""
    client: Redis = Redis.from_url(
        redis_url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # By the newer one, streams and what a subscriber hears come in other shapes.
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
    return client
