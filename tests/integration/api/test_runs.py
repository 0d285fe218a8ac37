from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID

import psycopg2
import pytest
import redis

from shared.domain.models import Failed, Sha256, Succeeded
from shared.domain.states import ErrorCode
from tests.integration.api.conftest import Api, finish_step
from tests.support.eventually import eventually

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HASH = Sha256("ab" * 32)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def published(api: Api) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    body = {
        "dagId": "pair",
        "version": "1.0.0",
        "steps": [{"id": "b", "uses": "noop"}, {"id": "a", "uses": "noop"}],
        "edges": [{"from": "a", "to": "b"}],
        "metadata": {"inputsSchema": schema},
    }
    for caller in (api, api.as_("globex")):
        assert caller.post("/dags", body).status_code == 201


def start(api: Api, **body: object) -> str:
    response = api.post("/runs", {"dagId": "pair", **body})
    assert response.status_code == 201, response.data
    run_id = response.get_json()["runId"]
    assert isinstance(run_id, str)
    return run_id


def test_a_started_run_tells_its_trace_and_where_it_is(api: Api) -> None:
    response = api.post(
        "/runs",
        {"dagId": "pair", "inputs": {"n": 1}},
        headers={"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"},
    )
    body = response.get_json()
    assert response.status_code == 201
    assert set(body) == {
        "runId",
        "traceId",
        "dagId",
        "dagVersion",
        "status",
        "inputsHash",
        "startedUtc",
    }
    assert response.headers["Location"] == f"/api/v1/orchestrator/runs/{body['runId']}"
    assert UUID(body["runId"]).version == 7
    assert body["traceId"] == response.headers["X-Trace-Id"] == TRACE_ID
    assert (body["dagVersion"], body["status"]) == ("1.0.0", "running")
    assert TIME.fullmatch(body["startedUtc"])


def test_a_run_is_given_with_its_steps_in_topological_order(api: Api) -> None:
    run_id = start(api)
    body = api.get(f"/runs/{run_id}").get_json()
    assert [(step["stepId"], step["status"]) for step in body["steps"]] == [("a", "queued"), ("b", "pending")]
    assert (body["runId"], body["stepCount"], body["createdBy"]) == (run_id, 2, "ci")
    assert body["endedUtc"] is None
    listed = api.get(f"/runs/{run_id}/steps?page_size=1").get_json()
    assert [step["stepId"] for step in listed["items"]] == ["a"]
    rest = api.get(f"/runs/{run_id}/steps?page_size=1&page_token={listed['next_page_token']}").get_json()
    assert [step["stepId"] for step in rest["items"]] == ["b"]
    assert "next_page_token" not in rest


@pytest.mark.parametrize("milliseconds", [0, 7, 120])
@pytest.mark.parametrize(
    "message", ["", '"\\/\b\t\n\f\r\x01\x1f\x7f', "\x80\x85\u2028\ufeff\U0001f9ed é"], ids=repr
)
def test_the_steps_of_a_run_are_those_of_the_list_to_the_byte(
    api: Api, owner_url: str, message: str, milliseconds: int
) -> None:
    run_id = start(api)
    failed = Failed(error_code=ErrorCode.PLUGIN_ERROR, error_message=message, retry_delay_ms=1)
    finish_step(api, run_id, 0, failed)
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        for column in ("due_utc", "queued_utc", "started_utc"):
            moment = datetime(2026, 1, 31, 23, 59, 59, milliseconds * 1_000, UTC)
            cur.execute(f"UPDATE orch.steps SET {column} = %s WHERE run_id = %s", (moment, run_id))
    whole = api.get(f"/runs/{run_id}")
    lines = api.get(f"/runs/{run_id}/steps", headers={"Accept": "application/x-ndjson"}).data.split(b"\n")
    assert whole.data.endswith(b',"steps":[' + b",".join(lines[:-1]) + b"]}")
    assert whole.get_json()["steps"][0]["errorMessage"] == message


def test_a_step_is_given_with_its_attempts(api: Api) -> None:
    run_id = start(api)
    finish_step(api, run_id, 0, Succeeded(outputs={"n": 1}, outputs_hash=HASH, inputs_hash=HASH))
    body = api.get(f"/runs/{run_id}/steps/a").get_json()
    assert (body["status"], body["outputs"], body["outputsHash"]) == ("succeeded", {"n": 1}, HASH)
    (attempt,) = body["attempts"]
    assert set(attempt) == {
        "attempt",
        "status",
        "workerId",
        "startedUtc",
        "endedUtc",
        "durationMs",
        "errorCode",
        "errorMessage",
        "logsRef",
        "outputsHash",
    }
    assert (attempt["attempt"], attempt["status"], attempt["workerId"]) == (1, "succeeded", "w1")
    assert attempt["durationMs"] >= 0
    missing = api.get(f"/runs/{run_id}/steps/c")
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "STEP_NOT_FOUND")


def test_a_run_token_starts_one_run_however_many_arrive(api: Api) -> None:
    body = {"dagId": "pair", "inputs": {"n": 1}, "runToken": "t"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/runs", body), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.get_json()["runId"] for answer in answers}) == 1
    other = api.post("/runs", {**body, "inputs": {"n": 2}})
    assert (other.status_code, other.get_json()["error"]["code"]) == (409, "RUN_TOKEN_CONFLICT")
    assert api.as_("globex").post("/runs", body).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "inputs": []}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "inputs": None}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "tenant": "globex"}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "runToken": ""}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "runToken": "x" * 256}, 422, "VALIDATION_FAILED"),
        ({"dagId": "pair", "inputs": {"n": "many"}}, 422, "INPUTS_INVALID"),
        ({"dagId": "pair", "inputs": {"n": 1, "text": "x" * 1_048_576}}, 413, "INPUTS_TOO_LARGE"),
        ({"dagId": "none"}, 404, "DAG_NOT_FOUND"),
        ({"dagId": "pair", "version": "9.9.9"}, 404, "DAG_NOT_FOUND"),
    ],
)
def test_a_start_that_cannot_be_is_refused(api: Api, body: dict[str, object], status: int, code: str) -> None:
    refused = api.post("/runs", body)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (status, code)
    assert api.get("/runs").get_json() == {"items": []}


def test_runs_are_listed_from_the_newest_and_filtered(api: Api) -> None:
    runs = [start(api) for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = api.get(f"/runs?page_size=2&dagId=pair&status=running{token}").get_json()
        seen += [run["runId"] for run in page["items"]]
        start(api)
        if "next_page_token" not in page:
            break
        token = f"&page_token={page['next_page_token']}"
    assert seen == runs[::-1]
    oldest = api.get(f"/runs/{runs[0]}").get_json()["startedUtc"]
    assert runs[0] not in [run["runId"] for run in api.get(f"/runs?to={oldest}").get_json()["items"]]
    assert len(api.get(f"/runs?from={oldest}").get_json()["items"]) == 8
    assert api.get("/runs?dagId=other").get_json() == {"items": []}
    assert api.get("/runs?status=failed").get_json() == {"items": []}


def test_cancelling_is_idempotent(api: Api) -> None:
    run_id = start(api)
    first = api.post(f"/runs/{run_id}:cancel", {"reason": "wrong inputs"})
    assert first.status_code == 202
    body = first.get_json()
    assert (body["status"], body["cancelReason"]) == ("cancelled", "wrong inputs")
    assert TIME.fullmatch(body["cancelRequestedUtc"])
    again = api.post(f"/runs/{run_id}:cancel", {"reason": "another"})
    assert again.status_code in (200, 202)
    assert again.get_json() == body
    assert {step["status"] for step in api.get(f"/runs/{run_id}").get_json()["steps"]} == {"cancelled"}


def test_what_another_tenant_owns_does_not_exist(api: Api) -> None:
    run_id = start(api)
    stranger = api.as_("globex")
    unused = "01939b3e-7b1c-7cc0-8a3e-000000000000"
    for method, path in (
        ("GET", "/runs/{}"),
        ("GET", "/runs/{}/steps"),
        ("GET", "/runs/{}/steps/a"),
        ("POST", "/runs/{}:cancel"),
    ):
        foreign = stranger.call(method, path.format(run_id))
        nobodys = stranger.call(method, path.format(unused))
        assert foreign.status_code == nobodys.status_code == 404
        foreign_error, nobodys_error = foreign.get_json()["error"], nobodys.get_json()["error"]
        assert foreign_error["code"] == nobodys_error["code"] == "RUN_NOT_FOUND"
        assert foreign_error["message"].replace(run_id, unused) == nobodys_error["message"]
    assert stranger.get("/runs").get_json() == {"items": []}


class TestWithoutRedis:
    @pytest.fixture
    def redis_address(self) -> str:
        return "redis://127.0.0.1:1/0"

    def test_a_run_is_started_all_the_same(self, api: Api) -> None:
        run_id = start(api)
        assert api.get(f"/runs/{run_id}").get_json()["status"] == "running"
        eventually(lambda: api.parts.dispatcher.failed.count > 0)


def test_a_start_rings_the_doorbell_of_its_ready_step(api: Api, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        start(api)
        eventually(lambda: client.llen("orchestrator:steps.default") == 1)


@pytest.mark.parametrize(
    ("change", "refused", "fields"),
    [
        ({"inputs": {"n": "x"}}, (422, "INPUTS_INVALID"), ["inputs.n"]),
        ({"inputs": {"n": "x"}, "runToken": 1}, (422, "VALIDATION_FAILED"), ["inputs.n", "runToken"]),
        ({"inputs": {"n": "x"}, "colour": 1}, (422, "VALIDATION_FAILED"), ["colour", "inputs.n"]),
        ({"inputs": {"n": "x"}, "version": 1}, (422, "VALIDATION_FAILED"), ["version"]),
        ({"inputs": [], "runToken": ""}, (422, "VALIDATION_FAILED"), ["inputs", "runToken"]),
        ({"dagId": "unknown", "colour": 1}, (422, "VALIDATION_FAILED"), ["colour"]),
        ({"dagId": "unknown", "inputs": {"n": "x"}}, (404, "DAG_NOT_FOUND"), []),
        ({"dagId": "unknown", "colour": 1, "inputs": {"n": "x" * 1_048_576}}, (413, "INPUTS_TOO_LARGE"), []),
    ],
)
def test_a_start_is_told_all_that_is_wrong_with_it(
    api: Api, change: dict[str, object], refused: tuple[int, str], fields: list[str]
) -> None:
    response = api.post("/runs", {"dagId": "pair", **change})
    error = response.get_json()["error"]
    assert (response.status_code, error["code"]) == refused
    assert [detail["field"] for detail in error.get("details", [])] == fields
    assert api.get("/runs").get_json() == {"items": []}
