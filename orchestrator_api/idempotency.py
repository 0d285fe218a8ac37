"""Calls that change something: once under their idempotency key, and each in the audit trail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
from flask import Response, request

from orchestrator_api import context, errors, json_body
from orchestrator_api.parts import parts
from shared.domain.models import AuditEntry, AuditOutcome, Json, Sha256
from shared.errors import IdempotencyKeyRequired, InvalidArgument, OrchestratorError, Problem
from shared.ids import uuid7
from shared.services import calls
from shared.services.calls import CallKey, Kept
from shared.store.db import Transactions

KEY_HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"

KEY_PATTERN = "[!-~]{1,255}"
_KEY = re.compile(KEY_PATTERN)
_KEPT_HEADERS = ("Content-Type", "ETag", "Location")
_MAX_OBJECT_CHARS = 512
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(slots=True, kw_only=True)
class Call:
    """A call that changes something, as its handler sees it.

    Verbs run in ``db``, the open transaction of the call. The handler may say more
    exactly what was changed (``about``, a path below the prefix of the API) and why.
    """

    db: Transactions
    body: Json
    body_bytes: int
    about: str
    reason: str | None = None
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    """What is to be done once the change is committed, and never if it is not."""


def changing(action: str, view: Callable[..., Response]) -> Callable[..., Response]:
    """Make the handler ``view`` of a call that changes something into one that is served once."""

    def serve(**path: str) -> Response:
        call = CallKey(key=_key(), method=request.method, path=_writable(request.path))
        body, size = json_body.receive(request)
        fingerprint = _fingerprint(body)
        after_commit: list[Callable[[], None]] = []
        with calls.once(parts().db, context.tenant(), call, fingerprint) as once:
            if once.kept is not None:
                response = _again(once.kept)
                once.note(_entry(action, _object(), None, response, AuditOutcome.REPLAYED))
            else:
                now = Call(
                    db=once.effect, body=body, body_bytes=size, about=_object(), after_commit=after_commit
                )
                response, outcome = _served(lambda: view(now, **path), once.effect.undo)
                entry = _entry(action, now.about, now.reason, response, outcome)
                once.finish(_kept(response, fingerprint), entry)
        context.audited()
        for follow in after_commit:
            follow()
        return response

    return serve


def note_refusal(action: str, response: Response) -> None:
    """Put a call into the audit trail that was refused before its handler; raises StoreUnavailable."""
    tenant = context.tenant_to_blame()
    if tenant is not None:
        calls.note(parts().db, tenant, _entry(action, _object(), None, response, AuditOutcome.REFUSED))


def accepted(action: str, status: int) -> AuditEntry:
    """Describe a call for the audit trail that needs no key, and is being served."""
    return _entry(action, _object(), None, Response(status=status), AuditOutcome.ACCEPTED)


def _key() -> str:
    key = request.headers.get(KEY_HEADER)
    if not key:
        raise IdempotencyKeyRequired(f"send the header {KEY_HEADER}: the same call again has the same one")
    if _KEY.fullmatch(key) is None:
        message = "must be 1 to 255 visible ASCII characters"
        raise InvalidArgument(f"{KEY_HEADER} {message}", [Problem(KEY_HEADER, message)])
    return key


def _fingerprint(body: Json) -> Sha256:
    """Hash what was sent, whatever the order of members and the white space between them."""
    return Sha256(hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest())


def _served(view: Callable[[], Response], undo: Callable[[], None]) -> tuple[Response, AuditOutcome]:
    """Call the handler; a refusal is an answer like another, of which nothing but the answer is kept."""
    try:
        return view(), AuditOutcome.ACCEPTED
    except OrchestratorError as error:
        if not errors.is_settled(error):
            raise
        undo()
        return errors.refusal(error), AuditOutcome.REFUSED


def _kept(response: Response, fingerprint: Sha256) -> Kept:
    return Kept(
        fingerprint=fingerprint,
        status=response.status_code,
        headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
        body=response.get_data(as_text=True),
    )


def _again(kept: Kept) -> Response:
    response = Response(kept.body, status=kept.status, headers=dict(kept.headers))
    response.headers[REPLAYED_HEADER] = "true"
    return response


def _entry(
    action: str, about: str, reason: str | None, response: Response, outcome: AuditOutcome
) -> AuditEntry:
    return AuditEntry(
        audit_id=uuid7(),
        at_utc=datetime.now(UTC),
        subject=context.principal().subject,
        action=action,
        object=about,
        reason=reason,
        trace_id=context.trace_id(),
        outcome=outcome,
        status=response.status_code,
        code=errors.code_of(response),
    )


def _object() -> str:
    """Name what a call is about by its path below the prefix."""
    return _writable(request.path.removeprefix(context.PREFIX))[:_MAX_OBJECT_CHARS]


def _writable(path: str) -> str:
    """Give a path as text that PostgreSQL can hold and a log can show; one that is changed names nothing."""
    return _UNWRITABLE.sub("\ufffd", path)
