"""Spans, sent to a collector with OpenTelemetry's SDK. Imported by processes that have a collector only."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import requests
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Status, StatusCode

from shared.domain.trace import TraceContext
from shared.tracing import Attributes, Kind

EXPORT_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 2.0
MAX_QUEUE: Final = 2_048
"""Spans that wait for the collector; the oldest are dropped, and nobody waits for room."""
SEND_EVERY_MS: Final = 1_000

_KINDS = MappingProxyType({kind: otel.SpanKind[kind.name] for kind in Kind})


class OtlpTracer:
    """A ``Tracer`` that exports by OTLP over HTTP, from a thread of its own."""

    def __init__(self, endpoint: str, *, service: str) -> None:
        session = requests.Session()
        # No proxy, credential or certificate from the environment, and no way to another host.
        session.trust_env = False
        session.max_redirects = 0
        exporter = OTLPSpanExporter(
            endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_SECONDS, session=session
        )
        self._exporter = _UntilClosed(exporter)
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),
            resource=Resource.create({"service.name": service}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, max_queue_size=MAX_QUEUE, schedule_delay_millis=SEND_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("orchestrator")
        atexit.register(self.close)

    def begin(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        within: TraceContext | None,
        here: TraceContext,
    ) -> _OtlpSpan:
        parent = Context() if within is None else otel.set_span_in_context(_remote(within), Context())
        self._ids.give(here)
        span = self._tracer.start_span(name, parent, kind=_KINDS[kind], attributes=attributes)
        return _OtlpSpan(span, here)

    def close(self) -> None:
        """Send what waits, for ``CLOSE_SECONDS`` and an export at most."""
        self._exporter.close_in(CLOSE_SECONDS)
        self._provider.shutdown()


class _OtlpSpan:
    def __init__(self, span: otel.Span, here: TraceContext) -> None:
        self._span = span
        self.context = here

    def end(self, attributes: Attributes, *, error: str | None = None) -> None:
        self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class _GivenIds(IdGenerator):
    """Has a span begin with the ids that our own records already have."""

    def __init__(self) -> None:
        self._next = threading.local()

    def give(self, here: TraceContext) -> None:
        self._next.here = here

    def generate_span_id(self) -> int:
        return int(self._next.here.span_id, 16)

    def generate_trace_id(self) -> int:
        return int(self._next.here.trace_id, 16)


class _UntilClosed(SpanExporter):
    """Keeps a process that ends from waiting for a collector that hangs, batch after batch."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._until = float("inf")

    def close_in(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if time.monotonic() >= self._until:
            return SpanExportResult.FAILURE
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _remote(context: TraceContext) -> otel.Span:
    return otel.NonRecordingSpan(
        otel.SpanContext(
            trace_id=int(context.trace_id, 16),
            span_id=int(context.span_id, 16),
            is_remote=True,
            trace_flags=otel.TraceFlags(otel.TraceFlags.SAMPLED if context.sampled else 0),
            trace_state=otel.TraceState.from_header([context.state]) if context.state else None,
        )
    )
