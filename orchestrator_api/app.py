"""Put the Flask application together: routes, the checks before each, the headers after each."""

from __future__ import annotations

import time
from contextlib import suppress

from flask import Flask, Response, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from orchestrator_api import accept, access_log, context, credentials, errors, idempotency, query, routes
from orchestrator_api.auth import Caller, Principal, authorize, bucket
from orchestrator_api.credentials import Credentials
from orchestrator_api.openapi import document, published
from orchestrator_api.parts import Parts, attach
from orchestrator_api.rate_limit import RateClass, RateLimits
from orchestrator_api.resources import stream
from orchestrator_api.routes import Route
from orchestrator_api.trace import begin
from shared.errors import RateLimited, Unauthenticated, Unavailable
from shared.tracing import Tracer


def create_app(parts: Parts) -> Flask:
    """Make an application that serves the API from ``parts``."""
    app = Flask("orchestrator_api", static_folder=None, template_folder=None)
    # A path has one spelling. Redirects to another would be answers without an envelope.
    app.url_map.merge_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    attach(app, parts)
    parts.metrics.watch(app)
    by_endpoint = routes.install(app)
    routes.refuse_unlisted(app)
    errors.install(app)
    published.attach(app, lambda: document.build(routes.ROUTES))

    def check() -> None:
        route = by_endpoint.get(request.endpoint or "")
        _begin_trace(route, parts.tracer)
        if route is None:
            _count_lost(parts)
            return
        is_upgrade = request.endpoint == route.socket_endpoint
        given = (credentials.of_upgrade if is_upgrade else credentials.of_headers)(request.headers)
        context.admit(_admitted(route, parts, given))
        if not is_upgrade:
            _refuse_other_types(route)
        query.check(request.args, route.query, request.view_args or {})
        if is_upgrade:
            stream.before_upgrade()

    def finish(response: Response) -> Response:
        route = by_endpoint.get(request.endpoint or "")
        if route is not None and route.action is not None and not context.is_audited():
            response = _audited(route.action, response)
        if access_log.is_upgraded(request.environ):
            response.status_code = 101
        stream.after_upgrade()
        _end_trace(route, response)
        return _with_headers(response)

    app.before_request(check)
    app.after_request(finish)
    return app


def _begin_trace(route: Route | None, tracer: Tracer | None) -> None:
    name = request.method if route is None else f"{request.method} {route.template}"
    attributes = {"http.request.method": request.method, "url.path": request.path}
    trace = begin(request.headers, tracer, name, attributes)
    context.begin(trace)
    clear_contextvars()
    bind_contextvars(trace_id=trace.here.trace_id)


def _end_trace(route: Route | None, response: Response) -> None:
    """End the request's span, and leave for the access log what the server does not know."""
    caller = context.caller()
    known = access_log.Known(
        trace_id=context.trace_id(),
        route=None if route is None else route.template,
        tenant=None if caller is None else caller.tenant,
        subject=context.sender(),
    )
    access_log.tell(request.environ, known)
    context.trace().end(response.status_code, known.attributes())


def _admitted(route: Route, parts: Parts, given: Credentials) -> Caller | None:
    """Let the caller in, or raise what keeps them out. Public routes take callers without a token."""
    if given.authorization is None:
        if route.access.public:
            return None
        raise Unauthenticated("send Authorization: Bearer <JWT>")
    principal = parts.tokens.principal(given.authorization)
    context.identify(principal)
    _count(principal, given.tenant, parts.rate_limits, route.rate_class)
    caller = authorize(principal, given.tenant, route.access)
    bind_contextvars(tenant=caller.tenant)
    return caller


def _count(principal: Principal, tenant: str | None, limits: RateLimits, of: RateClass) -> None:
    """Count a request of a known caller towards its tenant's limits; raise RateLimited when over one."""
    standing = limits.take(bucket(principal, tenant), of)
    context.limit(standing)
    if standing.exceeded:
        raise RateLimited(standing.limit, max(1, standing.reset - int(time.time())))


def _count_lost(parts: Parts) -> None:
    """Count a request that has no route: it is refused in any case, whatever its token is worth."""
    given = credentials.of_headers(request.headers)
    if given.authorization is not None:
        with suppress(Unauthenticated):
            principal = parts.tokens.principal(given.authorization)
            _count(principal, given.tenant, parts.rate_limits, RateClass.READ)


def _refuse_other_types(route: Route) -> None:
    if not route.any_type and accept.chosen(request.accept_mimetypes, route.types) is None:
        raise errors.NotAcceptable(f"this route answers with {' or '.join(route.types)}")


def _audited(action: str, response: Response) -> Response:
    """Put a call that was refused before its handler into the audit trail, or refuse it for want of that.

    Failures changed nothing, and a flood of calls over a limit must not become a flood of rows.
    """
    if response.status_code >= 500 or response.status_code in (401, 429):
        return response
    try:
        idempotency.note_refusal(action, response)
    except Unavailable as error:
        return errors.refusal(error)
    return response


def _with_headers(response: Response) -> Response:
    for name, value in context.common_headers().items():
        if name != "Cache-Control" or name not in response.headers:
            response.headers[name] = value
    return response
