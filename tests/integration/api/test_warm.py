"""What an operator asks to have loaded is loaded, in the API and by every worker, and the answer says so."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from orchestrator_api.resources import warm as resource
from shared.domain import expressions
from shared.domain.models import TenantId, WorkerId
from shared.services import health, warm, workers
from shared.store.db import Database
from tests.integration.api.conftest import Api
from tests.integration.worker.fleet import Fleet, new_fleet
from tests.support.eventually import eventually
from tests.support.tokens import Signer
from tests.support.web import serving

DAG = {
    "dagId": "greeting",
    "version": "1.0.0",
    "steps": [{"id": "hello", "uses": "noop", "when": "inputs.warmth == 'high'", "with": {}}],
}


@pytest.fixture
def fleet(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Fleet]:
    folder = tmp_path / "fleet"
    folder.mkdir()
    with new_fleet(folder, database_url=database_url, redis_url=redis_url) as made:
        yield made


def audited(api: Api) -> list[str]:
    items = api.get("/admin/audit").get_json()["items"]
    return [item["outcome"] for item in items if item["action"] == "cache.warm"]


def test_the_api_and_every_worker_confirm(
    tmp_path: Path, signer: Signer, database_url: str, redis_url: str, fleet: Fleet
) -> None:
    for _ in range(2):
        fleet.worker()
    with serving(tmp_path, signer, database_url, redis_url) as web, web.client() as client:
        key = {"Idempotency-Key": "k"}
        published = client.post("/dags", json=DAG, headers=key).json()
        eventually(lambda: health.live_workers(fleet.db) == 2)
        body = {"dags": [{"dagId": "greeting"}], "plugins": ["noop", "sleep"]}
        response = client.post("/admin/warm", json=body, timeout=10)
        assert response.status_code == 202
        answer = response.json()
        everything = client.post("/admin/warm", timeout=10).json()
        infos = client.get("/plugins").json()["items"]
    dags = [{"dagId": "greeting", "version": "1.0.0", "specHash": published["specHash"]}]
    digests = {info["name"]: info["digest"] for info in infos}
    assert answer["dags"] == dags
    assert {p["name"]: p["digest"] for p in answer["plugins"]} == {n: digests[n] for n in ("noop", "sleep")}
    assert answer["api"]["status"] == "confirmed"
    assert len(answer["workers"]) == 2
    for worker in answer["workers"]:
        assert (worker["status"], worker["dags"]) == ("confirmed", dags)
        assert (worker["plugins"], worker["differingPlugins"]) == (answer["plugins"], [])
    for process in fleet.processes:
        assert process.events("warmed")
    assert everything["dags"] == []
    assert {p["name"] for p in everything["plugins"]} == set(digests)


def test_a_worker_that_has_another_plugin_is_told_apart(api: Api, fleet: Fleet) -> None:
    """The API of this test has a noop of its own."""
    fleet.worker()
    eventually(lambda: health.live_workers(api.parts.db))
    (worker,) = api.post("/admin/warm").get_json()["workers"]
    assert worker["status"] == "confirmed"
    assert worker["differingPlugins"] == ["noop"]


def test_a_worker_that_does_not_answer_is_pending_and_not_waited_for_long(api: Api, fleet: Fleet) -> None:
    worker_process = fleet.worker()
    eventually(lambda: health.live_workers(api.parts.db))
    worker_process.send(signal.SIGSTOP)
    begun = time.monotonic()
    response = api.post("/admin/warm", {"plugins": ["noop"]})
    assert time.monotonic() - begun < resource.WAIT_SECONDS + 3
    assert response.status_code == 202
    (worker,) = response.get_json()["workers"]
    assert (worker["status"], worker["plugins"], worker["differingPlugins"]) == ("pending", [], [])


def test_expressions_are_compiled_before_their_first_use(api: Api) -> None:
    assert api.post("/dags", DAG).status_code == 201
    expressions._compiled.cache_clear()
    assert api.post("/admin/warm", {"dags": [{"dagId": "greeting", "version": "1.0.0"}]}).status_code == 202
    misses = expressions._compiled.cache_info().misses
    assert misses == 1
    expressions.evaluate_when("inputs.warmth == 'high'", inputs={"warmth": "high"}, ancestors={})
    assert expressions._compiled.cache_info().misses == misses


def test_it_is_in_the_audit_trail_and_needs_no_idempotency_key(api: Api) -> None:
    response = api.call("POST", "/admin/warm", json={"plugins": ["noop"]}, headers={"Idempotency-Key": ""})
    assert response.status_code == 202
    assert audited(api) == ["accepted"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"dags": [{"dagId": "nowhere"}]}, 404, "DAG_NOT_FOUND", None),
        ({"dags": [{"dagId": "greeting", "version": "9.9.9"}]}, 404, "DAG_NOT_FOUND", None),
        ({"plugins": ["noop", "noop", "nope"]}, 422, "UNKNOWN_PLUGIN", "plugins[2]"),
        ({"plugins": "noop"}, 422, "VALIDATION_FAILED", "plugins"),
        ({"plugins": [1]}, 422, "VALIDATION_FAILED", "plugins[0]"),
        ({"plugins": ["noop"] * 101}, 422, "VALIDATION_FAILED", "plugins"),
        ({"dags": [{"version": "1.0.0"}]}, 422, "VALIDATION_FAILED", "dags[0].dagId"),
        ({"dags": [{"dagId": "greeting"}] * 21}, 422, "VALIDATION_FAILED", "dags"),
        ({"dags": {}}, 422, "VALIDATION_FAILED", "dags"),
        ({"everything": True}, 422, "VALIDATION_FAILED", "everything"),
        ([], 422, "VALIDATION_FAILED", ""),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_nobody_asked(
    api: Api, body: object, status: int, code: str, field: str | None
) -> None:
    api.post("/dags", DAG)
    response = api.post("/admin/warm", body)
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    if field is not None:
        assert [detail["field"] for detail in error["details"]] == [field]
    assert warm.unanswered(api.parts.db_of_all, WorkerId("w1")) == []


def test_another_tenants_dag_is_not_there(api: Api) -> None:
    api.post("/dags", DAG)
    response = api.as_("globex").post("/admin/warm", {"dags": [{"dagId": "greeting", "version": "1.0.0"}]})
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "DAG_NOT_FOUND")


def test_old_requests_go_with_their_answers(api: Api, service_db: Database, owner_url: str) -> None:
    workers.register(service_db, WorkerId("w1"), pools=("default",), slots=1)
    api.post("/admin/warm", {"plugins": ["noop"]})
    (asked,) = warm.unanswered(service_db, WorkerId("w1"))
    loaded = warm.load(service_db, TenantId("acme"), api.parts.catalog, (), asked.plugins)
    for _ in range(2):
        warm.answer(service_db, asked, WorkerId("w1"), loaded)
    assert warm.reports(api.parts.db, TenantId("acme"), asked.warm_id) == {WorkerId("w1"): loaded}
    warm.forget_old(service_db)
    assert warm.reports(api.parts.db, TenantId("acme"), asked.warm_id) == {WorkerId("w1"): loaded}
    age(owner_url)
    assert warm.unanswered(service_db, WorkerId("w2")) == []
    warm.forget_old(service_db)
    assert warm.reports(api.parts.db, TenantId("acme"), asked.warm_id) == {WorkerId("w1"): None}
    # The request went while a worker was at it.
    warm.answer(service_db, asked, WorkerId("w1"), loaded)
    assert warm.reports(api.parts.db, TenantId("acme"), asked.warm_id) == {WorkerId("w1"): None}


def age(owner_url: str) -> None:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("UPDATE orch.warm_requests SET requested_utc = requested_utc - INTERVAL '11 minutes'")
    connection.close()
