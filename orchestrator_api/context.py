"""What is known about the request that is being served: its trace and its caller."""

from __future__ import annotations

from typing import cast

from flask import g

from orchestrator_api.auth import Caller, Principal
from orchestrator_api.rate_limit import Standing
from orchestrator_api.trace import RequestTrace
from shared.domain.models import TenantId

PREFIX = "/api/v1/orchestrator"
"""What every path of the API begins with."""


def begin(trace: RequestTrace) -> None:
    """Put the request under ``trace``; nothing more is known of it yet."""
    g.trace = trace
    g.principal = None
    g.caller = None
    g.standing = None
    g.audited = False


def identify(principal: Principal) -> None:
    """Record whose token came with this request, whatever it may turn out to allow."""
    g.principal = principal


def principal() -> Principal:
    """Give whose token came with this request."""
    known = cast("Principal | None", g.principal)
    if known is None:
        raise LookupError("the request is anonymous")
    return known


def limit(standing: Standing) -> None:
    """Record how the caller stands at the rate limits."""
    g.standing = standing


def standing() -> Standing | None:
    """Give how the caller stands at the rate limits; ``None`` for an anonymous one."""
    return cast("Standing | None", g.standing)


def tenant_to_blame() -> TenantId | None:
    """Give the tenant in whose audit trail a refusal of this request belongs.

    That is the tenant it acts for or, where it may not act for the one it named, the
    first of its token's own. ``None``: nobody is known to have made it.
    """
    who, known = cast("Principal | None", g.principal), caller()
    if who is None:
        return None
    if known is not None and known.tenant is not None:
        return known.tenant
    return min(who.tenants, default=None)


def audited() -> None:
    """Record that the audit trail has its line of this request."""
    g.audited = True


def is_audited() -> bool:
    """Tell whether the audit trail has its line of this request."""
    return bool(g.audited)


def trace() -> RequestTrace:
    """Give where this request stands in its trace."""
    return cast(RequestTrace, g.trace)


def trace_id() -> str:
    """Give the trace id of this request."""
    return trace().here.trace_id


def admit(caller: Caller | None) -> None:
    """Record who makes this request; ``None`` for an anonymous one."""
    g.caller = caller


def common_headers() -> dict[str, str]:
    """Give the headers that every answer has."""
    headers = {"X-Trace-Id": trace_id(), "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    known = standing()
    if known is not None:
        headers["X-RateLimit-Limit"] = str(known.limit)
        headers["X-RateLimit-Remaining"] = str(known.remaining)
        headers["X-RateLimit-Reset"] = str(known.reset)
    return headers


def caller() -> Caller | None:
    """Give who makes this request; ``None`` on a public route called without a token."""
    return cast("Caller | None", g.caller)


def sender() -> str | None:
    """Give the name of whose token came with this request, if one did."""
    who = cast("Principal | None", g.principal)
    return None if who is None else who.subject


def subject() -> str:
    """Give the name of the caller, for the ledger."""
    return _known_caller().subject


def tenant() -> TenantId:
    """Give the one tenant that this request acts for."""
    of = _known_caller().tenant
    if of is None:
        raise LookupError("the request is for all tenants: this route must not allow that")
    return of


def _known_caller() -> Caller:
    known = caller()
    if known is None:
        raise LookupError("the request is anonymous: this route must not be public")
    return known
