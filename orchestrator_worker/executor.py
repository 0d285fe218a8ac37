"""Run one attempt of a step, from its claim to what is recorded of it."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import structlog

from orchestrator_worker.attempt_trace import plugin_span
from orchestrator_worker.log_feed import LogFeed
from orchestrator_worker.step_context import AttemptContext
from shared.artifacts import ArtifactStore
from shared.config import Settings
from shared.domain import expressions, hashing, retry
from shared.domain.models import (
    ArtifactRef,
    Claim,
    Failed,
    Json,
    JsonObject,
    Outcome,
    Released,
    Sha256,
    Stopped,
    Succeeded,
)
from shared.domain.states import ErrorCode
from shared.domain.trace import TraceContext
from shared.errors import Unavailable
from shared.plugins import (
    Catalog,
    Limits,
    PluginFailed,
    PluginResult,
    PluginStopped,
    PluginSucceeded,
    Stop,
    StopReason,
)
from shared.tracing import Tracer

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

MAX_MESSAGE = 2_000
SHORTAGES = frozenset({errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})
"""What the machine may have again a little later."""
NOT_IN_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A claim whose expressions are rendered and checked."""

    params: JsonObject
    inputs_hash: Sha256


def run_attempt(
    claim: Claim,
    *,
    catalog: Catalog,
    store: ArtifactStore,
    settings: Settings,
    stop: Stop,
    owns: Callable[[Sha256], bool],
    trace: TraceContext,
    feed: LogFeed | None = None,
    tracer: Tracer | None = None,
) -> Outcome:
    """Run the step's plugin once and say how it ended; a failure of the step is a value, never an exception.

    ``stop`` ends it early; the step's time-out is added to it here. ``owns`` tells whether
    the claim's tenant may read an artifact. ``feed`` shows the log while it grows. What the
    plugin does belongs to ``trace``. With the reason ``LEASE_LOST`` the outcome is
    ``Released`` and must not be recorded: the attempt is another worker's to settle.
    """
    prepared = _prepare(claim, catalog)
    if isinstance(prepared, PluginFailed):
        return _failed(claim, prepared, None, None)
    stop.limit_to(claim.timeout_ms / 1000)
    limits = Limits(
        kill_grace_seconds=settings.kill_grace_ms / 1000,
        max_outputs_bytes=settings.max_outputs_bytes,
        max_log_bytes=settings.max_log_bytes,
        max_artifact_bytes=settings.max_artifact_bytes,
        http_allow=settings.http_allow,
    )
    context = AttemptContext(
        claim, stop=stop, limits=limits, store=store, work_root=settings.work_dir, owns=owns, trace=trace
    )
    try:
        with (
            nullcontext() if feed is None else feed.showing(claim, context.log),
            plugin_span(tracer, claim, context),
        ):
            result = _run_plugin(claim, catalog, prepared.params, context)
    finally:
        _clean_up(claim, context)
    log, result = _keep_log(context, result)
    return _outcome(claim, result, prepared.inputs_hash, log, context)


def _prepare(claim: Claim, catalog: Catalog) -> _Prepared | PluginFailed:
    """Evaluate the step's expressions against what its ancestors left."""
    info = catalog.find(claim.uses)
    if info is None:
        # Another worker may have it: installations are upgraded one worker at a time.
        return _plugin_error(f"this worker has no plugin {claim.uses!r}", retryable=True)
    try:
        if claim.when is not None and not expressions.evaluate_when(
            claim.when, inputs=claim.inputs, ancestors=claim.ancestors
        ):
            return _expression_error("`when` is false, though it was true when the step was unlocked")
        params = expressions.render(claim.params, inputs=claim.inputs, ancestors=claim.ancestors)
        inputs_hash = hashing.hash_json({"digest": info.digest, "uses": claim.uses, "with": params})
    except expressions.ExpressionError as error:
        return _expression_error(str(error))
    except hashing.NotCanonical as error:
        return _expression_error(f"`with` cannot be recorded once it is rendered: {error}")
    problems = catalog.check_rendered(claim.uses, params)
    if problems:
        told = "; ".join(f"{problem.field or 'with'}: {problem.message}" for problem in problems)
        return _plugin_error(
            f"`with` breaks the plugin's schema once it is rendered: {told}", retryable=False
        )
    return _Prepared(params=params, inputs_hash=inputs_hash)


def _run_plugin(claim: Claim, catalog: Catalog, params: JsonObject, context: AttemptContext) -> PluginResult:
    plugin = catalog.plugin(claim.uses)
    assert plugin is not None  # _prepare has found it.
    if context.stop.reason is not None:
        return PluginStopped()
    try:
        return plugin.run(params, context)
    except Unavailable as error:
        return _plugin_error(str(error), retryable=True)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # Whatever a plugin raises is the step's failure.
        context.log.line(traceback.format_exc())
        short = isinstance(error, OSError) and error.errno in SHORTAGES
        return _plugin_error(f"{type(error).__name__}: {error}", retryable=short)


def _clean_up(claim: Claim, context: AttemptContext) -> None:
    try:
        context.close()
    except OSError as error:
        # The step's result stands. The sweep at the next start of a worker tries again.
        LOGGER.warning(
            "work_folder_not_removed",
            tenant=claim.tenant,
            run_id=str(claim.run_id),
            step_id=claim.step_id,
            error=error.strerror,
        )


def _keep_log(context: AttemptContext, result: PluginResult) -> tuple[ArtifactRef | None, PluginResult]:
    """Store the log. A result whose log cannot be stored is no result: the step must be tried again."""
    try:
        return context.keep_log(), result
    except Unavailable as error:
        if isinstance(result, PluginSucceeded):
            return None, _plugin_error(f"the log could not be stored: {error}", retryable=True)
        return None, result


def _outcome(
    claim: Claim,
    result: PluginResult,
    inputs_hash: Sha256,
    log: ArtifactRef | None,
    context: AttemptContext,
) -> Outcome:
    if not isinstance(result, PluginStopped):
        names = [artifact.name for artifact in result.artifacts]
        if len(set(names)) < len(names):
            result = _plugin_error("the plugin gave two artifacts the same name", retryable=False)
    if isinstance(result, PluginSucceeded):
        return _succeeded(claim, result, inputs_hash, log, context.limits)
    # A plugin that was stopped may report the failure that the stop has caused.
    logs_ref, artifacts = (log.sha256, (log,)) if log is not None else (None, ())
    match context.stop.reason:
        case StopReason.CANCELLED:
            return Stopped(logs_ref=logs_ref, artifacts=artifacts)
        case StopReason.RELEASED | StopReason.LEASE_LOST:
            return Released(logs_ref=logs_ref, artifacts=artifacts)
        case StopReason.TIMEOUT:
            result = PluginFailed(
                error_code=ErrorCode.TIMEOUT,
                message=f"the step was stopped after its time limit of {claim.timeout_ms} ms",
                retryable=True,
                artifacts=result.artifacts if isinstance(result, PluginFailed) else (),
            )
        case None if isinstance(result, PluginStopped):
            result = _plugin_error("the plugin stopped although nobody asked it to", retryable=False)
        case None:
            pass
    assert isinstance(result, PluginFailed)
    return _failed(claim, result, inputs_hash, log)


def _succeeded(
    claim: Claim, result: PluginSucceeded, inputs_hash: Sha256, log: ArtifactRef | None, limits: Limits
) -> Outcome:
    try:
        data = hashing.canonical(result.outputs)
    except hashing.NotCanonical as error:
        failure = _plugin_error(f"the outputs cannot be recorded: {error}", retryable=False)
        return _failed(claim, failure, inputs_hash, log)
    if len(data) > limits.max_outputs_bytes:
        failure = PluginFailed(
            error_code=ErrorCode.OUTPUTS_TOO_LARGE,
            message=f"the outputs have {len(data)} bytes, {limits.max_outputs_bytes} are allowed; "
            "large results belong into artifacts",
            retryable=False,
        )
        return _failed(claim, failure, inputs_hash, log)
    if b"\\u0000" in data and _has_nul(result.outputs):
        failure = _plugin_error("the outputs cannot be recorded: a text has a NUL character", retryable=False)
        return _failed(claim, failure, inputs_hash, log)
    return Succeeded(
        outputs=result.outputs,
        outputs_hash=hashing.hash_bytes(data),
        inputs_hash=inputs_hash,
        logs_ref=None if log is None else log.sha256,
        artifacts=result.artifacts if log is None else (*result.artifacts, log),
    )


def _failed(
    claim: Claim, failure: PluginFailed, inputs_hash: Sha256 | None, log: ArtifactRef | None
) -> Failed:
    again = failure.retryable and claim.tries < claim.retry.max_attempts
    return Failed(
        error_code=failure.error_code,
        error_message=_recordable(failure.message),
        retry_delay_ms=retry.delay_ms(claim.retry, claim.tries) if again else None,
        inputs_hash=inputs_hash,
        logs_ref=None if log is None else log.sha256,
        artifacts=failure.artifacts if log is None else (*failure.artifacts, log),
    )


def _plugin_error(message: str, *, retryable: bool) -> PluginFailed:
    return PluginFailed(error_code=ErrorCode.PLUGIN_ERROR, message=message, retryable=retryable)


def _expression_error(message: str) -> PluginFailed:
    return PluginFailed(error_code=ErrorCode.EXPRESSION_ERROR, message=message, retryable=False)


def _recordable(message: str) -> str:
    """Make any text one that PostgreSQL can keep, and that a person will read."""
    text = NOT_IN_TEXT.sub("\ufffd", message)
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _has_nul(root: Json) -> bool:
    open_values: list[Json] = [root]
    while open_values:
        value = open_values.pop()
        if isinstance(value, str):
            if "\0" in value:
                return True
        elif isinstance(value, dict):
            open_values.extend(value)
            open_values.extend(value.values())
        elif isinstance(value, list | tuple):
            open_values.extend(value)
    return False
