from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator_api.app import create_app
from shared.domain.models import WorkerId
from shared.services import workers
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
    app = create_app(replace(api.parts, db=nowhere, db_of_all=nowhere))
    cut_off = Api(app=app, parts=api.parts, signer=api.signer, tenant="acme", token=api.token)
    assert cut_off.get("/admin/health").get_json()["checks"] == {
        "postgres": "down",
        "redis": "ok",
        "workers": "down",
    }
    refused = cut_off.get("/runs")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert refused.headers["Retry-After"]
