"""A line of the event stream."""

from __future__ import annotations

from orchestrator_api.schemas.patterns import exactly
from orchestrator_api.schemas.responses.export import EVENT_FIELDS
from orchestrator_api.schemas.responses.fields import schema, text
from shared.domain.event_stream import CURSOR_PATTERN

STREAMED_EVENT = schema("StreamedEvent", {**EVENT_FIELDS, "cursor": text(pattern=exactly(CURSOR_PATTERN))})
