"""Requests a minute, for each tenant and class of endpoint, counted in Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from limits.storage import RedisStorage
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.messaging.complaint import Complaint

WINDOW_SECONDS = 60
TIMEOUT_SECONDS = 0.25
"""What one request may lose to a Redis that hangs."""
BLOCKS = 1_000
"""In so many parts a process takes a limit from Redis."""
PAUSE_SECONDS = 2.0
"""For how long nobody asks again after that, so that it is one request in many."""


class RateClass(StrEnum):
    """The classes of endpoints that may have a limit of their own."""

    READ = "read"
    CHANGE = "change"
    BULK = "bulk"
    """Answers of any length: exports, whole lists, logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a tenant stands: ``remaining`` of ``limit`` requests are left until ``reset`` (epoch seconds)."""

    limit: int
    remaining: int
    reset: int
    exceeded: bool = False


@dataclass(slots=True)
class _Block:
    """Requests that Redis has counted ahead: ``left`` of them were not made yet."""

    counted: int
    left: int


class RateLimits:
    """Counts requests in windows of a minute, by the clock.

    A process has Redis count a thousandth of the limit at a time, and gives it out by
    itself: a round trip for each request would cost more than all else that the API does
    with a small one. So several processes may refuse a tenant that many requests early.

    The limits are there to stop accidents, not to guard the ledger: while Redis is away
    every request is served, and ``unchecked`` counts it.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        overall: int,
        by_class: Mapping[RateClass, int] = MappingProxyType({}),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._storage = RedisStorage(
            redis_url.replace("unix:", "redis+unix:", 1) if redis_url.startswith("unix:") else redis_url,
            key_prefix="orchestrator:rate",
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]  # Handed on to the client as it is.
        )
        self._overall = overall
        self._by_class = dict(by_class)
        self._now = now
        self._lock = threading.Lock()
        self._window = 0
        self._blocks: dict[str, _Block] = {}
        """Of this window, by key."""
        self._asks_again_at = float("-inf")
        self.unchecked = Complaint("rate_limit_unchecked")
        """Requests that were served without a look at the limits, since Redis did not answer."""

    def take(self, bucket: str, of: RateClass) -> Standing:
        """Count one request of ``bucket`` (a tenant); tell how it stands at the tighter of its limits."""
        window = int(self._now()) // WINDOW_SECONDS
        limits = {"all": self._overall}
        if of in self._by_class:
            limits[of.value] = self._by_class[of]
        standings = [
            self._standing(limit, self._used(f"{bucket}:{name}:{window}", window, limit), window)
            for name, limit in limits.items()
        ]
        return min(standings, key=lambda standing: (not standing.exceeded, standing.remaining))

    def _standing(self, limit: int, used: int, window: int) -> Standing:
        return Standing(
            limit=limit,
            remaining=max(0, limit - used),
            reset=(window + 1) * WINDOW_SECONDS,
            exceeded=used > limit,
        )

    def _used(self, key: str, window: int, limit: int) -> int:
        """Count a request, and give how many there were with it; 0 when Redis does not say."""
        with self._lock:
            if window != self._window:
                self._window, self._blocks = window, {}
            block = self._blocks.get(key)
            if block is not None and (block.left or block.counted > limit):
                # Over the limit, nothing that Redis could say would change it.
                block.left = max(0, block.left - 1)
                return block.counted - block.left
        size = max(1, limit // BLOCKS)
        counted = self._count(key, size)
        if not counted:
            return 0
        with self._lock:
            # What was counted beyond the limit is given to nobody.
            left = max(0, min(counted, limit) - (counted - size) - 1)
            self._blocks[key] = _Block(counted=min(counted, max(limit, counted - size + 1)), left=left)
            return self._blocks[key].counted - left

    def _count(self, key: str, requests: int) -> int:
        """Have Redis count requests; give how many it has counted, 0 when it does not answer."""
        if time.monotonic() < self._asks_again_at:
            self.unchecked.note()
            return 0
        try:
            return self._storage.incr(key, 2 * WINDOW_SECONDS, requests)
        except (RedisError, OSError) as error:
            self._asks_again_at = time.monotonic() + PAUSE_SECONDS
            self.unchecked.note(error)
            return 0
