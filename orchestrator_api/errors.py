"""What each error becomes on the wire. The only module that knows HTTP status codes of failures.

Every response that is not 2xx or 304 carries the same envelope, whoever refused
the request: the domain, this package, the router of Flask, or a bug.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import structlog
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from orchestrator_api.context import trace_id
from shared import errors
from shared.artifacts import ArtifactCorrupt
from shared.plugins import CatalogError

JSON_TYPE = "application/json; charset=utf-8"
MAX_DETAILS = 100
"""A body with more mistakes than this is told of the first ones and of the number of all."""
_MAX_DETAILS_BYTES = 12_000
_MAX_FIELD_CHARS = 256
_MAX_MESSAGE_CHARS = 300
"""With these no refusal is over 16 kB, whatever the caller's own names and texts in it."""


class InvalidJson(errors.InvalidArgument):
    """The body is not JSON as RFC 8259 and this API want it."""


class BodyTooLarge(errors.LimitExceeded):
    """The body is over the size limit."""


class UnsupportedMediaType(errors.OrchestratorError):
    """The body has a content type other than ``application/json``."""


class TooManyFollowers(errors.OrchestratorError):
    """As many callers follow a log already as this process can bear beside its other work."""


class TooManyStreams(errors.OrchestratorError):
    """As many streams are open already as this process can bear."""


class OriginForbidden(errors.Forbidden):
    """A page of a site that may not act for anybody here wants to open a stream."""


class NotAcceptable(errors.OrchestratorError):
    """The caller accepts none of the content types that this route answers with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """The status and code that a kind of error has on the wire."""

    status: int
    code: str
    retry_after_seconds: int | None = None


class Refusal(Response):
    """The answer to a request that was refused, or failed."""

    error_code: str


INTERNAL = Meaning(status=500, code="INTERNAL")

MEANINGS: Mapping[type[errors.OrchestratorError], Meaning] = MappingProxyType(
    {
        errors.OrchestratorError: INTERNAL,
        errors.InvalidInput: Meaning(status=422, code="VALIDATION_FAILED"),
        errors.InvalidArgument: Meaning(status=400, code="INVALID_ARGUMENT"),
        errors.IdempotencyKeyRequired: Meaning(status=400, code="IDEMPOTENCY_KEY_REQUIRED"),
        errors.InvalidPageToken: Meaning(status=400, code="INVALID_PAGE_TOKEN"),
        InvalidJson: Meaning(status=400, code="INVALID_JSON"),
        errors.InvalidInputs: Meaning(status=422, code="INPUTS_INVALID"),
        errors.IdempotencyKeyReused: Meaning(status=422, code="IDEMPOTENCY_KEY_REUSED"),
        errors.InvalidDag: Meaning(status=422, code="VALIDATION_FAILED"),
        errors.DagCycle: Meaning(status=422, code="DAG_CYCLE"),
        errors.UnknownStep: Meaning(status=422, code="VALIDATION_FAILED"),
        errors.DuplicateStep: Meaning(status=422, code="VALIDATION_FAILED"),
        errors.UnknownPlugin: Meaning(status=422, code="UNKNOWN_PLUGIN"),
        errors.SignatureRequired: Meaning(status=422, code="SIGNATURE_REQUIRED"),
        errors.SignatureInvalid: Meaning(status=422, code="SIGNATURE_INVALID"),
        errors.Unauthenticated: Meaning(status=401, code="UNAUTHENTICATED"),
        errors.Forbidden: Meaning(status=403, code="INSUFFICIENT_SCOPE"),
        errors.TenantRequired: Meaning(status=403, code="TENANT_REQUIRED"),
        errors.TenantForbidden: Meaning(status=403, code="TENANT_FORBIDDEN"),
        errors.InsufficientScope: Meaning(status=403, code="INSUFFICIENT_SCOPE"),
        OriginForbidden: Meaning(status=403, code="TENANT_FORBIDDEN"),
        errors.OperatorOnly: Meaning(status=403, code="INSUFFICIENT_SCOPE"),
        errors.NotFound: Meaning(status=404, code="NOT_FOUND"),
        errors.DagNotFound: Meaning(status=404, code="DAG_NOT_FOUND"),
        errors.RunNotFound: Meaning(status=404, code="RUN_NOT_FOUND"),
        errors.StepNotFound: Meaning(status=404, code="STEP_NOT_FOUND"),
        errors.ArtifactNotFound: Meaning(status=404, code="ARTIFACT_NOT_FOUND"),
        NotAcceptable: Meaning(status=406, code="NOT_ACCEPTABLE"),
        errors.DagVersionConflict: Meaning(status=409, code="DAG_VERSION_CONFLICT"),
        errors.DagDisabled: Meaning(status=409, code="DAG_DISABLED"),
        errors.RunTokenConflict: Meaning(status=409, code="RUN_TOKEN_CONFLICT"),
        errors.RunAlreadyFinished: Meaning(status=409, code="RUN_ALREADY_FINISHED"),
        errors.IdempotencyInProgress: Meaning(
            status=409, code="IDEMPOTENCY_IN_PROGRESS", retry_after_seconds=1
        ),
        # Only its kinds are raised: one without a code of its own is a bug.
        errors.Conflict: INTERNAL,
        ArtifactCorrupt: INTERNAL,
        CatalogError: INTERNAL,
        BodyTooLarge: Meaning(status=413, code="BODY_TOO_LARGE"),
        errors.InputsTooLarge: Meaning(status=413, code="INPUTS_TOO_LARGE"),
        errors.LimitExceeded: Meaning(status=429, code="RATE_LIMITED", retry_after_seconds=1),
        errors.RateLimited: Meaning(status=429, code="RATE_LIMITED", retry_after_seconds=60),
        errors.TenantStreamsExceeded: Meaning(status=429, code="RATE_LIMITED", retry_after_seconds=5),
        errors.TooManyQueuedSteps: Meaning(status=429, code="RATE_LIMITED", retry_after_seconds=1),
        UnsupportedMediaType: Meaning(status=415, code="UNSUPPORTED_MEDIA_TYPE"),
        TooManyFollowers: Meaning(status=503, code="UNAVAILABLE", retry_after_seconds=5),
        TooManyStreams: Meaning(status=503, code="UNAVAILABLE", retry_after_seconds=5),
        errors.Unavailable: Meaning(status=503, code="UNAVAILABLE", retry_after_seconds=1),
        errors.StoreUnavailable: Meaning(status=503, code="UNAVAILABLE", retry_after_seconds=1),
        errors.QueueUnavailable: Meaning(status=503, code="UNAVAILABLE", retry_after_seconds=1),
    }
)

_ROUTER_CODES: Mapping[int, tuple[str, str]] = MappingProxyType(
    {
        404: ("NOT_FOUND", "there is nothing at this path"),
        405: ("METHOD_NOT_ALLOWED", "this path does not take this method"),
        406: ("NOT_ACCEPTABLE", "this route does not answer with such a content type"),
        413: ("BODY_TOO_LARGE", "the body is too large"),
        415: ("UNSUPPORTED_MEDIA_TYPE", "send application/json"),
        416: ("INVALID_ARGUMENT", "the range lies outside of the artifact"),
    }
)

_KEPT_HEADERS = ("Allow", "Content-Range")
"""The headers of a refusal by the router or by Werkzeug that say something the envelope does not."""

_log = structlog.get_logger(__name__)


def meaning_of(kind: type[errors.OrchestratorError]) -> Meaning:
    """Find the meaning of an error's class, or of the nearest class it derives from."""
    return next(MEANINGS[base] for base in kind.__mro__ if base in MEANINGS)


def install(app: Flask) -> None:
    """Answer every failure of ``app`` with the envelope."""
    app.register_error_handler(errors.OrchestratorError, refusal)
    app.register_error_handler(HTTPException, _refuse_by_router)
    app.register_error_handler(Exception, _fail)


def unavailable(message: str, body: Mapping[str, object]) -> Response:
    """Answer 503 with the envelope beside the members of ``body``."""
    meaning = MEANINGS[errors.Unavailable]
    return _answer(meaning, {**body, **_envelope(meaning.code, message)})


def is_settled(error: errors.OrchestratorError) -> bool:
    """Tell whether the same call can only be answered the same way again: no failure, and no "try later"."""
    meaning = meaning_of(type(error))
    return meaning.status < 500 and meaning.retry_after_seconds is None


def code_of(response: Response) -> str | None:
    """Give the code of a refusal that was made here; ``None`` for a success."""
    return response.error_code if isinstance(response, Refusal) else None


def refusal(error: errors.OrchestratorError) -> Response:
    """Make the answer to a request that an error refuses."""
    meaning = meaning_of(type(error))
    if meaning is INTERNAL:
        return _fail(error)
    message = str(error)
    if isinstance(error, errors.Unavailable):
        _log.warning("out of reach", error=message)
        message = "a store is out of reach; try again"
    invalid = error if isinstance(error, errors.InvalidInput) else None
    response = _answer(meaning, _envelope(meaning.code, message, invalid))
    if isinstance(error, errors.Unauthenticated):
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.RateLimited):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _refuse_by_router(error: HTTPException) -> Response:
    """Translate a refusal by Flask or Werkzeug, whose own words and HTML are dropped."""
    status = error.code or 500
    if status >= 500:
        return _fail(error)
    code, message = _ROUTER_CODES.get(status, ("INVALID_ARGUMENT", "the request cannot be understood"))
    if code == "INVALID_ARGUMENT" and status != 416:
        status = 400
    response = _answer(Meaning(status=status, code=code), _envelope(code, message))
    for name, value in error.get_headers():
        if name in _KEPT_HEADERS:
            response.headers[name] = value
    if "Allow" in response.headers:
        # Werkzeug tells a set, in another order in each process.
        response.headers["Allow"] = ", ".join(sorted(response.headers["Allow"].split(", ")))
    return response


def _fail(error: Exception) -> Response:
    """Log a failure that nobody expected; tell the caller nothing but the trace to ask about."""
    _log.error("request failed", exc_info=error)
    return _answer(INTERNAL, _envelope(INTERNAL.code, "the request failed unexpectedly"))


def _envelope(code: str, message: str, invalid: errors.InvalidInput | None = None) -> dict[str, object]:
    error: dict[str, object] = {"code": code, "message": _cut(message, _MAX_MESSAGE_CHARS)}
    error["trace_id"] = trace_id()
    if invalid is not None and invalid.problems:
        details = _details(invalid.problems)
        error["details"] = details
        if len(details) < invalid.found:
            error["message"] = (
                f"{error['message']} (the first {len(details)} of {invalid.found} problems are listed)"
            )
    return {"error": error}


def _details(problems: Sequence[errors.Problem]) -> list[dict[str, str]]:
    """List the first problems, as many as an answer may hold."""
    details: list[dict[str, str]] = []
    left = _MAX_DETAILS_BYTES
    for problem in problems[:MAX_DETAILS]:
        detail = {
            "field": _cut(problem.field, _MAX_FIELD_CHARS),
            "message": _cut(problem.message, _MAX_MESSAGE_CHARS),
        }
        left -= len(json.dumps(detail))
        if left < 0:
            break
        details.append(detail)
    return details


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _answer(meaning: Meaning, body: Mapping[str, object]) -> Response:
    text = json.dumps(body, separators=(",", ":"))
    response = Refusal(text, status=meaning.status, content_type=JSON_TYPE)
    response.error_code = meaning.code
    if meaning.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(meaning.retry_after_seconds)
    return response
