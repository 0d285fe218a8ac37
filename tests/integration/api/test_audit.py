from __future__ import annotations

from typing import Any

import pytest

from orchestrator_api.routes import ROUTES
from tests.integration.api.conftest import Api

DAG = {"dagId": "one", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}


def trail(api: Api, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"/admin/audit?page_size=500{query}")
    assert response.status_code == 200, response.data
    items: list[dict[str, Any]] = response.get_json()["items"]
    return items


def test_every_change_leaves_a_line(api: Api) -> None:
    api.post("/dags", DAG)
    started = api.post("/runs", {"dagId": "one"})
    run_id = started.get_json()["runId"]
    api.post(f"/runs/{run_id}:cancel", {"reason": "wrong branch"})
    api.post("/dags/one/1.0.0:disable")
    api.post("/dags/one/1.0.0:enable")
    api.as_operator().call("PUT", "/admin/limits", json={"reason": "quiet, please"})
    lines = list(reversed(trail(api)))
    assert [(line["action"], line["object"], line["reason"], line["status"]) for line in lines] == [
        ("dag.publish", "/dags/one/1.0.0", None, 201),
        ("run.start", f"/runs/{run_id}", None, 201),
        ("run.cancel", f"/runs/{run_id}", "wrong branch", 202),
        ("dag.disable", "/dags/one/1.0.0", None, 200),
        ("dag.enable", "/dags/one/1.0.0", None, 200),
        ("limits.set", "/admin/limits", "quiet, please", 200),
    ]
    assert {line["subject"] for line in lines} == {"ci"}
    assert {(line["outcome"], line["code"]) for line in lines} == {("accepted", None)}
    assert lines[1]["traceId"] == started.headers["X-Trace-Id"]
    assert {line["action"] for line in lines} == {route.action for route in ROUTES if route.action}


def test_refused_calls_of_known_callers_leave_a_line_too(api: Api) -> None:
    reader = api.as_("acme", scope="orchestrator:read", sub="reader")
    reader.post("/runs", {"dagId": "one"})
    api.post("/runs", {"dagId": "one"})
    api.post("/runs", {"dagId": 1})
    api.post("/runs", {}, headers={"Idempotency-Key": "a b"})
    api.call("POST", "/runs", data=b"{", headers={"Content-Type": "application/json"})
    api.post("/runs?x=1", {})
    api.post("/runs/no-uuid%00:cancel")
    lines = list(reversed(trail(api)))
    assert [(line["subject"], line["status"], line["code"]) for line in lines] == [
        ("reader", 403, "INSUFFICIENT_SCOPE"),
        ("ci", 404, "DAG_NOT_FOUND"),
        ("ci", 422, "VALIDATION_FAILED"),
        ("ci", 400, "INVALID_ARGUMENT"),
        ("ci", 400, "INVALID_JSON"),
        ("ci", 400, "INVALID_ARGUMENT"),
        ("ci", 400, "INVALID_ARGUMENT"),
    ]
    assert {line["outcome"] for line in lines} == {"refused"}
    assert lines[-1]["object"] == "/runs/no-uuid\ufffd:cancel"


def test_who_reaches_for_another_tenant_is_named_in_the_trail_of_his_own(api: Api) -> None:
    intruder = api.as_("globex", tenant="initech", sub="intruder")
    assert intruder.post("/runs", {"dagId": "one"}).status_code == 403
    assert trail(api.as_("globex")) == []
    (line,) = trail(api.as_("initech"))
    assert (line["subject"], line["code"]) == ("intruder", "TENANT_FORBIDDEN")


def test_strangers_and_readers_leave_none(api: Api) -> None:
    api.anonymous().post("/runs", {})
    api.get("/runs")
    api.get("/dags/none/1.0.0")
    assert trail(api) == []


def test_a_replay_is_told_from_a_change(api: Api) -> None:
    for _ in range(2):
        api.post("/dags", DAG, headers={"Idempotency-Key": "k"})
    assert [line["outcome"] for line in trail(api)] == ["replayed", "accepted"]


def test_the_trail_is_a_list_like_any_other(api: Api) -> None:
    for name in "abcde":
        api.post("/dags", {**DAG, "dagId": name})
    api.post("/dags/a/1.0.0:disable")
    first = api.get("/admin/audit?page_size=4").get_json()
    api.post("/dags/b/1.0.0:disable")
    rest = api.get(f"/admin/audit?page_size=4&page_token={first['next_page_token']}").get_json()
    seen = [line["object"].split("/")[2] for line in first["items"] + rest["items"]]
    assert seen == ["a", "e", "d", "c", "b", "a"]
    assert len(trail(api, "&action=dag.disable")) == 2
    moment = first["items"][1]["atUtc"]
    later, before = trail(api, f"&from={moment}"), trail(api, f"&to={moment}")
    assert len(later) + len(before) == 7
    assert min(line["atUtc"] for line in later) == moment > max(line["atUtc"] for line in before)
    assert api.as_("globex").get("/admin/audit").get_json() == {"items": []}
    assert api.as_("acme", scope="orchestrator:read").get("/admin/audit").status_code == 403


@pytest.mark.parametrize("query", ["action=x", "action=DAG.publish", "from=now", "status=200"])
def test_filters_have_their_forms(api: Api, query: str) -> None:
    assert api.get(f"/admin/audit?{query}").status_code == 400


def test_without_the_ledger_a_refusal_cannot_be_recorded_and_is_a_503(api: Api) -> None:
    reader = api.as_("acme", scope="orchestrator:read")
    api.parts.db._url = "postgresql://nobody@127.0.0.1:1/none"
    api.parts.db.close()
    assert reader.post("/runs", {}).status_code == 503
    assert reader.get("/admin/audit").status_code == 403
