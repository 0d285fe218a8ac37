"""Which refusals a call may meet: what its kind implies, and what its operation adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from orchestrator_api import errors as api_errors
from orchestrator_api.errors import MEANINGS
from orchestrator_api.openapi import headers
from orchestrator_api.openapi.operation import JSON, Operation
from orchestrator_api.routes import Route
from shared import errors
from shared.domain.models import Json, JsonObject
from shared.errors import OrchestratorError

Kinds = tuple[type[OrchestratorError], ...]

_OF_EVERY_CALL: Final[Kinds] = (
    errors.InvalidArgument,
    errors.Unauthenticated,
    errors.TenantRequired,
    errors.TenantForbidden,
    errors.InsufficientScope,
    errors.RateLimited,
    errors.OrchestratorError,
    errors.Unavailable,
)
_OF_A_BODY: Final[Kinds] = (
    api_errors.InvalidJson,
    api_errors.BodyTooLarge,
    api_errors.UnsupportedMediaType,
    errors.InvalidInput,
)
_OF_A_KEY: Final[Kinds] = (
    errors.IdempotencyKeyRequired,
    errors.IdempotencyInProgress,
    errors.IdempotencyKeyReused,
)
_RETRY_LATER: Final = "Retry-After"
_OF_THE_SERVER: Final[Mapping[int, str]] = MappingProxyType(
    {414: "The path with the query is too long.", 431: "A header is too long, or there are too many."}
)
"""Refusals before the application: the request could not be read."""


def responses(route: Route, operation: Operation) -> dict[str, JsonObject]:
    """Write the response of each status that a refusal of this call may have and its answers do not."""
    words: dict[int, dict[str, str]] = {}
    for kind in _kinds(route, operation):
        meaning = MEANINGS[kind]
        if meaning.status not in operation.answers:
            words.setdefault(meaning.status, {}).setdefault(meaning.code, _words(kind))
    return {
        **{str(status): _response(status, codes) for status, codes in sorted(words.items())},
        **{str(status): _by_the_server(text) for status, text in _OF_THE_SERVER.items()},
    }


def _kinds(route: Route, operation: Operation) -> Iterator[type[OrchestratorError]]:
    yield from _OF_EVERY_CALL
    yield from operation.errors
    if not route.any_type:
        yield api_errors.NotAcceptable
    if "<" in route.path:
        # A path part that holds a slash or a colon leads to no route.
        yield errors.NotFound
    if "page_token" in route.query:
        yield errors.InvalidPageToken
    if operation.request is not None:
        yield from _OF_A_BODY
    if route.action is not None:
        yield from _OF_A_KEY


def _words(kind: type[OrchestratorError]) -> str:
    """Say what an error means by the first line that its class says of itself."""
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0]


def _response(status: int, codes: dict[str, str]) -> JsonObject:
    names: Json = sorted(codes)
    return {
        "description": "\n".join(f"- `{code}`: {codes[code]}" for code in sorted(codes)),
        "headers": headers.of_response(*_headers(status)),
        "content": {
            JSON: {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Refusal"},
                        {"properties": {"error": {"properties": {"code": {"enum": names}}}}},
                    ]
                }
            }
        },
    }


def _by_the_server(text: str) -> JsonObject:
    refusal = _response(0, {"INVALID_ARGUMENT": text})
    return {**refusal, "headers": headers.of_server()}


def _headers(status: int) -> Iterator[str]:
    if status == 401:
        yield "WWW-Authenticate"
    if status in (429, 503):
        yield _RETRY_LATER
