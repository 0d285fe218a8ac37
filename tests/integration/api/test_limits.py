from __future__ import annotations

import pytest

from tests.integration.api.conftest import Api
from tests.support.eventually import eventually

NO_LIMITS = {"weight": 1, "maxRunningSteps": None, "maxQueuedSteps": None}


def put(api: Api, **body: object) -> dict[str, object]:
    response = api.as_operator().call("PUT", "/admin/limits", json={"reason": "a test", **body})
    assert response.status_code == 200, response.data
    answer: dict[str, object] = response.get_json()
    return answer


def publish(api: Api, *names: str) -> None:
    steps = [{"id": name, "uses": "noop"} for name in names]
    body = {"dagId": "wide", "version": "1.0.0", "steps": steps, "edges": []}
    assert api.post("/dags", body).status_code in (200, 201)


def test_a_tenant_sees_the_limits_that_an_operator_has_set_for_it(api: Api) -> None:
    assert api.get("/admin/limits").get_json() == NO_LIMITS
    wanted = {"weight": 2, "maxRunningSteps": 10, "maxQueuedSteps": 1_000}
    assert put(api, **wanted) == wanted
    assert api.get("/admin/limits").get_json() == wanted
    assert api.as_("globex").get("/admin/limits").get_json() == NO_LIMITS
    assert api.as_("acme", scope="orchestrator:write").get("/admin/limits").status_code == 403


def test_what_a_put_leaves_out_gets_its_default_again_and_null_is_no_limit(api: Api) -> None:
    put(api, weight=0.5, maxRunningSteps=0, maxQueuedSteps=0)
    assert put(api, weight=0.5, maxRunningSteps=None) == {**NO_LIMITS, "weight": 0.5}
    assert put(api) == NO_LIMITS


def test_only_an_operator_with_the_admin_scope_sets_limits(api: Api) -> None:
    body = {"maxQueuedSteps": 1, "reason": "mine"}
    for caller in (api, api.as_operator(scope="orchestrator:read orchestrator:write")):
        response = caller.call("PUT", "/admin/limits", json=body)
        assert response.status_code == 403
        assert response.get_json()["error"]["code"] == "INSUFFICIENT_SCOPE"
    assert api.as_operator("*").call("PUT", "/admin/limits", json=body).status_code == 400
    assert api.get("/admin/limits").get_json() == NO_LIMITS


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"weight": 1}, "reason"),
        ({"reason": ""}, "reason"),
        ({"reason": "r", "weight": 0}, "weight"),
        ({"reason": "r", "weight": "2"}, "weight"),
        ({"reason": "r", "weight": True}, "weight"),
        ({"reason": "r", "weight": None}, "weight"),
        ({"reason": "r", "maxRunningSteps": -1}, "maxRunningSteps"),
        ({"reason": "r", "maxRunningSteps": 1.5}, "maxRunningSteps"),
        ({"reason": "r", "maxQueuedSteps": True}, "maxQueuedSteps"),
        ({"reason": "r", "maxQueuedSteps": "5"}, "maxQueuedSteps"),
        ({"reason": "r", "maxQueuedSteps": 10_000_000_000}, "maxQueuedSteps"),
        ({"reason": "r", "maxStepsQueued": 5}, "maxStepsQueued"),
    ],
)
def test_limits_that_make_no_sense_are_refused_and_named(api: Api, body: object, field: str) -> None:
    response = api.as_operator().call("PUT", "/admin/limits", json=body)
    assert response.status_code == 422
    error = response.get_json()["error"]
    assert error["code"] == "VALIDATION_FAILED"
    assert [detail["field"] for detail in error["details"]] == [field]
    assert api.get("/admin/limits").get_json() == NO_LIMITS


def test_setting_limits_is_served_once_under_its_key_and_audited_with_its_reason(api: Api) -> None:
    key = {"Idempotency-Key": "limits-1"}
    body = {"maxQueuedSteps": 5, "reason": "too many"}
    first = api.as_operator().call("PUT", "/admin/limits", json=body, headers=key)
    put(api, maxQueuedSteps=6)
    again = api.as_operator().call("PUT", "/admin/limits", json=body, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.data == first.data
    assert api.get("/admin/limits").get_json()["maxQueuedSteps"] == 6
    assert api.call("PUT", "/admin/limits", json=body, headers={"Idempotency-Key": ""}).status_code == 403
    missing = api.as_operator().call("PUT", "/admin/limits", json=body, headers={"Idempotency-Key": ""})
    assert missing.get_json()["error"]["code"] == "IDEMPOTENCY_KEY_REQUIRED"
    with api.parts.db.statement("acme") as cur:  # type: ignore[arg-type]
        cur.execute("SELECT action, object, reason, outcome, status FROM orch.audit ORDER BY audit_id")
        lines = cur.fetchall()
    assert [line for line in lines if line[4] == 200] == [
        ("limits.set", "/admin/limits", "too many", "accepted", 200),
        ("limits.set", "/admin/limits", "a test", "accepted", 200),
        ("limits.set", "/admin/limits", None, "replayed", 200),
    ]


def test_a_start_over_the_limit_is_429_and_its_key_works_once_there_is_room(api: Api) -> None:
    publish(api, "a", "b")
    put(api, maxQueuedSteps=3)
    assert api.post("/runs", {"dagId": "wide"}).status_code == 201
    key = {"Idempotency-Key": "start-2"}
    refused = api.post("/runs", {"dagId": "wide"}, headers=key)
    assert refused.status_code == 429
    assert refused.get_json()["error"]["code"] == "RATE_LIMITED"
    assert int(refused.headers["Retry-After"]) >= 1
    assert len(api.get("/runs").get_json()["items"]) == 1
    put(api, maxQueuedSteps=4)
    assert api.post("/runs", {"dagId": "wide"}, headers=key).status_code == 201
    assert api.post("/runs", {"dagId": "wide"}, headers=key).headers["Idempotency-Replayed"] == "true"


def test_raising_a_limit_sends_at_once_what_it_held_back(api: Api) -> None:
    publish(api, "a", "b")
    put(api, maxRunningSteps=0)
    api.post("/runs", {"dagId": "wide"})

    def count(rows: str) -> int:
        with api.parts.db_of_all.statement(None) as cur:
            cur.execute(f"SELECT count(*) FROM orch.{rows}")
            return int(cur.fetchall()[0][0])

    eventually(lambda: count("tenant_queues"))  # The start was dispatched.
    assert count("steps WHERE sent_utc IS NOT NULL") == 0
    put(api, maxRunningSteps=1)
    eventually(lambda: count("steps WHERE sent_utc IS NOT NULL") == 1)
