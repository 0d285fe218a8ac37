"""The spans of an attempt, where this process has a collector, and the ids on its log lines, everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from structlog.contextvars import bound_contextvars

from orchestrator_worker.step_context import AttemptContext
from shared.domain.models import Claim, Failed, Outcome
from shared.domain.trace import TraceContext
from shared.tracing import Kind, Span, Tracer, below


class AttemptTrace:
    """Where an attempt stands in its run's trace. ``outcome`` is to be set before it ends."""

    def __init__(self, here: TraceContext, span: Span | None) -> None:
        self.here = here
        self.outcome: Outcome | None = None
        self._span = span

    def end(self) -> None:
        if self._span is None:
            return
        error = self.outcome.error_code if isinstance(self.outcome, Failed) else None
        ending = "lost" if self.outcome is None else type(self.outcome).__name__.lower()
        self._span.end({"orchestrator.outcome": ending}, error=error)


@contextmanager
def attempt_trace(claim: Claim, run: TraceContext, tracer: Tracer | None) -> Iterator[AttemptTrace]:
    """Put what is done and logged in the block under the attempt; ``run`` is the place of its run."""
    ids = {"tenant": claim.tenant, "run_id": str(claim.run_id), "step_id": claim.step_id}
    if tracer is None:
        trace = AttemptTrace(run, None)
    else:
        here = below(run)
        attributes: dict[str, str | int] = {
            **{f"orchestrator.{name}": value for name, value in ids.items()},
            "orchestrator.attempt": claim.attempt,
            "orchestrator.dag_id": claim.dag_id,
            "orchestrator.uses": claim.uses,
        }
        span = tracer.begin("attempt", Kind.CONSUMER, attributes, within=run, here=here)
        trace = AttemptTrace(here, span)
    with bound_contextvars(trace_id=claim.trace_id, attempt=claim.attempt, **ids):
        try:
            yield trace
        finally:
            trace.end()


@contextmanager
def plugin_span(tracer: Tracer | None, claim: Claim, context: AttemptContext) -> Iterator[None]:
    """Put what the plugin does in the block, and what it has others do, under a span of its own."""
    if tracer is None:
        yield
        return
    within, here = context.trace, below(context.trace)
    plugin = claim.uses.partition("@")[0]
    kind = Kind.CLIENT if plugin == "http" else Kind.INTERNAL
    span = tracer.begin(f"plugin {plugin}", kind, {}, within=within, here=here)
    context.trace = here
    try:
        yield
    finally:
        span.end({})
