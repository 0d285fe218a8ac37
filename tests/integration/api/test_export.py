"""GET /runs:export: the ledger as lines that verify, the tenant's own, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg2
import pytest

from shared.embedded import postgres
from shared.embedded.process_tree import descendants
from tests.integration.api.conftest import Api
from tests.support.eventually import eventually
from tests.support.exported import fill, wrong_line
from tests.support.ledger import Ledger
from tests.support.servers import Servers
from tests.support.tokens import Signer
from tests.support.web import Web, serving

MIB = 1 << 20


def exported(api: Api, query: str = "") -> list[dict[str, Any]]:
    """Export, verify, and give the runs."""
    response = api.get(f"/runs:export{query}")
    assert response.status_code == 200, response.data
    assert response.content_type == "application/x-ndjson; charset=utf-8"
    assert wrong_line(response.data) is None
    return [json.loads(line) for line in response.data.splitlines()[:-1]]


@pytest.fixture
def ledger(api: Api) -> Ledger:
    """The ledger of acme, with a run of every kind."""
    filled = Ledger(api=api.parts.db, service=api.parts.db_of_all)
    fill(filled)
    return filled


def test_each_run_is_as_the_api_has_it_and_everything_of_it_is_there(api: Api, ledger: Ledger) -> None:
    runs = exported(api)
    assert [run["dagId"] for run in runs] == ["completed", "failed", "lost", "cancelled", "waiting"]
    for run in runs:
        seen = api.get(f"/runs/{run['runId']}").get_json()
        assert {name: run[name] for name in seen if name != "steps"} == {
            name: value for name, value in seen.items() if name != "steps"
        }
        assert set(run) == set(seen) | {"specHash", "inputs", "events"}
        for step in run["steps"]:
            assert step == api.get(f"/runs/{run['runId']}/steps/{step['stepId']}").get_json()
        version = api.get(f"/dags/{run['dagId']}/{run['dagVersion']}").get_json()
        assert run["specHash"] == version["specHash"]
    assert runs[0]["inputs"]["text"] == "naïve \u2028 \\ /"


def test_two_exports_are_byte_identical_and_an_empty_one_is_a_manifest(api: Api, ledger: Ledger) -> None:
    assert api.get("/runs:export").data == api.get("/runs:export").data
    assert exported(api.as_("globex")) == []
    assert b"acme" not in api.as_("globex").get("/runs:export").data


def test_filters_are_those_of_the_list(api: Api, ledger: Ledger) -> None:
    runs = exported(api)
    third = runs[2]["startedUtc"]
    cases = {
        "?dagId=lost": [runs[2]],
        "?status=running": [runs[4]],
        "?dagId=lost&status=failed": [],
        f"?from={third}": runs[2:],
        f"?to={third}": runs[:2],
        f"?from={runs[1]['startedUtc']}&to={third}": [runs[1]],
    }
    for query, expected in cases.items():
        assert exported(api, query) == expected, query
        listed = api.get(f"/runs{query}").get_json()["items"]
        assert {item["runId"] for item in listed} == {run["runId"] for run in expected}


def test_runs_that_started_in_the_same_millisecond_go_by_id(api: Api, ledger: Ledger, owner_url: str) -> None:
    with closing(psycopg2.connect(owner_url)) as connection, connection, connection.cursor() as cur:
        cur.execute("UPDATE orch.runs SET started_utc = '2026-01-02T03:04:05.678Z'")
        cur.execute("UPDATE orch.runs SET started_utc = '2026-01-02T03:04:05.677Z' WHERE dag_id = 'waiting'")
    runs = exported(api)
    assert runs[0]["dagId"] == "waiting"
    ids = [run["runId"] for run in runs[1:]]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "query",
    ["?page_size=1", "?page_token=x", "?status=lost", "?from=today", "?dagId=UP", "?to=1&to=2", "?status="],
)
def test_what_is_no_filter_is_refused(api: Api, query: str) -> None:
    response = api.get(f"/runs:export{query}")
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("*/*", 200),
        ("application/*", 200),
        ("application/x-ndjson", 200),
        ("application/json, application/x-ndjson;q=0.5", 200),
        ("application/x-ndjson; charset=utf-8", 200),
        ("application/json", 406),
        ("text/html", 406),
        ("application/x-ndjson;q=0", 406),
    ],
)
def test_it_is_ndjson_or_nothing(api: Api, accept: str, status: int) -> None:
    assert api.get("/runs:export", headers={"Accept": accept}).status_code == status


def test_the_verb_is_no_run_and_no_run_has_the_verb(api: Api) -> None:
    for method in ("POST", "PUT", "DELETE"):
        response = api.call(method, "/runs:export")
        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    for path in (
        "/runs/:export",
        "/runs/export",
        "/runs:export/steps",
        "/runs:export:export",
        "/runs:exports",
    ):
        assert api.get(path).status_code in (400, 404), path
    assert api.get("/runs%3Aexport").status_code == 200


def test_head_and_refused_exports_leave_no_connection_behind(api: Api, ledger: Ledger) -> None:
    for _ in range(5):
        head = api.call("HEAD", "/runs:export")
        assert (head.status_code, head.data) == (200, b"")
        api.get("/runs:export", buffered=False).close()
        assert api.get("/runs:export?status=x").status_code == 400
    assert len(exported(api)) == 5


_RUNS = """
INSERT INTO orch.dag_versions
    (tenant, dag_id, version, precedence, spec_hash, step_count, metadata, definition, created_by)
VALUES ('acme', %(dag)s, '1.0.0', '1', sha256('x'), %(steps)s, '{}', '{}', 'tester');
INSERT INTO orch.dag_steps
SELECT 'acme', v.dag_version_id, n, 's' || n, 'noop', '{}', NULL, 'success', FALSE, 1, 0, 0, 1, 1000,
    'default', 0, FALSE, '{}'
FROM orch.dag_versions AS v, generate_series(0, %(steps)s - 1) AS n WHERE v.dag_id = %(dag)s;
INSERT INTO orch.runs (
    tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id, inputs_hash, created_by,
    started_utc, step_count, open_steps, seq
)
SELECT 'acme', gen_random_uuid(), v.dag_version_id, %(dag)s, '1.0.0', 'completed', repeat('a', 32),
    sha256('x'), 'tester', date_trunc('milliseconds', now()), %(steps)s, 0, 3 * %(steps)s
FROM orch.dag_versions AS v, generate_series(1, %(runs)s) WHERE v.dag_id = %(dag)s;
INSERT INTO orch.run_inputs SELECT tenant, run_id, '{}' FROM orch.runs WHERE dag_id = %(dag)s;
INSERT INTO orch.steps (tenant, run_id, step_no, status, pool, waiting, attempt, outputs_hash, outputs)
SELECT r.tenant, r.run_id, n, 'succeeded', 'default', 0, 1, sha256('o'),
    json_build_object('text', repeat('o', %(size)s), 'n', n)
FROM orch.runs AS r, generate_series(0, %(steps)s - 1) AS n WHERE r.dag_id = %(dag)s;
INSERT INTO orch.attempts (tenant, run_id, step_no, attempt, status, worker_id, started_utc)
SELECT r.tenant, r.run_id, n, 1, 'succeeded', 'w', now()
FROM orch.runs AS r, generate_series(0, %(steps)s - 1) AS n WHERE r.dag_id = %(dag)s;
INSERT INTO orch.events (tenant, run_id, seq, line, hash)
SELECT r.tenant, r.run_id, n, '{"seq":' || n || '}', sha256('e')
FROM orch.runs AS r, generate_series(1, 3 * %(steps)s) AS n WHERE r.dag_id = %(dag)s;
"""


@pytest.fixture
def large(tmp_path: Path, signer: Signer, servers: Servers, redis_url: str) -> Iterator[tuple[Web, str]]:
    """A gunicorn on a ledger that is too large for it: a run of 188 MiB, and many small ones."""
    with servers.new_database() as name:
        owner_url = servers.url(name, user=postgres.OWNER)
        with closing(psycopg2.connect(owner_url)) as connection, connection, connection.cursor() as cur:
            cur.execute(_RUNS, {"dag": "large", "runs": 1, "steps": 3_000, "size": 65_536})
            cur.execute(_RUNS, {"dag": "many", "runs": 5_000, "steps": 2, "size": 10})
        with serving(tmp_path, signer, servers.url(name), redis_url) as web:
            yield web, owner_url


def _resident_bytes(web: Web) -> int:
    """Sum the memory of the processes of a gunicorn."""
    total = 0
    for pid in (web.process.pid, *descendants(web.process.pid)):
        status = Path(f"/proc/{pid}/status").read_text()
        total += int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return total


def test_a_run_that_is_larger_than_memory_is_streamed(large: tuple[Web, str]) -> None:
    web, _ = large
    with web.client() as client:
        client.get("/runs:export?status=failed")
        before = highest = _resident_bytes(web)
        size, tail = 0, b""
        with client.stream("GET", "/runs:export", timeout=60) as response:
            for chunk in response.iter_bytes(4 * MIB):
                size += len(chunk)
                tail = (tail + chunk)[-200:]
                highest = max(highest, _resident_bytes(web))
    assert size > 188 * MIB
    assert json.loads(tail.splitlines()[-1])["manifest"]["count"] == 5_001
    assert highest - before < 50 * MIB, f"{(highest - before) / MIB:.0f} MiB more"


def test_a_failure_within_cuts_the_connection_and_harms_nobody_else(large: tuple[Web, str]) -> None:
    web, owner_url = large
    with web.client() as client, client.stream("GET", "/runs:export", timeout=60) as response:
        assert response.status_code == 200
        chunks = response.iter_raw()
        next(chunks)
        _end_backends(owner_url)
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            list(chunks)
    with web.client() as client:
        assert client.get("/runs:export?status=failed").status_code == 200


def test_a_client_that_goes_away_gives_the_connection_back(large: tuple[Web, str]) -> None:
    web, owner_url = large
    for _ in range(3):
        with web.client() as client, client.stream("GET", "/runs:export", timeout=60) as response:
            next(response.iter_raw())
    eventually(lambda: not _open_exports(owner_url), within=20)
    with web.client() as client:
        assert client.get("/runs:export?status=failed").status_code == 200


def _open_exports(owner_url: str) -> list[int]:
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'orchestrator-web' AND xact_start IS NOT NULL"
        )
        return [row[0] for row in cur.fetchall()]


def _end_backends(owner_url: str) -> None:
    pids = _open_exports(owner_url)
    assert pids
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
        cur.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s) AS pid", (pids,))
