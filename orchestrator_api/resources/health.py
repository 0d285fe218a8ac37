"""Whether the installation can do its work, and, for those who may know, how much of it waits."""

from __future__ import annotations

from flask import Response

from orchestrator_api import errors, render
from orchestrator_api.context import caller
from orchestrator_api.parts import Parts, parts
from orchestrator_api.responses import answer
from shared.domain.models import TenantId
from shared.errors import QueueUnavailable, StoreUnavailable
from shared.services import incidents
from shared.services.health import live_sweepers, set_aside


def health() -> Response:
    """Tell what is up; 503 if anything is down. With a token, also what waits and what goes wrong."""
    postgres, workers = _postgres_and_workers(parts())
    details: dict[str, object] = {}
    known = caller()
    if known is not None and postgres:
        try:
            details = _details(parts(), known.tenant)
        except StoreUnavailable:
            postgres = False  # It answered a moment ago, and does not now.
    up = {"postgres": postgres, "redis": _redis_is_up(parts()), "workers": workers}
    checks = {name: "ok" if is_up else "down" for name, is_up in up.items()}
    body: dict[str, object] = {"status": "ok", "checks": checks, **details}
    down = [name for name, is_up in up.items() if not is_up]
    if down:
        return errors.unavailable(f"down: {', '.join(down)}", {**body, "status": "unavailable"})
    return answer(body)


def _details(of: Parts, tenant: TenantId | None) -> dict[str, object]:
    """Tell a tenant what concerns it, and an operator all."""
    db = of.db_of_all if tenant is None else of.db
    details: dict[str, object] = {
        "queues": [render.queue(queue) for queue in of.queue_counts.of(db, tenant)],
        "sweeper": render.sweeper(live_sweepers(db, tenant)),
        "setAside": [render.set_aside(row) for row in set_aside(db, tenant)],
    }
    if tenant is None:
        details["incidents"] = [render.incident(incident) for incident in incidents.list_all(db)]
    return details


def _postgres_and_workers(of: Parts) -> tuple[bool, bool]:
    """Tell whether PostgreSQL answers, and whether any worker was heard of lately; unknown without it."""
    try:
        return True, of.count_workers() > 0
    except StoreUnavailable:
        return False, False


def _redis_is_up(of: Parts) -> bool:
    try:
        of.ping_queue()
    except QueueUnavailable:
        return False
    return True
