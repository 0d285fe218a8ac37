from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from orchestrator_api.context import PREFIX
from orchestrator_api.errors import MEANINGS
from orchestrator_api.openapi.document import UndescribedRoute, build, template
from orchestrator_api.openapi.operations import OPERATIONS
from orchestrator_api.routes import ROUTES
from tests.support.openapi import check_response, document

Node = dict[str, Any]


def operations() -> Iterator[tuple[str, str, Node]]:
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def test_the_document_is_openapi_3_1() -> None:
    Draft202012Validator(OPENAPI_31, offline=True).validate(document())
    assert json.loads(json.dumps(document())) == document()


def test_every_schema_in_it_is_a_json_schema() -> None:
    for name, schema in document()["components"]["schemas"].items():
        Draft202012Validator({**schema, "components": document()["components"]}, offline=True)
        assert "additionalProperties" in schema or name == "Json"


def test_it_has_every_route_and_no_other() -> None:
    described = {(method, path) for path, method, _ in operations()}
    assert described == {(route.method, template(route.path)) for route in ROUTES}


def test_a_route_without_a_description_is_not_published() -> None:
    with pytest.raises(UndescribedRoute, match=r"dags\.get"):
        build(ROUTES, {name: of for name, of in OPERATIONS.items() if name != "dags.get"})


def test_a_description_without_a_route_is_not_published() -> None:
    with pytest.raises(UndescribedRoute, match=r"runs\.start"):
        build(route for route in ROUTES if route.endpoint != "runs.start")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.endpoint)
def test_an_operation_names_its_scope_and_its_headers(route: Any) -> None:
    operation = document()["paths"][template(route.path)][route.method.lower()]
    headers = {
        p["name"]: p["required"] for p in operation["parameters"] if p["in"] == "header" and "required" in p
    }
    assert operation["security"][0] == {"token": [route.access.scope.value]}
    assert ({} in operation["security"]) == route.access.public
    assert headers["X-Stella-Tenant"] is not (route.access.public or route.access.tenant_optional)
    assert ("Idempotency-Key" in headers) == (route.action is not None)


def test_an_operation_tells_of_each_refusal_that_every_call_can_meet() -> None:
    for path, method, operation in operations():
        missing = {"400", "401", "403", "429", "500", "503"} - operation["responses"].keys()
        assert not missing, f"{method} {path}"


def test_codes_stand_under_the_status_that_they_have() -> None:
    statuses = {(meaning.code, str(meaning.status)) for meaning in MEANINGS.values()}
    found = {
        (code, status)
        for _, _, operation in operations()
        for status, response in operation["responses"].items()
        for code in codes_of(response)
    }
    of_the_server = {("INVALID_ARGUMENT", "414"), ("INVALID_ARGUMENT", "431")}
    assert found == statuses | of_the_server


TRACED = {"X-Trace-Id": "0" * 32, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
JSON = {**TRACED, "Content-Type": "application/json; charset=utf-8"}
HEALTHY = {"status": "ok", "checks": {"postgres": "ok", "redis": "ok", "workers": "ok"}}

REFUSED = {"error": {"code": "UNAUTHENTICATED", "message": "", "trace_id": "0" * 32}}


def check(status: int = 200, headers: Mapping[str, str] = JSON, body: object = HEALTHY) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    check_response("GET", f"{PREFIX}/admin/health", status, headers, content)


def test_a_response_as_described_passes() -> None:
    check()


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ({"status": 418}, "the status is not declared"),
        ({"headers": {**JSON, "X-Trace-Id": "none"}}, "X-Trace-Id"),
        ({"headers": {**TRACED, "Content-Type": "text/html"}}, "the content type is not declared"),
        ({"headers": {k: v for k, v in JSON.items() if k != "Cache-Control"}}, "Cache-Control is missing"),
        ({"body": {**HEALTHY, "host": "db-7"}}, "host"),
        ({"body": {"status": "ok"}}, "checks"),
        ({"body": {**HEALTHY, "status": "fine"}}, "fine"),
        ({"status": 404}, "the status is not declared"),
        (
            {"status": 401, "body": {"error": {"code": "DAG_CYCLE", "message": "", "trace_id": "0" * 32}}},
            "WWW-",
        ),
    ],
)
def test_a_response_that_leaves_the_document_is_noticed(response: Node, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check(**response)


def codes_of(response: Node) -> list[str]:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    if "allOf" not in schema:
        return []
    codes: list[str] = schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
    return codes
