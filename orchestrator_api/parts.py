"""The parts that an API process is put together from, and how a handler reaches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app

from orchestrator_api.auth import TokenVerifier
from orchestrator_api.log_follower import Followers
from orchestrator_api.paging import PageTokens
from orchestrator_api.rate_limit import RateLimits
from orchestrator_api.stream.streams import Streams
from orchestrator_api.web_metrics import WebMetrics
from shared.artifacts import ArtifactStore
from shared.domain.models import Change, JsonObject, RunId, TenantId
from shared.errors import Problem
from shared.messaging.dispatcher import Dispatcher
from shared.messaging.live_log import LiveLogs
from shared.plugins import Catalog
from shared.services.health import QueueCounts
from shared.signing import Signatures
from shared.store.db import Database
from shared.tracing import Tracer

_EXTENSION = "orchestrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What handlers work with.

    ``db`` is bound to one tenant at a time. ``db_of_all`` sees every tenant, and
    serves an operator's views of queues and metrics only. ``db_of_streams`` is for answers that
    last as long as their readers are slow: fewer than the threads, so that they cannot take all
    of them. ``ping_queue`` raises QueueUnavailable, ``count_workers`` StoreUnavailable, both soon.
    """

    db: Database
    db_of_streams: Database
    db_of_all: Database
    dispatcher: Dispatcher
    ping_queue: Callable[[], None]
    count_workers: Callable[[], int]
    catalog: Catalog
    artifacts: ArtifactStore
    tokens: TokenVerifier
    page_tokens: PageTokens
    live_logs: LiveLogs
    followers: Followers
    streams: Streams
    pools: frozenset[str]
    rate_limits: RateLimits
    stream_origins: frozenset[str] = frozenset()
    signatures: Signatures = field(default_factory=Signatures)
    tracer: Tracer | None = None
    queue_counts: QueueCounts = field(default_factory=QueueCounts)
    metrics: WebMetrics = field(default_factory=WebMetrics)

    def check_uses(self, uses: str, params: JsonObject) -> list[Problem] | None:
        """Check a step's ``with`` against the plugin that ``uses`` names; ``None`` if there is none."""
        return None if self.catalog.find(uses) is None else self.catalog.check_params(uses, params)

    def follow(self, tenant: TenantId, run_id: RunId, change: Change) -> None:
        """Have done what a committed change asks for. Returns at once, also while Redis is away.

        To be called after the commit only: a message that runs ahead of its
        transaction rings for a step that nobody can claim yet.
        """
        self.dispatcher.events_written(tenant)
        if change.ready_pools:
            self.dispatcher.steps_ready(tenant, change.ready_pools)
        if change.keys:
            self.dispatcher.keys_changed(tenant, change.keys)
        if change.undecided:
            self.dispatcher.undecided(tenant, run_id)
        if change.to_stop:
            self.dispatcher.cancelled(run_id)


def attach(app: Flask, parts: Parts) -> None:
    """Give ``app`` its parts."""
    app.extensions[_EXTENSION] = parts


def parts() -> Parts:
    """Give the parts of the process that serves this request."""
    return parts_of(current_app)


def parts_of(app: Flask) -> Parts:
    """Give the parts of ``app``."""
    return cast(Parts, app.extensions[_EXTENSION])
