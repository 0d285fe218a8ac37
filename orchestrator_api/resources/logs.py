"""The log of a step: stored once an attempt has ended, shown while it runs, followed to the step's end."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Response, request

from orchestrator_api import query
from orchestrator_api.context import principal, tenant
from orchestrator_api.log_follower import LogFollower, Sources, Subject, hung_up
from orchestrator_api.parts import parts
from orchestrator_api.stored import stored
from shared.domain.states import AttemptStatus
from shared.errors import ArtifactNotFound, QueueUnavailable
from shared.messaging.live_log import START, LogKey
from shared.services import artifacts, logs
from shared.services.logs import Log

TEXT = "text/plain; charset=utf-8"


def get(run_id: str, step_id: str) -> Response:
    """Give the log of an attempt, the newest one if none is named; with ``follow`` until the step ends."""
    of = Subject(
        tenant=tenant(),
        run_id=query.run_id("runId", run_id),
        step_id=query.step_id("stepId", step_id),
        attempt=query.optional(request.args, "attempt", query.attempt),
    )
    follow = query.optional(request.args, "follow", query.flag)
    log = logs.get(parts().db, of.tenant, of.run_id, of.step_id, of.attempt)
    if of.attempt is not None and log.attempt is None:
        raise ArtifactNotFound(f"step {of.step_id} has no attempt {of.attempt}")
    if follow and not _is_whole(log, of):
        return _followed(of)
    if log.stored_as is not None:
        return stored(artifacts.owned(parts().db, of.tenant, log.stored_as))
    return Response(_so_far(log, of), content_type=TEXT)


def _is_whole(log: Log, of: Subject) -> bool:
    """Tell whether nothing can be added any more."""
    if of.attempt is not None:
        return log.status is not AttemptStatus.RUNNING
    return log.step_status.is_terminal


def _so_far(log: Log, of: Subject) -> bytes:
    """Give what can be seen of a running attempt's log; nothing while Redis is away."""
    text, after = bytearray(), START
    if log.status is not AttemptStatus.RUNNING or log.attempt is None:
        return b""
    key = LogKey(of.tenant, of.run_id, log.step_no, log.attempt)
    try:
        pieces, after = parts().live_logs.read(key, after)
        while pieces:
            for piece in pieces:
                text += piece.beyond(len(text))
            pieces, after = parts().live_logs.read(key, after)
    except QueueUnavailable:
        pass  # What has been read is true, and nobody is promised the newest line.
    return bytes(text)


def _followed(of: Subject) -> Response:
    response = Response(iter(()), content_type=TEXT)
    if request.method == "HEAD":
        return response
    followers = parts().followers
    sources = Sources(db=parts().db, live=parts().live_logs, artifacts=parts().artifacts)
    follower = LogFollower(of, sources, interrupted=_interruption())
    followers.enter()
    response.call_on_close(followers.leave)
    response.response = follower.text()
    return response


def _interruption() -> Callable[[], str | None]:
    """Make a function that says why a follower of this request must end now, if it must."""
    followers, gone, expires_at = parts().followers, hung_up(request.environ), principal().expires_at

    def why() -> str | None:
        if followers.closing:
            return "this server stops"
        if expires_at <= time.time():
            return "the token has expired"
        return "the client has gone" if gone() else None

    return why
