"""What a tenant may have: its weight, and how many of its steps may wait or run."""

from __future__ import annotations

from flask import Response

from orchestrator_api import render
from orchestrator_api.context import tenant
from orchestrator_api.idempotency import Call
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from orchestrator_api.schemas.limits import limits_and_reason
from shared.services import limits


def get() -> Response:
    """Give the limits of the caller's tenant."""
    return answer(render.limits(limits.get(parts().db, tenant())))


def put(call: Call) -> Response:
    """Set all limits of a tenant, and have dispatched at once what a higher one lets go."""
    wanted, call.reason = limits_and_reason(call.body)
    limits.put(call.db, tenant(), wanted)
    call.after_commit.append(lambda: parts().dispatcher.steps_ready(tenant(), parts().pools))
    return answer(render.limits(wanted))
