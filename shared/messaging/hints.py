"""Hear what is published in Redis, for as long as it answers.

Whatever is published may be lost: between two connections, by a slow reader, with Redis itself. So nothing
that is heard is more than a hint to look into the ledger, and nobody may rely on hearing it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, cast

from celery import Celery
from kombu.exceptions import KombuError
from redis.client import PubSub
from redis.exceptions import RedisError

from shared.errors import QueueUnavailable
from shared.messaging.celery_app import SOCKET_TIMEOUT_SECONDS
from shared.messaging.redis_client import open_client

_PING_SECONDS: Final = 5.0
_SILENT_SECONDS: Final = 10.0
"""Nothing heard for so long, not even the answer to a ping: the connection is dead, whatever TCP says."""
_MOST_AT_ONCE: Final = 1_000


def publish(app: Celery, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Publish texts to channels (without the prefix of the keys) in one round trip.

    Gives how many heard each; raises QueueUnavailable.
    """
    if not messages:
        return []
    try:
        with app.pool.acquire(block=True, timeout=SOCKET_TIMEOUT_SECONDS) as connection:
            client = connection.default_channel.client  # type: ignore[attr-defined]  # The stubs lack it.
            with client.pipeline(transaction=False) as pipe:
                for channel, text in messages:
                    # kombu's client adds the prefix of the keys to the channel, too.
                    pipe.publish(channel, text)
                return [int(heard) for heard in pipe.execute()]
    except (KombuError, RedisError, OSError) as error:
        raise QueueUnavailable("Redis is out of reach") from error


class Hint(NamedTuple):
    """A message, or with ``text`` of ``None`` the news that the channel is heard from now on."""

    channel: str
    text: bytes | None


class Hints:
    """One connection that hears any number of channels."""

    def __init__(self, redis_url: str) -> None:
        self._client = open_client(redis_url, timeout_seconds=SOCKET_TIMEOUT_SECONDS)

    def hear(self, wanted: Callable[[], AbstractSet[str]], *, every_seconds: float) -> Iterator[list[Hint]]:
        """Give hints as they come, and an empty list at least so often; raises QueueUnavailable.

        ``wanted`` is asked each time, and nothing is heard any more once it gives none.
        """
        try:
            with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                subscribed: set[str] = set()
                heard = asked = time.monotonic()
                while channels := wanted():
                    _subscribe(pubsub, subscribed, channels)
                    messages = _next(pubsub, every_seconds)
                    now = time.monotonic()
                    if messages:
                        heard = now
                    elif now - heard > _SILENT_SECONDS:
                        raise QueueUnavailable("Redis is silent")
                    if now - asked > _PING_SECONDS:
                        pubsub.ping()
                        asked = now
                    yield [hint for message in messages if (hint := _hint(message)) is not None]
        except (RedisError, OSError) as error:
            raise QueueUnavailable("Redis is out of reach") from error

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()


def _subscribe(pubsub: PubSub, subscribed: set[str], wanted: AbstractSet[str]) -> None:
    """Hear the channels that are wanted, and no others; ``subscribed`` is brought up to date."""
    if more := wanted - subscribed:
        pubsub.subscribe(*more)
    if fewer := subscribed - wanted:
        pubsub.unsubscribe(*fewer)  # type: ignore[no-untyped-call]
    subscribed.clear()
    subscribed.update(wanted)


def _next(pubsub: PubSub, seconds: float) -> list[dict[str, object]]:
    """Wait for a message, and take those that have come with it."""
    messages: list[dict[str, object]] = []
    while len(messages) < _MOST_AT_ONCE and (message := pubsub.get_message(timeout=seconds)) is not None:
        messages.append(message)
        seconds = 0.0
    return messages


def _hint(message: dict[str, object]) -> Hint | None:
    if message["type"] not in ("message", "subscribe"):
        return None
    channel = cast("bytes", message["channel"]).decode()
    return Hint(channel, cast("bytes", message["data"]) if message["type"] == "message" else None)
