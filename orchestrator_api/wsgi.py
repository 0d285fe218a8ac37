"""The application of a web process: ``gunicorn orchestrator_api.wsgi:application``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from flask import Flask

from orchestrator_api.app import create_app
from orchestrator_api.auth import TokenVerifier, load_keys
from orchestrator_api.log_follower import Followers
from orchestrator_api.paging import PageTokens
from orchestrator_api.parts import Parts
from orchestrator_api.queue_probe import queue_probe
from orchestrator_api.rate_limit import RateClass, RateLimits
from orchestrator_api.stream.streams import Streams
from orchestrator_api.web_metrics import FOLDER_VARIABLE, WebMetrics
from shared.artifacts import open_store
from shared.config import Need, Settings, load_settings
from shared.log import configure_logging
from shared.messaging.celery_app import make_celery
from shared.messaging.dispatcher import Dispatcher
from shared.messaging.event_hints import EventHints
from shared.messaging.live_log import LiveLogs
from shared.plugins import load_catalog
from shared.services.health import live_workers
from shared.signing import SignaturePolicy, Signatures
from shared.signing_keys import load_verification_keys
from shared.store.db import Database
from shared.tracing import open_tracer

NEED = Need.DATABASE | Need.REDIS | Need.WEB
PROBE_SECONDS = 1.0
"""Who asks for health waits no longer for PostgreSQL."""


def make_application() -> Flask:
    """Read the settings of this process and put its application together."""
    settings = load_settings(os.environ, need=NEED)
    configure_logging(settings.log_level, component="web")
    name = "orchestrator-web"
    # One connection more than threads: the dispatcher's.
    db = Database(
        settings.database_url, role="orch_api", size=settings.web_threads + 1, application_name=name
    )
    folder = os.environ.get(FOLDER_VARIABLE)
    metrics = WebMetrics(None if folder is None else Path(folder))
    dispatcher, limits = Dispatcher(db, make_celery(settings)), rate_limits(settings)
    metrics.count(
        not_sent=dispatcher.failed, hints_dropped=dispatcher.dropped, rate_limit_unchecked=limits.unchecked
    )
    return create_app(
        Parts(
            db=db,
            db_of_streams=Database(
                settings.database_url,
                role="orch_api",
                size=max(1, settings.web_threads // 2),
                application_name=name,
                wait_seconds=0.5,
            ),
            db_of_all=Database(settings.database_url, role="orch_service", size=2, application_name=name),
            dispatcher=dispatcher,
            ping_queue=queue_probe(settings.redis_url),
            # By itself: else a flood of requests would look like a server that is away.
            count_workers=partial(
                live_workers,
                Database(
                    settings.database_url,
                    role="orch_api",
                    size=1,
                    application_name=name,
                    answer_seconds=PROBE_SECONDS,
                ),
            ),
            catalog=load_catalog(),
            artifacts=open_store(settings.artifacts_url),
            tokens=TokenVerifier(load_keys(settings.jwks_file), issuer=settings.jwt_issuer),
            page_tokens=PageTokens(settings.secret_file.read_bytes()),
            live_logs=LiveLogs(settings.redis_url),
            # A follower holds a thread: the others are for who wants an answer.
            followers=Followers(settings.web_threads // 2),
            streams=_streams(settings, name, metrics),
            stream_origins=frozenset(settings.stream_origins),
            pools=frozenset(settings.pools),
            rate_limits=limits,
            metrics=metrics,
            signatures=_signatures(settings),
            tracer=open_tracer(settings.otlp_endpoint, service=name),
        )
    )


def rate_limits(settings: Settings) -> RateLimits:
    """Make the rate limits that an installation has chosen."""
    chosen = {
        RateClass.READ: settings.rate_limit_reads,
        RateClass.CHANGE: settings.rate_limit_changes,
        RateClass.BULK: settings.rate_limit_bulk,
    }
    return RateLimits(
        settings.redis_url,
        overall=settings.rate_limit,
        by_class={of: limit for of, limit in chosen.items() if limit is not None},
    )


def _streams(settings: Settings, name: str, metrics: WebMetrics) -> Streams:
    return Streams(
        Database(settings.database_url, role="orch_api", size=1, application_name=name),
        EventHints(settings.redis_url),
        heartbeat_seconds=settings.stream_heartbeat_ms / 1000,
        most=settings.streams,
        most_of_tenant=settings.streams_per_tenant,
        metrics=metrics,
    )


def _signatures(settings: Settings) -> Signatures:
    if settings.signature_keys_dir is None:
        return Signatures(SignaturePolicy(settings.signatures))
    return Signatures(
        SignaturePolicy(settings.signatures), load_verification_keys(settings.signature_keys_dir)
    )


def __getattr__(name: str) -> Flask:
    """Make ``application`` when a server asks for it by that name, so that an import alone does nothing."""
    if name == "application":
        return make_application()
    raise AttributeError(name)
