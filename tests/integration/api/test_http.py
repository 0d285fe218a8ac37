"""What holds for every route: tokens, tenants, scopes, the envelope, the headers."""

from __future__ import annotations

import gzip
import re

import pytest

from orchestrator_api import routes
from orchestrator_api.app import create_app
from orchestrator_api.auth import Scope
from orchestrator_api.routes import ROUTES, Route, UnlistedRoute
from tests.integration.api.conftest import Api

RUN_ID = "01939b3e-7b1c-7cc0-8a3e-000000000000"
EXAMPLES = {
    "dag_id": "a",
    "version": "1.0.0",
    "run_id": RUN_ID,
    "step_id": "a",
    "sha256": "0" * 64,
    "asset": "page.css",
}


PRIVATE = [route for route in ROUTES if not route.access.public]


def name(route: Route) -> str:
    return route.endpoint


def path_of(route: Route) -> str:
    return re.sub(r"<part:(\w+)>", lambda match: EXAMPLES[match[1]], route.path)


def allowed(api: Api, route: Route) -> Api:
    """Act with every right that the route asks for."""
    return api.as_operator() if route.access.operator else api


@pytest.fixture
def api(quiet_api: Api) -> Api:
    return quiet_api


def code(response: object) -> tuple[int, str]:
    status, body = response.status_code, response.get_json()  # type: ignore[attr-defined]
    assert set(body["error"]) - {"details"} == {"code", "message", "trace_id"}
    assert body["error"]["trace_id"] == response.headers["X-Trace-Id"]  # type: ignore[attr-defined]
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"  # type: ignore[attr-defined]
    assert response.headers["Cache-Control"]  # type: ignore[attr-defined]
    return status, body["error"]["code"]


@pytest.mark.parametrize("route", PRIVATE, ids=name)
def test_every_route_but_liveness_needs_a_token(api: Api, route: Route) -> None:
    response = api.anonymous().call(route.method, path_of(route))
    assert code(response) == (401, "UNAUTHENTICATED")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_every_route_needs_a_tenant_that_the_token_holds(api: Api, route: Route) -> None:
    def called(tenant: str | None) -> tuple[int, str]:
        caller = Api(app=api.app, parts=api.parts, signer=api.signer, tenant=tenant, token=api.token)
        return code(caller.call(route.method, path_of(route)))

    if not route.access.tenant_optional:
        assert called(None) == (403, "TENANT_REQUIRED")
    assert called("globex") == (403, "TENANT_FORBIDDEN")
    assert called("Not A Tenant") == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_every_route_needs_its_own_scope(api: Api, route: Route) -> None:
    others = " ".join(scope for scope in Scope if scope is not route.access.scope)
    response = api.as_("acme", scope=others).call(route.method, path_of(route))
    assert code(response) == (403, "INSUFFICIENT_SCOPE")


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_unknown_query_parameters_are_refused(api: Api, route: Route) -> None:
    response = allowed(api, route).call(route.method, path_of(route) + "?colour=red")
    assert code(response) == (400, "INVALID_ARGUMENT")
    assert response.get_json()["error"]["details"][0]["field"] == "colour"


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_a_wrong_method_tells_the_right_ones(api: Api, route: Route) -> None:
    response = api.call("PATCH", path_of(route))
    assert code(response) == (405, "METHOD_NOT_ALLOWED")
    assert route.method in response.headers["Allow"]
    assert code(api.call("OPTIONS", path_of(route)))[0] == 405


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.any_type], ids=name)
def test_a_caller_who_takes_no_json_is_told(api: Api, route: Route) -> None:
    response = allowed(api, route).call(route.method, path_of(route), headers={"Accept": "text/html"})
    assert code(response) == (406, "NOT_ACCEPTABLE")


@pytest.mark.parametrize("accept", ["*/*", "application/*", "text/html, application/json;q=0.1"])
def test_a_caller_who_takes_json_among_others_gets_it(api: Api, accept: str) -> None:
    assert api.get("/plugins", headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/nothing",
        "/runs/",
        "//runs",
        "/runs/a:b:cancel",
        "/runs/:cancel",
        f"/runs/{RUN_ID}:restart",
        "/dags/a",
        "/../runs",
    ],
)
def test_an_unknown_path_is_told_in_the_envelope(api: Api, path: str) -> None:
    response = api.call("POST", path)
    assert code(response) in ((404, "NOT_FOUND"), (405, "METHOD_NOT_ALLOWED"))
    assert "Location" not in response.headers


def test_a_verb_is_no_part_of_an_id(api: Api) -> None:
    assert code(api.get(f"/runs/{RUN_ID}:cancel")) == (405, "METHOD_NOT_ALLOWED")
    assert code(api.post(f"/runs/{RUN_ID}%3Acancel")) == (404, "RUN_NOT_FOUND")


@pytest.mark.parametrize(
    "path",
    [
        "/runs/abc",
        "/runs/abc/steps",
        f"/runs/{RUN_ID}/steps/UPPER",
        "/dags/UPPER/1.0.0",
        "/dags/a/one",
        "/artifacts/abc",
        "/runs/%00",
        "/runs?status=done",
        "/runs?from=yesterday",
        "/runs?page_size=0",
        "/runs?page_size=501",
        "/runs?status=failed&status=failed",
        "/dags?active=yes",
    ],
)
def test_a_malformed_argument_is_refused_by_name(api: Api, path: str) -> None:
    response = api.get(path)
    assert code(response) == (400, "INVALID_ARGUMENT")
    assert response.get_json()["error"]["details"]


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=name)
def test_head_is_answered_wherever_get_is(api: Api, route: Route) -> None:
    got, head = api.get(path_of(route)), api.call("HEAD", path_of(route))
    assert (head.status_code, head.data) == (got.status_code, b"")
    assert set(head.headers.keys()) == set(got.headers.keys())
    refused = api.call("PATCH", path_of(route))
    assert {"GET", "HEAD"} <= set(refused.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", ["/dags", "/runs"])
@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"{", "application/json", (400, "INVALID_JSON")),
        (b'{"a": NaN}', "application/json", (400, "INVALID_JSON")),
        (b"[" * 100_000, "application/json", (400, "INVALID_JSON")),
        (gzip.compress(b"{}"), "application/json", (400, "INVALID_JSON")),
        (b"a=1", "application/x-www-form-urlencoded", (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b"{}", None, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b" " * (8 * 1024 * 1024 + 1), "application/json", (413, "BODY_TOO_LARGE")),
        (b"[]", "application/json", (422, "VALIDATION_FAILED")),
        (b"null", "application/json", (422, "VALIDATION_FAILED")),
        (b"", "application/json", (422, "VALIDATION_FAILED")),
    ],
    ids=range(10),
)
def test_a_body_that_cannot_be_read_is_refused(
    api: Api, path: str, body: bytes, content_type: str | None, expected: tuple[int, str]
) -> None:
    assert code(api.call("POST", path, data=body, content_type=content_type)) == expected


def test_an_unexpected_failure_tells_no_internals(api: Api) -> None:
    # A part that breaks in a way nobody foresaw.
    app = create_app(api.parts)
    app.view_functions["plugins.list_plugins"] = lambda: 1 / 0  # type: ignore[assignment]
    response = Api(app=app, parts=api.parts, signer=api.signer, tenant="acme", token=api.token).get(
        "/plugins"
    )
    assert code(response) == (500, "INTERNAL")
    assert "division" not in response.get_data(as_text=True)


def test_a_route_beside_the_table_stops_the_app(api: Api) -> None:
    app = create_app(api.parts)
    app.add_url_rule("/debug", view_func=lambda: "", endpoint="debug")
    with pytest.raises(UnlistedRoute):
        routes.refuse_unlisted(app)


def test_plugins_are_listed_with_their_schema(api: Api) -> None:
    (plugin,) = api.get("/plugins").get_json()["items"]
    assert (plugin["name"], plugin["version"], plugin["needsNetwork"]) == ("noop", "1.0.0", False)
    assert re.fullmatch("[0-9a-f]{64}", plugin["digest"])
    assert plugin["schema"]["additionalProperties"] is False
