from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest

from orchestrator_api.app import create_app
from orchestrator_api.postgres_probe import postgres_probe
from orchestrator_api.queue_probe import queue_probe
from orchestrator_api.web_metrics import WebMetrics
from shared.domain.models import RunId, TenantId, WorkerId
from shared.services import work, workers
from shared.store.db import Database
from tests.integration.api.conftest import Api


@pytest.fixture(autouse=True)
def worker(service_db: Database) -> None:
    workers.register(service_db, WorkerId("w1"), pools=("default",), slots=8)


def queue_work(api: Api) -> None:
    body = {"dagId": "one", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}
    assert api.post("/dags", body).status_code == 201
    assert api.post("/runs", {"dagId": "one"}).status_code == 201


def test_liveness_needs_no_token_and_tells_no_queues(api: Api) -> None:
    queue_work(api)
    response = api.anonymous().get("/admin/health")
    assert response.status_code == 200
    assert response.get_json() == {
        "status": "ok",
        "checks": {"postgres": "ok", "redis": "ok", "workers": "ok"},
    }


def test_a_tenant_sees_its_own_queues_and_an_operator_all(api: Api) -> None:
    queue_work(api)
    queue_work(api.as_("globex"))
    (own,) = api.get("/admin/health").get_json()["queues"]
    assert set(own) == {"tenant", "pool", "depth", "oldestAgeSeconds", "running"}
    assert (own["tenant"], own["pool"], own["depth"], own["running"]) == ("acme", "default", 1, 0)
    operator = api.as_("*", tenant=None, tenants=["*"])
    assert {queue["tenant"] for queue in operator.get("/admin/health").get_json()["queues"]} == {
        "acme",
        "globex",
    }
    assert api.as_("*", tenant=None, tenants=["acme"]).get("/admin/health").status_code == 403


def test_no_worker_is_not_healthy(api: Api, service_db: Database) -> None:
    workers.deregister(service_db, WorkerId("w1"))
    response = api.anonymous().get("/admin/health")
    body = response.get_json()
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert body["checks"] == {"postgres": "ok", "redis": "ok", "workers": "down"}
    assert body["error"]["code"] == "UNAVAILABLE"
    assert "workers" in body["error"]["message"]


class TestWithoutRedis:
    @pytest.fixture
    def redis_address(self) -> str:
        return "redis://127.0.0.1:1/0"

    def test_it_is_named(self, api: Api) -> None:
        response = api.anonymous().get("/admin/health")
        assert response.status_code == 503
        assert response.get_json()["checks"]["redis"] == "down"


def test_without_postgresql_it_is_named_and_every_call_is_a_503(api: Api) -> None:
    nowhere = Database("postgresql:///none?host=/nonexistent", role="orch_api", size=1, application_name="t")
    app = create_app(
        replace(
            api.parts,
            db=nowhere,
            db_of_all=nowhere,
            count_workers=postgres_probe(nowhere),
            metrics=WebMetrics(),
        )
    )
    cut_off = Api(app=app, parts=api.parts, signer=api.signer, tenant="acme", token=api.token)
    assert cut_off.get("/admin/health").get_json()["checks"] == {
        "postgres": "down",
        "redis": "ok",
        "workers": "down",
    }
    refused = cut_off.get("/runs")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert refused.headers["Retry-After"]


@pytest.fixture
def silent_address() -> Iterator[str]:
    """A server that takes connections and never says a word, as one does that is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        yield f"{host}:{port}"


def test_servers_that_hang_are_down_within_seconds(api: Api, silent_address: str) -> None:
    hanging = Database(
        f"postgresql://{silent_address}/none", role="orch_api", size=1, application_name="test"
    )
    app = create_app(
        replace(
            api.parts,
            count_workers=postgres_probe(hanging),
            ping_queue=queue_probe(f"redis://{silent_address}/0"),
            metrics=WebMetrics(),
        )
    )
    cut_off = Api(app=app, parts=api.parts, signer=api.signer, tenant=None)
    threads = threading.active_count()
    for _ in range(3):
        begun = time.monotonic()
        response = cut_off.get("/admin/health")
        assert time.monotonic() - begun < 4
        assert response.get_json()["checks"] == {"postgres": "down", "redis": "down", "workers": "down"}
    assert threading.active_count() <= threads + 1


def test_a_token_that_does_not_hold_is_refused_where_none_is_needed(api: Api) -> None:
    response = api.anonymous().get("/admin/health", headers={"Authorization": "Bearer a.b.c"})
    assert (response.status_code, response.get_json()["error"]["code"]) == (401, "UNAUTHENTICATED")


def test_the_queues_tell_what_waits_was_sent_and_runs(api: Api) -> None:
    steps = [{"id": name, "uses": "noop"} for name in ("a", "b", "c", "d")]
    assert api.post("/dags", {"dagId": "wide", "version": "1.0.0", "steps": steps}).status_code == 201
    run_id = api.post("/runs", {"dagId": "wide"}).get_json()["runId"]
    api.parts.dispatcher.close()
    claim = work.claim(
        api.parts.db_of_all, TenantId("acme"), RunId(UUID(run_id)), 0, worker_id=WorkerId("w"), lease_ms=9_000
    )
    assert claim is not None
    (own,) = api.get("/admin/health").get_json()["queues"]
    assert (own["depth"], own["running"]) == (3, 1)
    assert 0 < own["oldestAgeSeconds"] < 60
