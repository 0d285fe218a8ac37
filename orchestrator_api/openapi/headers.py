"""The headers of requests and responses, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from orchestrator_api import idempotency
from orchestrator_api.auth import TENANT_HEADER, TENANT_PATTERN
from orchestrator_api.schemas.patterns import exactly
from shared.domain.event_stream import CURSOR_PATTERN
from shared.domain.models import Json, JsonObject

REQUEST: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        TENANT_HEADER: {
            "description": "The tenant that the call acts for: one of the token's.",
            "schema": {"type": "string", "pattern": exactly(TENANT_PATTERN)},
            "example": "my-team",
        },
        "traceparent": {
            "description": "W3C Trace Context: the trace that the call continues. An invalid one is ignored.",
            "schema": {"type": "string"},
            "example": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        },
        idempotency.KEY_HEADER: {
            "description": "Names the call for 24 hours. The same call again, with the same key and the same "
            "body, is answered as the first one was, and changes nothing.",
            "schema": {"type": "string", "pattern": exactly(idempotency.KEY_PATTERN)},
            "example": "deploy-2026-11-21-7",
        },
        "If-None-Match": {
            "description": "The ETag of what the caller has: unchanged, it is answered with 304.",
            "schema": {"type": "string"},
        },
        "Range": {
            "description": "The part that is wanted, in bytes. More than one range is answered in full.",
            "schema": {"type": "string"},
            "example": "bytes=0-1023",
        },
    }
)

RESPONSE: Final[Mapping[str, JsonObject]] = MappingProxyType(
    {
        "X-Trace-Id": {
            "description": "The trace of this call, to name when asking about it.",
            "required": True,
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        },
        "Cache-Control": {
            "description": "What may be kept, and by whom.",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        },
        "X-Content-Type-Options": {
            "description": "The content type is to be taken at its word.",
            "required": True,
            "schema": {"const": "nosniff"},
        },
        "X-RateLimit-Limit": {
            "description": "Calls a minute that the tenant may make. Absent while nobody is known to call.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "X-RateLimit-Remaining": {
            "description": "Calls that are left of them.",
            "schema": {"type": "integer", "minimum": 0},
        },
        "X-RateLimit-Reset": {
            "description": "When they are all there again, in seconds since 1970 (UTC).",
            "schema": {"type": "integer", "minimum": 1},
        },
        "Location": {
            "description": "Where what was made can be read.",
            "required": True,
            "schema": {"type": "string", "format": "uri-reference", "pattern": "^/"},
        },
        "ETag": {
            "description": "Stands for the content: another content has another one.",
            "required": True,
            "schema": {"type": "string", "pattern": '^"[!#-~]+"$'},
        },
        "X-Stream-Cursor": {
            "description": "Where the stream begins: as `after` it goes on from there, also before any line.",
            "schema": {"type": "string", "pattern": exactly(CURSOR_PATTERN)},
        },
        "Vary": {
            "description": "By which headers of the request the answer differs.",
            "required": True,
            "schema": {"const": "Accept"},
        },
        "Accept-Ranges": {
            "description": "Parts can be asked for.",
            "required": True,
            "schema": {"const": "bytes"},
        },
        "Content-Range": {
            "description": "Which part this is, and of how much.",
            "required": True,
            "schema": {"type": "string", "pattern": r"^bytes (\*|[0-9]+-[0-9]+)/[0-9]+$"},
        },
        "Content-Security-Policy": {
            "description": "What a browser may do with the content.",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        },
        idempotency.REPLAYED_HEADER: {
            "description": "Present when this is the answer to an earlier call with the same key.",
            "schema": {"const": "true"},
        },
        "Retry-After": {
            "description": "Seconds to wait before trying again.",
            "required": True,
            "schema": {"type": "integer", "minimum": 0},
        },
        "WWW-Authenticate": {
            "description": "How to authenticate.",
            "required": True,
            "schema": {"const": "Bearer"},
        },
    }
)

ALWAYS: Final = (
    "X-Trace-Id",
    "Cache-Control",
    "X-Content-Type-Options",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
"""The headers of every response; those of the rate limit once the caller is known."""


def of_server() -> dict[str, Json]:
    """Write the headers of a refusal by the server, before the application."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Trace-Id", "Cache-Control")}


def of_response(*names: str) -> dict[str, Json]:
    """Write the headers of a response: those that all have, and ``names``."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*ALWAYS, *names)}
