"""Spans for whoever looks at them. Off, and free of cost, unless a setting names a collector.

The trace ids of runs, events, logs and messages do not depend on it: they are always there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Protocol

from shared.domain.trace import TraceContext
from shared.ids import new_span_id

Attributes = Mapping[str, str | int]


class Kind(StrEnum):
    """Which side of an exchange a span is, in the words of OpenTelemetry."""

    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"
    INTERNAL = "internal"


class Span(Protocol):
    """A piece of work that has begun."""

    @property
    def context(self) -> TraceContext:
        """What is done within it has this as its parent."""

    def end(self, attributes: Attributes, *, error: str | None = None) -> None:
        """Say how it went. Returns at once."""


class Tracer(Protocol):
    """Begins spans; what is ended is sent to the collector in the background, or dropped."""

    def begin(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        within: TraceContext | None,
        here: TraceContext,
    ) -> Span:
        """Begin a span, as a child of ``within`` or as the first of the trace that ``here`` names.

        The span gets the id of ``here``; whether it is recorded is what ``within`` says.
        """


def below(context: TraceContext) -> TraceContext:
    """Draw the place of a new span within ``context``."""
    return replace(context, span_id=new_span_id())


def open_tracer(endpoint: str, *, service: str) -> Tracer | None:
    """Make what sends spans to the collector at ``endpoint``; ``None`` if there is none.

    OpenTelemetry's SDK and exporter take 9 MiB and a thread: only a process that uses them loads them.
    """
    if not endpoint:
        return None
    from shared.otlp import OtlpTracer  # noqa: PLC0415

    return OtlpTracer(endpoint, service=service)
