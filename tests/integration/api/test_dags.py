from __future__ import annotations

import pytest

from tests.integration.api.conftest import Api

DAG: dict[str, object] = {
    "dagId": "refresh",
    "version": "1.4.0",
    "steps": [
        {"id": "fetch", "uses": "noop", "with": {"note": "${{ inputs.feed }}"}},
        {"id": "check", "uses": "noop@1.0.0", "when": "steps.fetch.status == 'succeeded'"},
    ],
    "edges": [{"from": "fetch", "to": "check"}],
    "metadata": {"owner": "policy"},
}


def dag(**changes: object) -> dict[str, object]:
    return {**DAG, **changes}


def test_a_definition_is_published_once(api: Api) -> None:
    first = api.post("/dags", DAG)
    assert first.status_code == 201
    assert first.headers["Location"] == "/api/v1/orchestrator/dags/refresh/1.4.0"
    assert first.get_json()["specHash"]
    again = api.post("/dags", dag(steps=list(reversed(DAG["steps"]))))  # type: ignore[call-overload]
    assert again.status_code == 200
    assert again.get_json() == first.get_json()
    other = api.post("/dags", dag(metadata={}))
    assert (other.status_code, other.get_json()["error"]["code"]) == (409, "DAG_VERSION_CONFLICT")


def test_a_published_version_is_given_back_with_an_etag(api: Api) -> None:
    published = api.post("/dags", dag(version="1.4.0-rc.1+build.7"))
    response = api.get(published.headers["Location"].removeprefix("/api/v1/orchestrator"))
    body = response.get_json()
    assert response.status_code == 200
    assert [step["id"] for step in body["steps"]] == ["fetch", "check"]
    assert body["edges"] == DAG["edges"]
    assert (body["version"], body["active"], body["createdBy"]) == ("1.4.0-rc.1+build.7", True, "ci")
    assert body["createdUtc"].endswith("Z")
    assert body["disabledUtc"] is None
    same = api.get("/dags/refresh/1.4.0-rc.1+build.7", headers={"If-None-Match": response.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    assert same.headers["X-Trace-Id"]


def test_disabling_changes_the_etag_and_stops_new_runs(api: Api) -> None:
    api.post("/dags", DAG)
    before = api.get("/dags/refresh/1.4.0").headers["ETag"]
    for _ in range(2):
        disabled = api.post("/dags/refresh/1.4.0:disable")
        assert (disabled.status_code, disabled.get_json()["active"]) == (200, False)
    assert api.get("/dags/refresh/1.4.0", headers={"If-None-Match": before}).status_code == 200
    refused = api.post("/runs", {"dagId": "refresh", "version": "1.4.0"})
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (409, "DAG_DISABLED")
    enabled = api.post("/dags/refresh/1.4.0:enable")
    assert (enabled.get_json()["active"], enabled.get_json()["disabledUtc"]) == (True, None)
    assert api.post("/runs", {"dagId": "refresh"}).status_code == 201


def test_lists_go_by_id_and_then_by_falling_version(api: Api) -> None:
    for dag_id in ("b", "a"):
        for version in ("1.9.0", "1.10.0", "1.10.0-rc.1"):
            assert api.post("/dags", dag(dagId=dag_id, version=version)).status_code == 201
    api.post("/dags/a/1.9.0:disable")
    seen: list[str] = []
    token = ""
    while True:
        body = api.get(f"/dags?page_size=2{token}").get_json()
        seen += [f"{item['dagId']} {item['version']}" for item in body["items"]]
        assert all("steps" not in item and "edges" not in item for item in body["items"])
        if "next_page_token" not in body:
            break
        token = f"&page_token={body['next_page_token']}"
    assert seen == [
        f"{dag_id} {version}" for dag_id in ("a", "b") for version in ("1.10.0", "1.10.0-rc.1", "1.9.0")
    ]
    active = api.get("/dags?dagId=a&active=true").get_json()["items"]
    assert [item["version"] for item in active] == ["1.10.0", "1.10.0-rc.1"]


def test_a_page_token_serves_its_own_query_only(api: Api) -> None:
    for version in ("1.0.0", "2.0.0"):
        api.post("/dags", dag(version=version))
        api.as_("globex").post("/dags", dag(version=version))
    token = api.get("/dags?page_size=1").get_json()["next_page_token"]
    assert api.get(f"/dags?page_size=9&page_token={token}").status_code == 200
    for caller, path in (
        (api, f"/dags?active=true&page_token={token}"),
        (api, f"/runs?page_token={token}"),
        (api.as_("globex"), f"/dags?page_token={token}"),
        (api, f"/dags?page_token={token[:-1]}"),
    ):
        refused = caller.get(path)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "INVALID_PAGE_TOKEN")


def test_what_another_tenant_owns_does_not_exist(api: Api) -> None:
    api.post("/dags", DAG)
    stranger = api.as_("globex")
    for method, path in (
        ("GET", "/dags/refresh/1.4.0"),
        ("POST", "/dags/refresh/1.4.0:disable"),
        ("POST", "/dags/refresh/1.4.0:enable"),
    ):
        foreign, unused = (
            stranger.call(method, path).get_json()["error"],
            stranger.call(method, path.replace("refresh", "refrash")).get_json()["error"],
        )
        assert foreign["code"] == unused["code"] == "DAG_NOT_FOUND"
        assert foreign["message"] == unused["message"].replace("refrash", "refresh")
    assert stranger.get("/dags").get_json() == {"items": []}
    assert stranger.post("/dags", dag(metadata={})).status_code == 201


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"dagId": "Upper"}, "VALIDATION_FAILED", "dagId"),
        ({"version": "1.0"}, "VALIDATION_FAILED", "version"),
        ({"owner": "me"}, "VALIDATION_FAILED", "owner"),
        ({"specHash": "0" * 64}, "VALIDATION_FAILED", "specHash"),
        ({"steps": "all"}, "VALIDATION_FAILED", "steps"),
        ({"steps": []}, "VALIDATION_FAILED", "steps"),
        ({"steps": [{"id": "a", "uses": "noop", "retries": 1}]}, "VALIDATION_FAILED", "steps[0].retries"),
        ({"steps": [{"id": "a"}], "edges": []}, "VALIDATION_FAILED", "steps[0].uses"),
        (
            {"steps": [{"id": "a", "uses": "noop", "retry": {"maxAttempts": "3"}}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].retry.maxAttempts",
        ),
        (
            {"steps": [{"id": "a", "uses": "noop", "disabled": "yes"}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].disabled",
        ),
        (
            {"steps": [{"id": "a", "uses": "noop", "timeoutMs": 1.5}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].timeoutMs",
        ),
        (
            {"steps": [{"id": "a", "uses": "noop", "runOn": "never"}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].runOn",
        ),
        (
            {"steps": [{"id": "a", "uses": "noop", "with": {"count": "many"}}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].with.count",
        ),
        ({"steps": [{"id": "a", "uses": "nope"}], "edges": []}, "UNKNOWN_PLUGIN", "steps[0].uses"),
        (
            {"steps": [{"id": "a", "uses": "noop", "pool": "tpu"}], "edges": []},
            "VALIDATION_FAILED",
            "steps[0].pool",
        ),
        ({"edges": [{"from": "fetch"}]}, "VALIDATION_FAILED", "edges[0].to"),
        ({"edges": [{"from": "fetch", "to": "none"}]}, "VALIDATION_FAILED", "edges[0].to"),
        ({"edges": ["fetch"]}, "VALIDATION_FAILED", "edges[0]"),
        (
            {"edges": [{"from": "fetch", "to": "check"}, {"from": "check", "to": "fetch"}]},
            "DAG_CYCLE",
            "edges",
        ),
        ({"signature": {"payload": ""}}, "VALIDATION_FAILED", "signature.payloadType"),
    ],
)
def test_a_wrong_definition_is_refused_by_place(
    api: Api, changes: dict[str, object], code: str, field: str
) -> None:
    refused = api.post("/dags", dag(**changes))
    error = refused.get_json()["error"]
    assert (refused.status_code, error["code"]) == (422, code)
    fields = [detail["field"] for detail in error["details"]]
    assert field in fields
    assert fields == sorted(fields)
    assert api.get("/dags").get_json() == {"items": []}


def test_all_that_is_wrong_is_told_at_once(api: Api) -> None:
    steps = [
        {"id": "a", "uses": "noop", "with": {"count": "many"}, "timeoutMs": "1"},
        {"id": 2, "uses": "nope", "when": "1 +"},
    ]
    edges = [{"from": "a", "to": "b"}, {"from": "a"}]
    error = api.post("/dags", dag(version="1", steps=steps, edges=edges, colour=1)).get_json()["error"]
    assert error["code"] == "VALIDATION_FAILED"
    assert [detail["field"] for detail in error["details"]] == [
        "colour",
        "edges[1].to",
        "steps[0].timeoutMs",
        "steps[0].with.count",
        "steps[1].id",
        "steps[1].uses",
        "steps[1].when",
        "version",
    ]


def test_names_of_megabytes_make_no_large_answer(api: Api) -> None:
    for body in (dag(**{"\U0001f600" * 500_000: 1}), {str(n).rjust(300, "x"): n for n in range(100)}):
        refused = api.post("/dags", body)
        assert refused.status_code == 422
        assert refused.get_json()["error"]["details"]
        assert len(refused.data) < 16_384


def test_a_flood_of_steps_or_mistakes_is_refused_briefly(api: Api) -> None:
    step = {"id": "a", "uses": "noop"}
    too_many = api.post("/dags", dag(steps=[step] * 10_001))
    assert [detail["field"] for detail in too_many.get_json()["error"]["details"]] == ["steps"]
    edges = api.post("/dags", dag(edges=[{"from": "a", "to": "b"}] * 50_001))
    assert [detail["field"] for detail in edges.get_json()["error"]["details"]] == ["edges"]
    wrong = api.post("/dags", dag(steps=[{"id": 1, "x": 2}] * 10_000))
    assert wrong.status_code == 422
    assert len(wrong.get_json()["error"]["details"]) == 100
    assert len(wrong.data) < 20_000


def test_a_signature_is_kept_beside_the_definition(api: Api) -> None:
    signature = {
        "payloadType": "application/vnd.orchestrator.dag+json",
        "payload": "e30=",
        "signatures": [{"keyid": "k1", "sig": "AA=="}],
    }
    unsigned = api.post("/dags", DAG).get_json()["specHash"]
    signed = api.post("/dags", dag(version="2.0.0", signature=signature))
    assert signed.status_code == 201
    assert signed.get_json()["specHash"] != unsigned
    assert api.get("/dags/refresh/2.0.0").get_json()["signature"] == signature
    assert "signature" not in api.get("/dags/refresh/1.4.0").get_json()
