"""The Flask application on a real PostgreSQL, a real Redis and a real artifact store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar
from uuid import UUID, uuid4

import psycopg2
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from orchestrator_api.app import create_app
from orchestrator_api.auth import TokenVerifier, load_keys
from orchestrator_api.log_follower import Followers
from orchestrator_api.paging import PageTokens
from orchestrator_api.parts import Parts
from orchestrator_api.queue_probe import queue_probe
from orchestrator_api.rate_limit import RateLimits
from orchestrator_api.stream.streams import Streams
from orchestrator_api.web_metrics import WebMetrics
from shared.artifacts import open_store
from shared.config import Settings
from shared.domain.models import JsonObject, Outcome, RunId, TenantId, WorkerId
from shared.embedded import postgres
from shared.messaging.celery_app import make_celery
from shared.messaging.dispatcher import Dispatcher
from shared.messaging.event_hints import EventHints
from shared.messaging.live_log import LiveLogs
from shared.plugins import Catalog
from shared.services.health import live_workers
from shared.store.db import Database
from tests.support import verbs
from tests.support.openapi import CheckedStream, check_response
from tests.support.rows import rows
from tests.support.servers import Servers
from tests.support.tokens import Signer, ec_signer, jwks

PREFIX = "/api/v1/orchestrator"


class Noop:
    """A plugin that takes one known parameter."""

    name = "noop"
    version = "1.0.0"
    schema: ClassVar[JsonObject] = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "note": {"type": "string"}},
        "additionalProperties": False,
    }
    needs_network = False
    retryable = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Calls the application as one caller; ``as_`` gives the same API as another one."""

    app: Flask
    parts: Parts
    signer: Signer
    tenant: str | None = "acme"
    token: str | None = None

    def as_(self, tenant_header: str, **claims: object) -> Api:
        """Act for a tenant with a token of its own, or with one that ``claims`` describe otherwise."""
        return Api(
            app=self.app,
            parts=self.parts,
            signer=self.signer,
            tenant=tenant_header,
            token=self.signer.token({"tenant": tenant_header, **claims}),
        )

    def as_operator(self, tenant_header: str = "acme", **claims: object) -> Api:
        """Act for a tenant with a token that is good for every tenant."""
        return self.as_(tenant_header, tenant=None, tenants=["*"], **claims)

    def anonymous(self) -> Api:
        """Send neither token nor tenant."""
        return Api(app=self.app, parts=self.parts, signer=self.signer, tenant=None)

    def call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: object
    ) -> TestResponse:
        """Call a path below the prefix; fail if the answer is not as the OpenAPI document has it."""
        sent = dict(headers or {})
        if method in ("POST", "PUT"):
            sent.setdefault("Idempotency-Key", str(uuid4()))
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if self.tenant is not None:
            sent.setdefault("X-Stella-Tenant", self.tenant)
        response = self.app.test_client().open(PREFIX + path, method=method, headers=sent, **options)  # type: ignore[arg-type]
        called = (method, PREFIX + path, response.status_code)
        if "Content-Length" in response.headers:
            check_response(*called, dict(response.headers), response.data)
        else:
            # A stream is for the test to read, and perhaps without an end: it is looked at as it passes.
            check_response(*called, dict(response.headers), None)
            response.response = CheckedStream(*called, response.response)
        return response

    def get(self, path: str, **options: object) -> TestResponse:
        return self.call("GET", path, **options)  # type: ignore[arg-type]

    def post(self, path: str, body: object = None, **options: object) -> TestResponse:
        return self.call("POST", path, json={} if body is None else body, **options)  # type: ignore[arg-type]


def finish_step(api: Api, run_id: str, step_no: int, outcome: Outcome, *, tenant: str = "acme") -> None:
    """Be the worker that takes a queued step of a tenant and ends it so."""
    db, worker = api.parts.db_of_all, WorkerId("w1")
    claim = verbs.claim(db, TenantId(tenant), RunId(UUID(run_id)), step_no, worker_id=worker, lease_ms=15_000)
    assert claim is not None
    change = verbs.complete(db, claim, outcome, worker_id=worker, handoff_pools=frozenset(), lease_ms=15_000)
    assert change.accepted


@pytest.fixture(scope="session")
def signer() -> Signer:
    return ec_signer()


@contextmanager
def running(folder: Path, signer: Signer, database_url: str, redis_url: str) -> Iterator[Api]:
    """Put the API together on these servers, as tenant acme with every scope."""
    key_file = folder / "jwks.json"
    key_file.write_text(jwks(signer))
    db = Database(database_url, role="orch_api", size=8, application_name="test-api")
    db_of_streams = Database(
        database_url, role="orch_api", size=2, application_name="test-streams", wait_seconds=0.1
    )
    db_of_all = Database(database_url, role="orch_service", size=2, application_name="test-service")
    celery = make_celery(Settings(redis_url=redis_url))
    dispatcher = Dispatcher(db, celery)
    metrics = WebMetrics()
    parts = Parts(
        db=db,
        db_of_streams=db_of_streams,
        db_of_all=db_of_all,
        dispatcher=dispatcher,
        ping_queue=queue_probe(redis_url),
        count_workers=partial(live_workers, db_of_all),
        catalog=Catalog([Noop()]),  # type: ignore[list-item]
        artifacts=open_store(f"file://{folder}/artifacts"),
        tokens=TokenVerifier(load_keys(key_file), issuer="test"),
        page_tokens=PageTokens(b"k" * 32),
        live_logs=LiveLogs(redis_url),
        followers=Followers(2),
        streams=Streams(
            db_of_streams,
            EventHints(redis_url),
            heartbeat_seconds=15,
            most=100,
            most_of_tenant=50,
            metrics=metrics,
        ),
        pools=frozenset({"default", "gpu"}),
        rate_limits=RateLimits(redis_url, overall=60_000),
        metrics=metrics,
    )
    yield Api(app=create_app(parts), parts=parts, signer=signer).as_("acme")
    dispatcher.close()
    celery.close()
    db.close()
    db_of_streams.close()
    db_of_all.close()


@pytest.fixture
def redis_address(redis_url: str) -> str:
    """The Redis of the application; a test may override it with one that is not there."""
    return redis_url


@pytest.fixture
def api(tmp_path: Path, signer: Signer, database_url: str, redis_address: str) -> Iterator[Api]:
    """The API on a database of its own."""
    with running(tmp_path, signer, database_url, redis_address) as own:
        yield own


@pytest.fixture(scope="module")
def quiet_api(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Api]:
    """The API on a database that the tests of a module share, since they write nothing."""
    folder = tmp_path_factory.mktemp("api")
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        running(folder, signer, servers.url(name), redis_url) as shared,
    ):
        yield shared


RUNS = int(os.environ.get("LARGE_LIST_RUNS", "200000"))
"""A million takes minutes on a busy machine, and a leak of 256 bytes a run shows at this number, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """A ledger with long lists of tenant acme, which nobody may change."""

    url: str
    owner_url: str


@pytest.fixture(scope="session")
def large(servers: Servers) -> Iterator[Large]:
    with servers.new_database() as name:
        made = Large(url=servers.url(name), owner_url=servers.url(name, user=postgres.OWNER))
        with rows(made.owner_url) as written:
            written.many_runs("acme", RUNS)
            written.many_others("acme")
        # As autovacuum does seconds after such rows have come, and not in the middle of a test.
        with closing(psycopg2.connect(made.owner_url)) as connection, connection.cursor() as cur:
            connection.autocommit = True
            cur.execute("VACUUM (ANALYZE)")
        yield made
