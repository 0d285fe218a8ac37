"""Every list, by pages and as NDJSON: the same items in the same order, to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from werkzeug.test import TestResponse

from orchestrator_api.routes import ROUTES
from shared.domain.models import TenantId
from shared.embedded import postgres
from tests.integration.api.conftest import Api, running
from tests.support.rows import rows
from tests.support.servers import Servers
from tests.support.tokens import Signer

NDJSON = "application/x-ndjson"
RUNS = 700
"""Some pieces of NDJSON, and more than one batch of the cursor."""
PATHS = [
    "/dags",
    "/dags?dagId=b",
    "/dags?active=true",
    "/dags?active=false",
    "/runs",
    "/runs?dagId=b",
    "/runs?status=cancelled",
    "/runs?dagId=b&status=running",
    "/runs?from=2020-01-01T00:00:00Z&to=2026-01-01T00:05:00Z",
    "/runs/{run_id}/steps",
    "/plugins",
    "/admin/audit",
    "/admin/audit?action=run.start",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An API with something in every list of tenant acme, and nothing in those of any other."""

    api: Api
    run_id: str

    def get(self, path: str, accept: str, method: str = "GET") -> TestResponse:
        return self.api.call(method, path.format(run_id=self.run_id), headers={"Accept": accept})

    def items(self, path: str, size: int) -> list[object]:
        """Walk through the pages of a list."""
        items: list[object] = []
        sep, token = "&" if "?" in path else "?", ""
        while True:
            body = self.get(f"{path}{sep}page_size={size}{token}", "application/json").get_json()
            assert len(body["items"]) == size or "next_page_token" not in body
            items += body["items"]
            if "next_page_token" not in body:
                return items
            token = f"&page_token={body['next_page_token']}"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, signer: Signer, servers: Servers) -> Iterator[Listed]:
    with (
        servers.new_database() as name,
        servers.new_redis_url() as redis_url,
        running(tmp_path_factory.mktemp("api"), signer, servers.url(name), redis_url) as api,
        rows(servers.url(name, user=postgres.OWNER)) as written,
    ):
        steps = [{"id": step, "uses": "noop"} for step in "abcdefg"]
        metadata = {"owner": "größe \u2028 \x7f", "weight": 1e16, "tiny": 5e-324}
        for dag_id in ("a", "b", "c"):
            for version in ("1.9.0", "1.10.0"):
                body = {"dagId": dag_id, "version": version, "steps": steps, "metadata": metadata}
                assert api.post("/dags", body).status_code == 201
            assert api.post(f"/dags/{dag_id}/1.9.0:disable").status_code == 200
        run_ids = [api.post("/runs", {"dagId": d}).get_json()["runId"] for d in "abbbcc"]
        for run_id in (run_ids[0], run_ids[1]):
            assert api.post(f"/runs/{run_id}:cancel", {"reason": "because"}).status_code == 202
        written.many_runs("acme", RUNS)
        yield Listed(api=api, run_id=run_ids[2])


def test_every_list_is_in_the_table() -> None:
    lists = {route.path.replace("<part:run_id>", "{run_id}") for route in ROUTES if len(route.types) > 1}
    assert lists == {path.partition("?")[0] for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_a_list_streams_what_its_pages_hold_in_the_same_order(listed: Listed, path: str) -> None:
    streamed = listed.get(path, NDJSON)
    assert streamed.status_code == 200
    assert streamed.headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    assert streamed.data.endswith(b"\n")
    lines = streamed.data.removesuffix(b"\n").split(b"\n")
    size = 2 if len(lines) < 50 else 101
    assert [json.loads(line) for line in lines] == listed.items(path, size)
    assert len(lines) > 1 or path == "/plugins"


@pytest.mark.parametrize("path", PATHS)
def test_an_item_is_the_same_text_in_a_page_and_in_a_line(listed: Listed, path: str) -> None:
    sep = "&" if "?" in path else "?"
    page = listed.get(f"{path}{sep}page_size=500", "application/json").data
    lines = listed.get(path, NDJSON).data.removesuffix(b"\n").split(b"\n")[:500]
    assert page.startswith(b'{"items":[' + b",".join(lines) + b"]")


@pytest.mark.parametrize("path", PATHS)
def test_both_forms_tell_caches_what_they_depend_on(listed: Listed, path: str) -> None:
    for accept in ("application/json", NDJSON):
        response = listed.get(path, accept)
        assert (response.headers["Vary"], response.headers["Cache-Control"]) == ("Accept", "no-store")


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
@pytest.mark.parametrize("path", PATHS)
def test_head_has_the_headers_of_get_and_holds_nothing(listed: Listed, path: str, accept: str) -> None:
    got = listed.get(path, accept)
    # More often than there are connections for streams.
    for _ in range(3):
        head = listed.get(path, accept, method="HEAD")
        assert (head.status_code, head.data) == (200, b"")
        differing = {"X-Trace-Id", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
        assert {n: v for n, v in head.headers.items() if n not in differing} == {
            n: v for n, v in got.headers.items() if n not in differing
        }


@pytest.mark.parametrize("path", PATHS)
def test_what_is_neither_json_nor_ndjson_is_not_to_be_had(listed: Listed, path: str) -> None:
    refused = listed.get(path, "text/csv, application/json;q=0")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (406, "NOT_ACCEPTABLE")


def test_paging_is_checked_and_has_no_effect_on_a_stream(listed: Listed) -> None:
    whole = listed.get("/runs", NDJSON).data
    token = listed.get("/runs?page_size=3", "application/json").get_json()["next_page_token"]
    assert listed.get(f"/runs?page_size=3&page_token={token}", NDJSON).data == whole
    for path, code in (
        ("/runs?page_size=0", "INVALID_ARGUMENT"),
        ("/runs?page_token=abc", "INVALID_PAGE_TOKEN"),
        (f"/runs?page_token={token[:-1]}", "INVALID_PAGE_TOKEN"),
        (f"/runs?status=failed&page_token={token}", "INVALID_PAGE_TOKEN"),
    ):
        refused = listed.get(path, NDJSON)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/plugins"])
def test_a_page_token_is_of_one_tenant_list_and_filter(listed: Listed, path: str) -> None:
    sep = "&" if "?" in path else "?"
    token = listed.get(f"{path}{sep}page_size=1", "application/json").get_json()["next_page_token"]
    elsewhere = [other for other in PATHS if other != path] + [
        "/runs/" + "0" * 8 + "-0000" * 3 + "-" + "0" * 12 + "/steps"
    ]
    for other in elsewhere:
        refused = listed.get(f"{other}{'&' if '?' in other else '?'}page_token={token}", "application/json")
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "INVALID_PAGE_TOKEN")
    stranger = Listed(api=listed.api.as_("globex"), run_id=listed.run_id)
    assert stranger.get(f"{path}{sep}page_token={token}", "application/json").status_code == 400
    for position in (0, len(token) // 2, -1):
        altered = list(token)
        altered[position] = "A" if altered[position] != "A" else "B"
        refused = listed.get(f"{path}{sep}page_token={''.join(altered)}", "application/json")
        assert refused.get_json()["error"]["code"] == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/plugins"])
def test_another_tenant_streams_nothing_of_it(listed: Listed, path: str) -> None:
    stranger = Listed(api=listed.api.as_("globex"), run_id=listed.run_id)
    streamed = stranger.get(path, NDJSON)
    if "{run_id}" in path:
        assert (streamed.status_code, streamed.get_json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
    else:
        assert (streamed.status_code, streamed.data) == (200, b"")


def test_a_refusal_that_can_be_known_comes_in_the_envelope(listed: Listed) -> None:
    for _ in range(3):
        refused = listed.get("/runs/01939b3e-7b1c-7cc0-8a3e-000000000000/steps", NDJSON)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
        assert refused.headers["Content-Type"] == "application/json; charset=utf-8"


def test_readers_who_go_away_give_their_connections_back(listed: Listed) -> None:
    for _ in range(5):
        unread = listed.get("/runs", NDJSON)
        unread.close()
        half_read = listed.get("/runs", NDJSON)
        assert len(next(half_read.iter_encoded())) > 60_000
        half_read.close()


def test_streams_beyond_their_share_are_put_off_and_requests_are_not(listed: Listed) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(listed.api.parts.db_of_streams.snapshot(TenantId("acme")))
            busy.execute("SELECT 1")
        refused = listed.get("/runs", NDJSON)
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) >= 1
        assert listed.get("/runs", "application/json").status_code == 200
    assert listed.get("/runs", NDJSON).status_code == 200
