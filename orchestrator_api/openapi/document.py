"""Put the OpenAPI document together: the table of routes, and what each operation says of itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from orchestrator_api import idempotency
from orchestrator_api.auth import TENANT_HEADER, TENANT_PATTERN
from orchestrator_api.context import PREFIX
from orchestrator_api.openapi import fields, headers, parameters, refusals
from orchestrator_api.openapi.operation import JSON, Answer, Content, Lines, Operation
from orchestrator_api.openapi.operations import OPERATIONS
from orchestrator_api.routes import Route
from orchestrator_api.schemas.patterns import exactly
from orchestrator_api.schemas.responses.refusal import REFUSAL

Node = dict[str, Any]
Refs = Callable[[type[Schema]], Node]
"""Gives the reference to a schema, having made a component of it."""

_INFO: Final = """\
Multi-tenant, deterministic DAG orchestrator.

Every call but those marked as public carries a bearer token and names a tenant. Scopes are flat: none
implies another. What another tenant owns does not exist. `HEAD` is answered wherever `GET` is. Every refusal
has the same envelope; a method that a path does not take is refused with 405 and `Allow`."""
_SCHEME: Final = "token"
_PART: Final = re.compile(r"<part:(\w+)>")


class UndescribedRoute(LookupError):
    """A route has no description, or a description no route."""


def build(routes: Iterable[Route], operations: Mapping[str, Operation] = OPERATIONS) -> Node:
    """Write the document of ``routes``. It is the same in every installation of a version."""
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Orchestrator",
        version=version("orchestrator"),
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": _INFO, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        servers=[{"url": PREFIX}],
    )
    fields.teach(plugin, spec)
    spec.components.security_scheme(
        _SCHEME, {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": _SCOPES}
    )
    for name, header in headers.RESPONSE.items():
        spec.components.header(name, dict(header))
    spec.components.schema("Refusal", schema=REFUSAL)
    refs = _refs(plugin)
    listed = list(routes)
    _refuse_undescribed({route.endpoint for route in listed}, set(operations))
    for route in listed:
        operation = _operation(route, operations[route.endpoint], refs)
        spec.path(path=template(route.path), operations={route.method.lower(): operation})
    return _closed(spec.to_dict())


def _closed(document: Node) -> Node:
    """Say of objects with further members what those may be: apispec says no more than that they may be."""
    for schema in document["components"]["schemas"].values():
        if schema.get("additionalProperties") is True:
            schema |= {
                key: fields.FREE_FORM["JsonObject"][key] for key in ("propertyNames", "additionalProperties")
            }
    return document


_SCOPES: Final = """\
A JWT that the installation's keys verify. What a call needs of its `scope` stands beside it:
`orchestrator:read`, `orchestrator:write` or `orchestrator:admin`."""


def template(path: str) -> str:
    """Write a path of the table of routes as OpenAPI does: ``/dags/{dagId}/{version}``."""
    return _PART.sub(lambda part: f"{{{parameters.PATH[part.group(1)]['name']}}}", path)


def _refuse_undescribed(routed: set[str], described: set[str]) -> None:
    if routed != described:
        raise UndescribedRoute(
            f"without a description: {routed - described}; without a route: {described - routed}"
        )


def _operation(route: Route, operation: Operation, refs: Refs) -> Node:
    scope = route.access.scope.value
    needed: list[Node] = [{_SCHEME: [scope]}]
    written: Node = {
        "operationId": route.endpoint,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": f"{operation.description}\n\n{_access(route)}".strip(),
        "security": [*needed, {}] if route.access.public else needed,
        "parameters": [*_headers(route, operation), *_path(route), *_query(route, operation)],
        "responses": {
            **{str(status): _answer(route, answer, refs) for status, answer in operation.answers.items()},
            **refusals.responses(route, operation),
        },
    }
    if operation.request is not None:
        content: Node = {"schema": operation.request}
        if operation.request_examples:
            content["examples"] = {
                name: {"value": value} for name, value in operation.request_examples.items()
            }
        written["requestBody"] = {"required": operation.request_required, "content": {JSON: content}}
    return written


def _access(route: Route) -> str:
    if route.access.public:
        return "Public: needs no token."
    operator = ", and the token of an operator" if route.access.operator else ""
    return f"Needs the scope `{route.access.scope}`{operator}."


def _headers(route: Route, operation: Operation) -> Iterator[Node]:
    tenant = {**headers.REQUEST[TENANT_HEADER]}
    if route.access.all_tenants:
        tenant["schema"] = {"type": "string", "pattern": exactly(rf"[*]|{TENANT_PATTERN}")}
    required = not (route.access.public or route.access.tenant_optional)
    yield {"in": "header", "name": TENANT_HEADER, "required": required, **tenant}
    yield {"in": "header", "name": "traceparent", **headers.REQUEST["traceparent"]}
    if route.action is not None:
        key = headers.REQUEST[idempotency.KEY_HEADER]
        yield {"in": "header", "name": idempotency.KEY_HEADER, "required": True, **key}
    for name in operation.headers:
        yield {"in": "header", "name": name, **headers.REQUEST[name]}


def _path(route: Route) -> Iterator[Node]:
    for part in _PART.findall(route.path):
        yield {"in": "path", "required": True, **parameters.PATH[part]}


def _query(route: Route, operation: Operation) -> Iterator[Node]:
    for name in sorted(route.query):
        described = operation.query.get(name) or parameters.QUERY[name]
        yield {"in": "query", "name": name, "required": False, **described}


def _answer(route: Route, answer: Answer, refs: Refs) -> Node:
    names = answer.headers if route.action is None else (*answer.headers, idempotency.REPLAYED_HEADER)
    written: Node = {"description": answer.description, "headers": headers.of_response(*names)}
    if answer.content:
        written["content"] = {kind: _content(of, refs) for kind, of in answer.content.items()}
        if answer.example is not None:
            written["content"][JSON]["example"] = answer.example
    return written


def _content(of: Content, refs: Refs) -> Node:
    """Describe a body. OpenAPI 3.1 has no word for the schema of a line; ``x-item-schema`` is ours."""
    if isinstance(of, Lines):
        return {"schema": {"type": "string"}, "x-item-schema": {"anyOf": [refs(kind) for kind in of.kinds]}}
    return {"schema": of}


def _refs(plugin: MarshmallowPlugin) -> Refs:
    if plugin.converter is None:
        raise LookupError("the plugin belongs to no document yet")
    return plugin.converter.resolve_nested_schema
