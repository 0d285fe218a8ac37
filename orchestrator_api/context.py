"""What a request has at hand: the parts of the process it runs in, its caller, its trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from orchestrator_api.auth import Caller, TokenVerifier
from orchestrator_api.paging import PageTokens
from orchestrator_api.trace import Trace
from shared.artifacts import ArtifactStore
from shared.domain.models import Change, RunId, TenantId
from shared.messaging.dispatcher import Dispatcher
from shared.plugins import Catalog
from shared.store.db import Database

_EXTENSION = "orchestrator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an API process is put together from. ``ping_queue`` raises QueueUnavailable."""

    db: Database
    dispatcher: Dispatcher
    ping_queue: Callable[[], None]
    catalog: Catalog
    artifacts: ArtifactStore
    tokens: TokenVerifier
    page_tokens: PageTokens
    pools: frozenset[str]

    def follow(self, tenant: TenantId, run_id: RunId, change: Change) -> None:
        """Have done what a committed change asks for. Returns at once, also while Redis is away.

        Called after the commit only: a message that runs ahead of its transaction
        rings for a step that nobody can claim yet.
        """
        if change.ready_pools:
            self.dispatcher.steps_ready(tenant, change.ready_pools)
        if change.undecided:
            self.dispatcher.undecided(tenant, run_id)


def attach(parts: Parts) -> dict[str, object]:
    """Make the entry of ``app.extensions`` that ``parts()`` reads."""
    return {_EXTENSION: parts}


def parts() -> Parts:
    """Give the parts of the process that serves this request."""
    return cast(Parts, current_app.extensions[_EXTENSION])


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
