"""The plugin ``http``: one request to a server, and its answer."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import httpcore
import httpx

from orchestrator_worker.egress import AddressForbidden, GuardedBackend, allow_list
from orchestrator_worker.http_body import HttpRefused, read_body
from shared.domain.models import Json, JsonObject
from shared.domain.states import ErrorCode
from shared.plugins import PluginFailed, PluginResult, PluginStopped, PluginSucceeded, StepContext

MAX_REDIRECTS = 5
DEFAULT_MAX_BYTES = 16 << 20
RETRYABLE_STATUS = frozenset({408, 425, 429})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_HEADERS = frozenset(
    {"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Set by the plugin: by hand they could make one request look like two."""
KEPT_ACROSS_HOSTS = frozenset(
    {"accept", "accept-encoding", "accept-language", "content-type", "idempotency-key", "user-agent"}
)
"""All that another host gets to see. Any other header may be a credential."""
ONE_STATUS: JsonObject = {"type": "integer", "minimum": 100, "maximum": 599}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """A request as it is about to be sent."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    body: bytes | None


class HttpPlugin:
    """Send one request, follow a few redirects, and record status, body and chosen headers."""

    name: ClassVar[str] = "http"
    version: ClassVar[str] = "1.0.0"
    schema: ClassVar[JsonObject] = {
        "type": "object",
        "properties": {
            "url": {"type": "string", "minLength": 1, "maxLength": 8192},
            "method": {"enum": ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]},
            "headers": {
                "type": "object",
                "propertyNames": {"pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"},
                "additionalProperties": {"type": "string", "pattern": "^[^\\r\\n\\u0000]*$"},
            },
            "json": {},
            "body": {"type": "string"},
            "expectStatus": {"anyOf": [ONE_STATUS, {"type": "array", "items": ONE_STATUS, "minItems": 1}]},
            "followRedirects": {"type": "boolean"},
            "maxBytes": {"type": "integer", "minimum": 0},
            "captureHeaders": {"type": "array", "items": {"type": "string", "minLength": 1}},
        },
        "required": ["url"],
        "not": {"required": ["json", "body"]},
        "additionalProperties": False,
    }
    needs_network: ClassVar[bool] = True
    retryable: ClassVar[str] = (
        "Answers 408, 425, 429 and 5xx, failed connections and look-ups, and time-outs are; other answers "
        "that were not expected, addresses that are not allowed and certificates that do not hold are not."
    )

    def run(self, params: JsonObject, context: StepContext) -> PluginResult:
        backend = GuardedBackend(allow_list(context.limits.http_allow), context.stop)
        transport = _Transport(backend)
        try:
            result = _follow(_first_exchange(params, context), params, transport, context)
        except (HttpRefused, AddressForbidden) as error:
            result = (
                error.failure if isinstance(error, HttpRefused) else _failure(str(error), retryable=False)
            )
        except ssl.SSLCertVerificationError as error:
            result = _failure(
                f"the server's certificate does not hold: {error.verify_message}", retryable=False
            )
        except (httpcore.NetworkError, httpcore.RemoteProtocolError, httpcore.TimeoutException) as error:
            result = _failure(f"the exchange with the server failed: {error}", retryable=True)
        except (httpcore.LocalProtocolError, httpcore.UnsupportedProtocol) as error:
            result = _failure(f"the request cannot be sent: {error}", retryable=False)
        finally:
            transport.close()
            backend.close()
        # A connection that a stop has shut down can look like a body that is complete.
        return result if context.stop.reason is None else PluginStopped()


class _Transport:
    """Requests and answers of httpx over a pool of httpcore, which can be given our own network."""

    def __init__(self, backend: GuardedBackend) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=_tls(), max_connections=1, network_backend=backend)

    def send(self, exchange: _Exchange) -> httpx.Response:
        request = httpx.Request(
            exchange.method, exchange.url, headers=exchange.headers, content=exchange.body
        )
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.read(),
            )
        )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Stream(response), request=request
        )

    def close(self) -> None:
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@cache
def _tls() -> ssl.SSLContext:
    # Reading the authorities takes longer than most exchanges, so it is done once.
    return httpx.create_ssl_context()


def _first_exchange(params: JsonObject, context: StepContext) -> _Exchange:
    method = str(params.get("method", "GET"))
    headers = {
        "user-agent": "orchestrator-http/1",
        "accept": "*/*",
        "accept-encoding": "gzip",
        "traceparent": context.traceparent,
    }
    if method not in SAFE_METHODS:
        # The same for every attempt: a server that knows the header does the work once.
        headers["idempotency-key"] = f"{context.run_id}/{context.step_id}"
    body: bytes | None = None
    if "json" in params:
        body = json.dumps(params["json"], ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers["content-type"] = "application/json"
    elif "body" in params:
        body = str(params["body"]).encode()
    own = {name.lower() for name in _object(params.get("headers"))}
    if context.tracestate and "traceparent" not in own:
        headers["tracestate"] = context.tracestate
    for name, value in _object(params.get("headers")).items():
        if name.lower() in OWN_HEADERS:
            raise HttpRefused(f"the header {name!r} is set by the plugin itself")
        headers[name.lower()] = str(value)
    return _Exchange(method=method, url=_checked(str(params["url"])), headers=headers, body=body)


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise HttpRefused(f"the URL is malformed: {error}") from error
    return _check(url)


def _check(url: httpx.URL) -> httpx.URL:
    if url.scheme not in ("http", "https") or not url.host:
        raise HttpRefused("a URL must begin with http:// or https:// and name a host")
    if url.userinfo:
        raise HttpRefused("a URL must not carry a user name or password; send them in a header")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise HttpRefused(f"{url.port} is no port")
    return url


def _follow(
    exchange: _Exchange, params: JsonObject, transport: _Transport, context: StepContext
) -> PluginResult:
    expected = _expected(params)
    for _ in range(MAX_REDIRECTS + 1):
        response = transport.send(exchange)
        try:
            redirected = response.has_redirect_location and response.status_code not in expected
            if not redirected or params.get("followRedirects") is False:
                return _judge(exchange, response, expected, params, context)
        finally:
            response.close()
        exchange = _redirected(exchange, response)
        context.log.line(f"redirected ({response.status_code}) to {_shown(exchange.url)}")
    raise HttpRefused(f"more than {MAX_REDIRECTS} redirects", ErrorCode.HTTP_STATUS)


def _redirected(exchange: _Exchange, response: httpx.Response) -> _Exchange:
    """Make the request that a redirect asks for, without what only the first host may see."""
    try:
        url = exchange.url.join(response.headers["location"])
    except httpx.InvalidURL as error:
        raise HttpRefused(f"the server redirects to a malformed URL: {error}") from error
    _check(url)
    if exchange.url.scheme == "https" and url.scheme == "http":
        raise HttpRefused("the server redirects from https to http")
    headers = dict(exchange.headers)
    if (url.scheme, url.host, url.port) != (exchange.url.scheme, exchange.url.host, exchange.url.port):
        headers = {name: value for name, value in headers.items() if name in KEPT_ACROSS_HOSTS}
    status, method = response.status_code, exchange.method
    if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
        headers = {n: v for n, v in headers.items() if n not in ("content-type", "idempotency-key")}
        return _Exchange(method="GET", url=url, headers=headers, body=None)
    return replace(exchange, url=url, headers=headers)


def _judge(
    exchange: _Exchange,
    response: httpx.Response,
    expected: frozenset[int],
    params: JsonObject,
    context: StepContext,
) -> PluginResult:
    status = response.status_code
    wanted_bytes = params.get("maxBytes", DEFAULT_MAX_BYTES)
    assert isinstance(wanted_bytes, int | float)
    body = read_body(response, min(int(wanted_bytes), context.limits.max_artifact_bytes), context)
    if context.stop.reason is not None:
        return PluginStopped()
    artifact = body.store(context)
    if status not in expected:
        text = (body.text() or "").strip()[:300]
        message = f"{exchange.method} {_shown(exchange.url)} answered {status}" + (
            f": {text}" if text else ""
        )
        return PluginFailed(
            error_code=ErrorCode.HTTP_STATUS,
            message=message,
            retryable=status >= 500 or status in RETRYABLE_STATUS,
            artifacts=(artifact,),
        )
    outputs: dict[str, Json] = {
        "status": status,
        "contentType": body.content_type,
        "bodyHash": artifact.sha256,
        **body.inline(),
    }
    wanted = [str(name).lower() for name in _list(params.get("captureHeaders"))]
    if wanted:
        outputs["headers"] = {name: response.headers[name] for name in wanted if name in response.headers}
    return PluginSucceeded(outputs=outputs, artifacts=(artifact,))


def _expected(params: JsonObject) -> frozenset[int]:
    given = params.get("expectStatus")
    statuses = given if isinstance(given, list) else [given] if given is not None else range(200, 300)
    return frozenset(int(status) for status in statuses if isinstance(status, int | float))


def _failure(message: str, *, retryable: bool) -> PluginFailed:
    return PluginFailed(error_code=ErrorCode.PLUGIN_ERROR, message=message, retryable=retryable)


def _shown(url: httpx.URL) -> str:
    """Give a URL for people to read: a query can hold a secret."""
    return str(url.copy_with(query=None, fragment=None))


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
