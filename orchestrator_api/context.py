"""What is known about the request that is being served: its trace and its caller."""

from __future__ import annotations

from typing import cast

from flask import g

from orchestrator_api.auth import Caller
from orchestrator_api.trace import Trace
from shared.domain.models import TenantId


def begin(trace: Trace) -> None:
    """Put the request under ``trace``."""
    g.trace = trace


def trace_id() -> str:
    """Give the trace id of this request."""
    return cast(Trace, g.trace).trace_id


def admit(caller: Caller | None) -> None:
    """Record who makes this request; ``None`` for an anonymous one."""
    g.caller = caller


def caller() -> Caller | None:
    """Give who makes this request; ``None`` on a public route called without a token."""
    return cast("Caller | None", g.caller)


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
