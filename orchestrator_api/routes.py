"""Every route of the API, with who may call it. What is not in this table does not exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from flask import Flask, Response
from flask_sock import Sock  # type: ignore[import-untyped]
from werkzeug.routing import BaseConverter

from orchestrator_api import accept, listing
from orchestrator_api.auth import Access, Scope
from orchestrator_api.context import PREFIX
from orchestrator_api.idempotency import changing
from orchestrator_api.rate_limit import RateClass
from orchestrator_api.resources import (
    artifacts,
    audit,
    dags,
    docs,
    explain,
    health,
    limits,
    logs,
    metrics,
    plugins,
    runs,
    steps,
    stream,
    warm,
)
from orchestrator_api.stream.upgrade import OPTIONS

READ = Access(scope=Scope.READ)
WRITE = Access(scope=Scope.WRITE)
ADMIN = Access(scope=Scope.ADMIN)
OPERATOR = Access(scope=Scope.ADMIN, operator=True)
METRICS = Access(scope=Scope.ADMIN, all_tenants=True, tenant_optional=True)
PUBLIC = Access(scope=Scope.READ, public=True)
LIVENESS = Access(scope=Scope.READ, public=True, all_tenants=True)

_PAGE = frozenset({"page_size", "page_token"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method on a path. ``query`` names all its parameters; ``any_type``: the answer may be no JSON.

    ``action`` names the change that the call asks for, as the audit trail has it; such a call needs an
    idempotency key. ``None``: it changes nothing. ``bulk``: the answer is NDJSON only, of any length.
    ``socket``: it may become a WebSocket, which this serves, and is NDJSON otherwise.
    """

    method: str
    path: str
    view: Callable[..., Response]
    access: Access
    query: frozenset[str] = frozenset()
    any_type: bool = False
    action: str | None = None
    bulk: bool = False
    socket: Callable[..., None] | None = None

    @property
    def endpoint(self) -> str:
        """Name the route for Flask, page tokens and metrics: ``runs.start``."""
        return f"{self.view.__module__.rpartition('.')[2]}.{self.view.__name__}"

    @property
    def socket_endpoint(self) -> str | None:
        """Name the route for Flask where it becomes a WebSocket; ``None`` if it never does."""
        return None if self.socket is None else f"{self.endpoint}_socket"

    @property
    def types(self) -> tuple[str, ...]:
        """Name what it can answer with, unless it is ``any_type``."""
        if self.bulk or self.socket is not None:
            return (accept.NDJSON,)
        return listing.TYPES if "page_token" in self.query else (accept.JSON,)

    @property
    def rate_class(self) -> RateClass:
        """Tell which rate limit the route counts towards, beside the tenant's overall one."""
        if self.bulk:
            return RateClass.BULK
        return RateClass.READ if self.action is None else RateClass.CHANGE

    @property
    def template(self) -> str:
        """Write the path as OpenAPI does, for logs and spans: ``/runs/{run_id}``."""
        return _template(self.path)


ROUTES: tuple[Route, ...] = (
    Route(method="POST", path="/dags", view=dags.publish, access=ADMIN, action="dag.publish"),
    Route(
        method="GET",
        path="/dags",
        view=dags.list_versions,
        access=READ,
        query=_PAGE | {"dagId", "active"},
    ),
    Route(method="GET", path="/dags/<part:dag_id>/<part:version>", view=dags.get, access=READ),
    Route(
        method="POST",
        path="/dags/<part:dag_id>/<part:version>:disable",
        view=dags.disable,
        access=ADMIN,
        action="dag.disable",
    ),
    Route(
        method="POST",
        path="/dags/<part:dag_id>/<part:version>:enable",
        view=dags.enable,
        access=ADMIN,
        action="dag.enable",
    ),
    Route(method="GET", path="/plugins", view=plugins.list_plugins, access=READ, query=_PAGE),
    Route(method="POST", path="/runs", view=runs.start, access=WRITE, action="run.start"),
    Route(
        method="GET",
        path="/runs",
        view=runs.list_runs,
        access=READ,
        query=_PAGE | {"dagId", "status", "from", "to"},
    ),
    Route(
        method="GET",
        path="/runs:export",
        view=runs.export,
        access=READ,
        query=frozenset({"dagId", "status", "from", "to"}),
        bulk=True,
    ),
    Route(
        method="GET",
        path="/runs/stream",
        view=stream.follow,
        socket=stream.follow_socket,
        access=READ,
        query=frozenset({"dagId", "status", "runId", "after"}),
    ),
    Route(method="GET", path="/runs/<part:run_id>", view=runs.get, access=READ),
    Route(
        method="POST",
        path="/runs/<part:run_id>:cancel",
        view=runs.cancel,
        access=WRITE,
        action="run.cancel",
    ),
    Route(method="GET", path="/runs/<part:run_id>/steps", view=steps.list_steps, access=READ, query=_PAGE),
    Route(method="GET", path="/runs/<part:run_id>/steps/<part:step_id>", view=steps.get, access=READ),
    Route(
        method="GET",
        path="/runs/<part:run_id>/steps/<part:step_id>:explain",
        view=explain.get,
        access=READ,
    ),
    Route(
        method="GET",
        path="/runs/<part:run_id>/steps/<part:step_id>/logs",
        view=logs.get,
        access=READ,
        query=frozenset({"attempt", "follow"}),
        any_type=True,
        bulk=True,
    ),
    Route(method="GET", path="/artifacts/<part:sha256>", view=artifacts.get, access=READ, any_type=True),
    Route(
        method="GET",
        path="/admin/audit",
        view=audit.list_audit,
        access=ADMIN,
        query=_PAGE | {"action", "from", "to"},
    ),
    Route(method="GET", path="/admin/health", view=health.health, access=LIVENESS),
    Route(method="GET", path="/admin/limits", view=limits.get, access=READ),
    Route(method="PUT", path="/admin/limits", view=limits.put, access=OPERATOR, action="limits.set"),
    Route(method="POST", path="/admin/warm", view=warm.warm, access=ADMIN),
    Route(method="GET", path="/admin/metrics", view=metrics.metrics, access=METRICS, any_type=True),
    Route(method="GET", path="/openapi.json", view=docs.openapi, access=READ),
    Route(method="GET", path="/docs", view=docs.page, access=PUBLIC, any_type=True),
    Route(method="GET", path="/docs/<part:asset>", view=docs.asset, access=PUBLIC, any_type=True),
)


@cache
def _template(path: str) -> str:
    return PREFIX + re.sub(r"<part:(\w+)>", r"{\1}", path)


class UnlistedRoute(RuntimeError):
    """The app has a route that the table does not have: nothing would say who may call it."""


class _Part(BaseConverter):
    """One segment of a path, up to a colon, which begins a verb: ``/runs/<id>:cancel``."""

    regex = "[^/:]+"


def install(app: Flask) -> dict[str, Route]:
    """Give ``app`` the routes of the table; return them by endpoint."""
    app.url_map.converters["part"] = _Part
    app.config["SOCK_SERVER_OPTIONS"] = OPTIONS
    sockets = Sock(app)
    by_endpoint = {}
    for route in ROUTES:
        view = route.view if route.action is None else changing(route.action, route.view)
        app.add_url_rule(PREFIX + route.path, endpoint=route.endpoint, view_func=view, methods=[route.method])
        by_endpoint[route.endpoint] = route
        if route.socket is not None and route.socket_endpoint is not None:
            sockets.route(PREFIX + route.path, endpoint=route.socket_endpoint)(route.socket)
            by_endpoint[route.socket_endpoint] = route
    return by_endpoint


def refuse_unlisted(app: Flask) -> None:
    """Raise UnlistedRoute if anything but the table gave ``app`` a route."""
    listed = {
        (PREFIX + route.path, endpoint, route.method)
        for route in ROUTES
        for endpoint in (route.endpoint, route.socket_endpoint)
    }
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD"}:
            if (rule.rule, rule.endpoint, method) not in listed:
                raise UnlistedRoute(f"{method} {rule.rule} is not in the table of routes")
