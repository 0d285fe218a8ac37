from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg2
import pytest
from werkzeug.test import TestResponse

from shared.domain.models import Sha256, TenantId
from shared.services.calls import CallKey, once
from tests.integration.api.conftest import PREFIX, Api

DAG = {"dagId": "one", "version": "1.0.0", "steps": [{"id": "a", "uses": "noop"}]}


@pytest.fixture(autouse=True)
def published(api: Api) -> None:
    for caller in (api, api.as_("globex")):
        assert caller.post("/dags", DAG).status_code == 201


def call(api: Api, path: str, key: str, body: object = None, **options: object) -> TestResponse:
    return api.post(path, body, headers={"Idempotency-Key": key}, **options)


def code(response: TestResponse) -> tuple[int, str]:
    return response.status_code, response.get_json()["error"]["code"]


def run_count(api: Api) -> int:
    return len(api.get("/runs?page_size=500").get_json()["items"])


def routes_that_change(api: Api) -> list[tuple[str, object]]:
    run_id = api.post("/runs", {"dagId": "one"}).get_json()["runId"]
    return [
        ("/dags", {**DAG, "version": "2.0.0"}),
        ("/dags/one/1.0.0:disable", {}),
        ("/dags/one/1.0.0:enable", {}),
        ("/runs", {"dagId": "one", "inputs": {"n": 1.5, "é": "ü"}}),
        (f"/runs/{run_id}:cancel", {"reason": "no more"}),
    ]


def test_the_same_call_again_gets_the_first_answer_byte_for_byte(api: Api) -> None:
    for path, body in routes_that_change(api):
        key = str(uuid4())
        first, again = call(api, path, key, body), call(api, path, key, body)
        assert first.status_code < 300, first.data
        assert (again.status_code, again.data) == (first.status_code, first.data)
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        for header in ("Content-Type", "Location", "ETag"):
            assert again.headers.get(header) == first.headers.get(header)
    assert run_count(api) == 2


def test_a_refusal_is_kept_and_replayed_too(api: Api) -> None:
    key = str(uuid4())
    first = call(api, "/runs", key, {"dagId": "two"})
    assert code(first) == (404, "DAG_NOT_FOUND")
    api.post("/dags", {**DAG, "dagId": "two"})
    again = call(api, "/runs", key, {"dagId": "two"})
    assert (again.status_code, again.data) == (404, first.data)
    assert again.headers["Idempotency-Replayed"] == "true"


def test_another_body_under_the_same_key_is_refused_and_changes_nothing(api: Api) -> None:
    assert call(api, "/runs", "k", {"dagId": "one", "inputs": {"a": 1, "b": 2}}).status_code == 201
    assert code(call(api, "/runs", "k", {"dagId": "one"})) == (422, "IDEMPOTENCY_KEY_REUSED")
    spaced = b'{"inputs": {"b": 2, "a": 1},\n "dagId": "one"}'
    same = api.call(
        "POST",
        "/runs",
        headers={"Idempotency-Key": "k", "Content-Type": "application/json"},
        data=spaced,
    )
    assert same.headers["Idempotency-Replayed"] == "true"
    assert run_count(api) == 1


def test_a_key_belongs_to_its_tenant_its_method_and_its_path(api: Api) -> None:
    body = {"dagId": "one"}
    first = call(api, "/runs", "k", body).get_json()["runId"]
    other = call(api.as_("globex"), "/runs", "k", body)
    assert other.status_code == 201
    assert other.get_json()["runId"] != first
    assert call(api, f"/runs/{first}:cancel", "k", {}).status_code == 202


@pytest.mark.parametrize("key", ["", None])
def test_a_call_that_changes_something_needs_a_key(api: Api, key: str | None) -> None:
    for path, body in routes_that_change(api):
        headers = [] if key is None else [("Idempotency-Key", key)]
        response = api.app.test_client().post(
            PREFIX + path,
            json=body,
            headers=[*headers, ("Authorization", f"Bearer {api.token}"), ("X-Stella-Tenant", "acme")],
        )
        assert code(response) == (400, "IDEMPOTENCY_KEY_REQUIRED")
    assert run_count(api) == 1


@pytest.mark.parametrize("key", ["a b", "x" * 256, "schlüssel", "a\tb"])
def test_a_key_is_visible_ascii(api: Api, key: str) -> None:
    response = call(api, "/runs", key, {"dagId": "one"})
    assert code(response) == (400, "INVALID_ARGUMENT")
    assert response.get_json()["error"]["details"][0]["field"] == "Idempotency-Key"
    assert call(api, "/runs", "x" * 255, {"dagId": "one"}).status_code == 201


def test_a_day_later_a_key_is_new(api: Api, owner_url: str) -> None:
    first = call(api, "/runs", "k", {"dagId": "one"})
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("UPDATE orch.idempotency_keys SET created_utc = created_utc - INTERVAL '24 hours'")
    second = call(api, "/runs", "k", {"dagId": "one", "inputs": {"n": 2}})
    assert second.status_code == 201
    assert second.get_json()["runId"] != first.get_json()["runId"]
    again = call(api, "/runs", "k", {"dagId": "one", "inputs": {"n": 2}})
    assert again.data == second.data


def test_while_the_first_call_is_served_the_second_is_told_to_wait(api: Api) -> None:
    key = CallKey(key="k", method="POST", path=f"{PREFIX}/runs")
    with once(api.parts.db, TenantId("acme"), key, Sha256("00" * 32)):
        response = call(api, "/runs", "k", {"dagId": "one"})
        assert code(response) == (409, "IDEMPOTENCY_IN_PROGRESS")
        assert int(response.headers["Retry-After"]) >= 1
        assert call(api, "/runs", "other", {"dagId": "one"}).status_code == 201
    assert call(api, "/runs", "k", {"dagId": "one"}).status_code == 201


def test_fifty_calls_at_once_with_one_key_make_one_run(api: Api) -> None:
    barrier = threading.Barrier(50)

    def start(_: int) -> TestResponse:
        barrier.wait()
        while True:
            response = call(api, "/runs", "k", {"dagId": "one"})
            if response.status_code not in (409, 503):
                return response

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(start, range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.data for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert run_count(api) == 1


def test_what_fails_is_not_kept(api: Api, owner_url: str) -> None:
    """PostgreSQL gives up in the middle of the call: nothing of it is left, and the key is free."""
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "CREATE FUNCTION orch.give_up() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'gone' USING ERRCODE = '57P01'; END $$;"
            "CREATE TRIGGER give_up BEFORE INSERT ON orch.audit FOR EACH ROW EXECUTE FUNCTION orch.give_up()"
        )
    response = call(api, "/runs", "k", {"dagId": "one"})
    assert code(response) == (503, "UNAVAILABLE")
    assert int(response.headers["Retry-After"]) >= 1
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("DROP TRIGGER give_up ON orch.audit")
        cur.execute("SELECT (SELECT count(*) FROM orch.runs), (SELECT count(*) FROM orch.idempotency_keys)")
        assert cur.fetchone() == (0, 2)
    assert call(api, "/runs", "k", {"dagId": "one"}).status_code == 201


def test_a_replay_has_the_trace_of_its_own_request(api: Api) -> None:
    first, again = (call(api, "/runs", "k", {"dagId": "one"}) for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", again.headers["X-Trace-Id"])
    assert first.headers["X-Trace-Id"] != again.headers["X-Trace-Id"]
