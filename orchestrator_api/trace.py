"""The trace of a request, the caller's or a new one, and where spans are recorded the request's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from werkzeug.datastructures import Headers

from shared.domain.models import Run
from shared.domain.trace import TraceContext, parse_trace, run_span_id
from shared.ids import new_span_id, new_trace_id
from shared.tracing import Kind, Span, Tracer, below


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """Where a request stands in its trace. ``span`` is there if this process has a collector."""

    here: TraceContext
    span: Span | None = None

    def end(self, status: int, attributes: Mapping[str, str]) -> None:
        """Say how the request went."""
        if self.span is not None:
            error = None if status < 500 else f"status {status}"
            self.span.end({"http.response.status_code": status, **attributes}, error=error)


def begin(headers: Headers, tracer: Tracer | None, name: str, attributes: Mapping[str, str]) -> RequestTrace:
    """Continue the trace of a valid ``traceparent``; begin a new one otherwise.

    Without a tracer the caller's own span stays the parent of what comes after: the trace has
    no hole where nobody records.
    """
    caller = parse_trace(headers.get("traceparent"), headers.get("tracestate"))
    if caller is None:
        here = TraceContext(trace_id=new_trace_id(), span_id=new_span_id())
    else:
        here = caller if tracer is None else below(caller)
    if tracer is None:
        return RequestTrace(here=here)
    return RequestTrace(here=here, span=tracer.begin(name, Kind.SERVER, attributes, within=caller, here=here))


def begin_run(request: RequestTrace, tracer: Tracer | None, run: Run) -> TraceContext:
    """Give what the attempts of a run that this request has started have as their parent."""
    if tracer is None:
        return request.here
    here = replace(request.here, span_id=run_span_id(run.run_id))
    attributes = {"orchestrator.dag_id": run.dag_id, "orchestrator.run_id": str(run.run_id)}
    tracer.begin("start run", Kind.PRODUCER, attributes, within=request.here, here=here).end({})
    return here
