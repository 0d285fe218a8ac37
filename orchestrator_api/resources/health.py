"""Whether the installation can do its work, and, for those who may know, how much of it waits."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from orchestrator_api import errors, render
from orchestrator_api.context import caller
from orchestrator_api.parts import Parts, parts
from orchestrator_api.responses import answer
from shared.errors import QueueUnavailable, StoreUnavailable
from shared.services import health as ledger


def health() -> Response:
    """Tell what is up; 503 if anything is down. With a token, also the queues of the caller's tenant."""
    checks = {name: "ok" if is_up(parts()) else "down" for name, is_up in _CHECKS.items()}
    body: dict[str, object] = {"status": "ok", "checks": checks}
    known = caller()
    if known is not None and checks["postgres"] == "ok":
        db = parts().db_of_all if known.tenant is None else parts().db
        body["queues"] = [render.queue(queue) for queue in ledger.queues(db, known.tenant)]
    down = [name for name, state in checks.items() if state != "ok"]
    if down:
        return errors.unavailable(f"down: {', '.join(down)}", {**body, "status": "unavailable"})
    return answer(body)


def _postgres_is_up(of: Parts) -> bool:
    try:
        ledger.ping(of.db)
    except StoreUnavailable:
        return False
    return True


def _redis_is_up(of: Parts) -> bool:
    try:
        of.ping_queue()
    except QueueUnavailable:
        return False
    return True


def _workers_are_up(of: Parts) -> bool:
    """Tell whether any worker has been heard of lately. Unknown, and so not up, while PostgreSQL is away."""
    try:
        return ledger.live_workers(of.db) > 0
    except StoreUnavailable:
        return False


_CHECKS: dict[str, Callable[[Parts], bool]] = {
    "postgres": _postgres_is_up,
    "redis": _redis_is_up,
    "workers": _workers_are_up,
}
