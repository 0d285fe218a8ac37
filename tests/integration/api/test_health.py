from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from uuid import UUID

import pytest

from orchestrator_api.app import create_app
from orchestrator_api.queue_probe import queue_probe
from orchestrator_api.web_metrics import WebMetrics
from orchestrator_api.wsgi import PROBE_SECONDS
from shared.domain.models import RunId, TenantId, WorkerId
from shared.messaging.complaint import Noted, Tally
from shared.services import incidents, workers
from shared.services.health import QueueCounts, live_workers
from shared.store.db import Database
from tests.integration.api.conftest import Api
from tests.support import verbs


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


def test_a_token_learns_whether_a_sweeper_lives(api: Api, service_db: Database) -> None:
    assert "sweeper" not in api.anonymous().get("/admin/health").get_json()
    assert api.get("/admin/health").get_json()["sweeper"] == {"status": "down", "lastSeenUtc": None}

    workers.register_sweeper(service_db, "s1")

    body = api.get("/admin/health").get_json()
    assert body["sweeper"]["status"] == "ok"
    assert body["status"] == "ok"
    workers.register_sweeper(service_db, "s1", heartbeat_ms=0)
    body = api.get("/admin/health").get_json()
    # Runs without failures do not need one: the installation is up.
    assert (body["sweeper"]["status"], body["status"]) == ("down", "ok")
    assert body["sweeper"]["lastSeenUtc"]


def test_a_tenant_sees_its_own_rows_that_are_set_aside_and_an_operator_all_and_what_goes_wrong(
    api: Api, service_db: Database
) -> None:
    run_id = str(UUID(int=7))
    for tenant in ("acme", "globex"):
        with service_db.statement(None) as cur:
            query = "SELECT orch.put_aside(%(tenant)s, 'wake', %(run_id)s, -1, 'broken')"
            cur.execute(query, {"tenant": tenant, "run_id": run_id})
    tally = Tally()
    tally.add("lease_lost", Noted(2, "StoreUnavailable"))
    incidents.report(service_db, "worker", tally)

    body = api.get("/admin/health").get_json()
    (own,) = body["setAside"]
    assert (own["tenant"], own["verb"], own["runId"], own["number"]) == ("acme", "wake", run_id, None)
    assert (own["reason"], own["tries"]) == ("broken", 1)
    assert "incidents" not in body
    everything = api.as_("*", tenant=None, tenants=["*"]).get("/admin/health").get_json()
    assert {row["tenant"] for row in everything["setAside"]} == {"acme", "globex"}
    (incident,) = everything["incidents"]
    assert (incident["component"], incident["kind"], incident["count"]) == ("worker", "lease_lost", 2)
    assert incident["detail"] == "StoreUnavailable"
    counted = 'orchestrator_incidents_total{component="worker",kind="lease_lost"} 2.0'
    for caller in (api, api.as_("*", tenant=None, tenants=["*"])):
        assert counted in caller.get("/admin/metrics").get_data(as_text=True)


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
            count_workers=partial(live_workers, nowhere),
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


def test_a_postgresql_that_fails_while_health_is_told_is_down(api: Api) -> None:
    nowhere = Database("postgresql:///none?host=/nonexistent", role="orch_api", size=1, application_name="t")
    app = create_app(replace(api.parts, db=nowhere, queue_counts=QueueCounts(), metrics=WebMetrics()))
    response = Api(app=app, parts=api.parts, signer=api.signer, tenant="acme", token=api.token).get(
        "/admin/health"
    )
    assert response.status_code == 503
    assert response.get_json()["checks"]["postgres"] == "down"
    assert "queues" not in response.get_json()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """A server that takes connections and never says a word, as one does that is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        yield f"{host}:{port}"


def test_servers_that_hang_are_down_within_seconds(api: Api, silent_address: str) -> None:
    hanging = Database(
        f"postgresql://{silent_address}/none",
        role="orch_api",
        size=1,
        application_name="test",
        answer_seconds=PROBE_SECONDS,
    )
    app = create_app(
        replace(
            api.parts,
            count_workers=partial(live_workers, hanging),
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
    claim = verbs.claim(
        api.parts.db_of_all, TenantId("acme"), RunId(UUID(run_id)), 0, worker_id=WorkerId("w"), lease_ms=9_000
    )
    assert claim is not None
    (own,) = api.get("/admin/health").get_json()["queues"]
    assert (own["depth"], own["running"]) == (3, 1)
    assert 0 < own["oldestAgeSeconds"] < 60
