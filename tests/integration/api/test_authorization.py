"""What another tenant owns does not exist, on any path, by any method; and no scope gives another's right.

Each route has a row here, or the test of the table fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from orchestrator_api.auth import Scope
from orchestrator_api.routes import ROUTES, Route
from shared.domain.models import ArtifactRef, Sha256, Succeeded
from tests.integration.api.conftest import Api, finish_step

MARK = "for acme only"
HASH, UNUSED_HASH = Sha256("ab" * 32), Sha256("cd" * 32)
TRACE_OR_ID = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(ab|cd){32}|secret-plan|never-was"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Names of what one tenant owns, or of what nobody ever had."""

    dag_id: str
    run_id: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A call that names something of another tenant, and what it gets: as if that had never been."""

    path: str
    status: int
    code: str
    body: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """A call that names nothing: it succeeds, and nothing of another tenant is in the answer."""

    path: str
    body: object = None
    method: str | None = None


PUBLISHED = {
    "dagId": "secret-plan",
    "version": "1.0.0",
    "steps": [{"id": "a", "uses": "noop"}, {"id": "b", "uses": "noop"}],
    "edges": [{"from": "a", "to": "b"}],
}
STEP = "/runs/{run_id}/steps/a"
TABLE: dict[str, Reach | Lists] = {
    "dags.publish": Lists(
        path="/dags",
        body={"dagId": "secret-plan", "version": "1.0.0", "steps": [{"id": "x", "uses": "noop"}]},
    ),
    "dags.list_versions": Lists(path="/dags"),
    "dags.get": Reach(path="/dags/{dag_id}/1.0.0", status=404, code="DAG_NOT_FOUND"),
    "dags.disable": Reach(path="/dags/{dag_id}/1.0.0:disable", status=404, code="DAG_NOT_FOUND"),
    "dags.enable": Reach(path="/dags/{dag_id}/1.0.0:enable", status=404, code="DAG_NOT_FOUND"),
    "plugins.list_plugins": Lists(path="/plugins"),
    "runs.start": Reach(path="/runs", body={"dagId": "{dag_id}"}, status=404, code="DAG_NOT_FOUND"),
    "runs.list_runs": Lists(path="/runs"),
    "runs.export": Lists(path="/runs:export"),
    # Its lines need the server's own socket: who gets which, and who is refused, is held in test_stream.py.
    "stream.follow": Lists(path="/runs/stream?after=0", method="HEAD"),
    "runs.get": Reach(path="/runs/{run_id}", status=404, code="RUN_NOT_FOUND"),
    "runs.cancel": Reach(path="/runs/{run_id}:cancel", status=404, code="RUN_NOT_FOUND"),
    "steps.list_steps": Reach(path="/runs/{run_id}/steps", status=404, code="RUN_NOT_FOUND"),
    "steps.get": Reach(path=STEP, status=404, code="RUN_NOT_FOUND"),
    "explain.get": Reach(path=STEP + ":explain", status=404, code="RUN_NOT_FOUND"),
    "logs.get": Reach(path=STEP + "/logs", status=404, code="RUN_NOT_FOUND"),
    "artifacts.get": Reach(path="/artifacts/{sha256}", status=404, code="ARTIFACT_NOT_FOUND"),
    "audit.list_audit": Lists(path="/admin/audit"),
    "health.health": Lists(path="/admin/health"),
    "limits.get": Lists(path="/admin/limits"),
    "limits.put": Lists(path="/admin/limits", body={"reason": "theirs"}),
    "metrics.metrics": Lists(path="/admin/metrics"),
    "warm.warm": Reach(
        path="/admin/warm", body={"dags": [{"dagId": "{dag_id}"}]}, status=404, code="DAG_NOT_FOUND"
    ),
    "docs.openapi": Lists(path="/openapi.json"),
    "docs.page": Lists(path="/docs"),
    "docs.asset": Lists(path="/docs/page.css"),
}


@pytest.fixture
def theirs(api: Api) -> Own:
    """A run of acme with a published DAG, an ended step, outputs and an artifact."""
    api.post("/dags", {**PUBLISHED, "metadata": {"owner": MARK}})
    run_id = api.post("/runs", {"dagId": "secret-plan", "inputs": {"key": MARK}}).get_json()["runId"]
    content, _ = api.parts.artifacts.put_bytes(MARK.encode())
    artifact = ArtifactRef(name="a.txt", sha256=content, size_bytes=len(MARK), content_type="text/plain")
    outcome = Succeeded(
        outputs={"n": MARK}, outputs_hash=HASH, inputs_hash=HASH, artifacts=(artifact,), logs_ref=content
    )
    finish_step(api, run_id, 0, outcome)
    return Own(dag_id="secret-plan", run_id=run_id, sha256=content)


def as_row(route: Route) -> object:
    return pytest.param(route, id=route.endpoint)


def called(api: Api, route: Route, own: Own) -> TestResponse:
    row = TABLE[route.endpoint]
    names = {"dag_id": own.dag_id, "run_id": own.run_id, "sha256": own.sha256}
    body = row.body
    if isinstance(body, dict):
        body = json.loads(re.sub(r"\{(\w+)\}", lambda name: names[name[1]], json.dumps(body)))
    path = row.path.format(**names)
    if isinstance(row, Lists) and row.method is not None:
        return api.call(row.method, path)
    return (
        api.get(path, buffered=True)
        if route.method == "GET"
        else api.call(route.method, path, json=body or {})
    )


def globex(api: Api, route: Route) -> Api:
    """Act for another tenant with every right that the route asks for."""
    return api.as_operator("globex") if route.access.operator else api.as_("globex")


def test_every_route_has_a_row() -> None:
    assert set(TABLE) == {route.endpoint for route in ROUTES}


@pytest.mark.parametrize("route", [as_row(route) for route in ROUTES])
def test_what_another_tenant_owns_does_not_exist(api: Api, theirs: Own, route: Route) -> None:
    other = globex(api, route)
    response = called(other, route, theirs)
    assert b"acme" not in response.data, response.data
    row = TABLE[route.endpoint]
    if isinstance(row, Lists):
        assert response.status_code in (200, 201, 202, 503), response.data
        assert theirs.run_id.encode() not in response.data
        return
    assert (response.status_code, response.get_json()["error"]["code"]) == (row.status, row.code)
    never = called(other, route, Own(dag_id="never-was", run_id=str(uuid4()), sha256=UNUSED_HASH))
    assert TRACE_OR_ID.sub("*", response.get_data(as_text=True)) == TRACE_OR_ID.sub(
        "*", never.get_data(as_text=True)
    )
    assert set(response.headers.keys()) == set(never.headers.keys())


@pytest.mark.parametrize(
    "route", [as_row(route) for route in ROUTES if isinstance(TABLE.get(route.endpoint), Reach)]
)
def test_the_owner_does_reach_it(api: Api, theirs: Own, route: Route) -> None:
    assert called(api, route, theirs).status_code in (200, 201, 202)


READ = [route for route in ROUTES if route.method == "GET" and route.socket is None]


@pytest.mark.parametrize("route", [as_row(route) for route in READ])
def test_head_tells_no_more_than_get(api: Api, theirs: Own, route: Route) -> None:
    row = TABLE[route.endpoint]
    path = row.path.format(dag_id=theirs.dag_id, run_id=theirs.run_id, sha256=theirs.sha256)
    for caller in (api, api.as_("globex")):
        got, head = caller.get(path, buffered=True), caller.call("HEAD", path)
        assert (head.status_code, head.data) == (got.status_code, b"")
        assert head.headers.get("Content-Type") == got.headers.get("Content-Type")
        assert head.headers.get("ETag") == got.headers.get("ETag")


Attempt = Callable[[Api], Api]
REFUSED: dict[str, tuple[Attempt, str]] = {
    "a token of another tenant": (lambda api: api.as_("acme", tenant="globex"), "TENANT_FORBIDDEN"),
    "a token of no tenant": (lambda api: api.as_("acme", tenant=None), "TENANT_FORBIDDEN"),
    "a list without this tenant": (
        lambda api: api.as_("acme", tenant=None, tenants=["globex", "initech"]),
        "TENANT_FORBIDDEN",
    ),
    "no scope": (lambda api: api.as_("acme", scope=""), "INSUFFICIENT_SCOPE"),
}


@pytest.mark.parametrize("route", [as_row(route) for route in ROUTES if route.socket is None])
def test_a_token_that_does_not_allow_it_is_refused_before_anything_is_looked_at(
    api: Api, theirs: Own, route: Route
) -> None:
    for what, (make, code) in REFUSED.items():
        response = called(make(api), route, theirs)
        assert (response.status_code, response.get_json()["error"]["code"]) == (403, code), what
    for scope in Scope:
        response = called(api.as_("acme", scope=scope), route, theirs)
        if route.access.scope is scope and not route.access.operator:
            # The DAG is published already, and no worker is up.
            assert response.status_code in (200, 201, 202, 409, 503)
        else:
            assert response.get_json()["error"]["code"] == "INSUFFICIENT_SCOPE"
