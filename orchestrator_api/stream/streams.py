"""All streams of a process: who may have one, and the threads that serve them."""

from __future__ import annotations

import threading
from collections import Counter

import structlog

from orchestrator_api.errors import TooManyStreams
from orchestrator_api.stream.client import Client
from orchestrator_api.stream.feed import Feed
from orchestrator_api.stream.hub import Hub
from orchestrator_api.stream.wire import CloseCode
from orchestrator_api.web_metrics import WebMetrics
from shared.domain.models import TenantId
from shared.errors import TenantStreamsExceeded, Unavailable
from shared.messaging.event_hints import EventHints
from shared.store.db import Database

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()


class Streams:
    """Takes clients from any thread. ``adopt`` returns at once: the threads of the package do the rest."""

    def __init__(
        self,
        db: Database,
        hints: EventHints,
        *,
        heartbeat_seconds: float,
        most: int,
        most_of_tenant: int,
        metrics: WebMetrics,
    ) -> None:
        self._most = most
        self._most_of_tenant = most_of_tenant
        self._lock = threading.Lock()
        self._places: Counter[TenantId] = Counter()
        self._closing = False
        self._hub = Hub(heartbeat_seconds=heartbeat_seconds, room=self._room, gone=self._gone)
        self._feed = Feed(db, hints, self._hub)
        self._metrics = metrics
        metrics.count_streams(unread=self._feed.unread, unheard=self._feed.unheard)

    def enter(self, tenant: TenantId) -> None:
        """Take a place, which ``leave`` gives back until ``adopt`` has been called.

        Raises TenantStreamsExceeded, TooManyStreams, or Unavailable once the process is about to stop.
        """
        with self._lock:
            if self._closing:
                raise Unavailable("this server stops")
            if self._places[tenant] >= self._most_of_tenant:
                raise TenantStreamsExceeded(
                    f"the tenant has {self._most_of_tenant} streams open here, and may have no more"
                )
            if self._places.total() >= self._most:
                raise TooManyStreams("too many streams are open here just now; try again")
            self._places[tenant] += 1

    def leave(self, tenant: TenantId) -> None:
        """Give a place back."""
        with self._lock:
            self._places[tenant] -= 1
            if not self._places[tenant]:
                del self._places[tenant]

    def adopt(self, client: Client) -> None:
        """Serve a client that has a place, until its end. Its head is sent, and its socket ours."""
        LOGGER.debug("stream_begins", tenant=client.subscription.tenant, trace_id=client.trace_id)
        self._metrics.stream_opened()
        self._hub.add(client)
        self._feed.add(client)

    def close(self) -> None:
        """End all streams soon, and let none begin. Safe in a signal handler."""
        self._closing = True
        self._hub.close()

    def join(self, seconds: float) -> None:
        """Wait for the end of all streams, after ``close``."""
        self._hub.join(seconds)

    def _room(self) -> None:
        self._feed.room()

    def _gone(self, client: Client, code: CloseCode | None) -> None:
        self._feed.remove(client)
        self.leave(client.subscription.tenant)
        self._metrics.stream_ended(code)
        LOGGER.info(
            "stream_ended",
            trace_id=client.trace_id,
            tenant=client.subscription.tenant,
            code=None if code is None else int(code),
            seconds=round(client.lasted(), 3),
            bytes=client.sent_bytes,
        )
