"""W3C Trace Context: which trace a request, a run and an attempt belong to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from shared.domain.models import RunId

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^,]*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_SAMPLED: Final = 1

_MAX_STATE_CHARS: Final = 512
_MAX_STATE_MEMBERS: Final = 32
_KEY = r"[a-z0-9][a-z0-9_*/-]{0,240}(?:@[a-z0-9][a-z0-9_*/-]{0,13})?"
_STATE_MEMBER = re.compile(rf"{_KEY}=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A place in a trace: whatever is done from here has ``span_id`` as its parent.

    ``sampled``: whoever began the trace wants it recorded. ``state`` is the ``tracestate`` of other
    vendors, handed on as it came.
    """

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        """Spell it as the header of that name."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def headers(self) -> dict[str, str]:
        """Spell it as headers of a request or a message."""
        state = {"tracestate": self.state} if self.state else {}
        return {"traceparent": self.traceparent, **state}


def parse_trace(traceparent: object, tracestate: object = None) -> TraceContext | None:
    """Read the two headers; ``None`` unless ``traceparent`` is valid.

    An invalid header is never an error: the standard (W3C Trace Context, 3.2) wants it
    ignored. Two of them, which a server joins with a comma, are one that is invalid. A
    later version than 00 may carry more fields behind the four known ones; 00 may not.
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip(" \t")) if isinstance(traceparent, str) else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    sampled = bool(int(flags, 16) & _SAMPLED)
    return TraceContext(trace_id=trace_id, span_id=span_id, sampled=sampled, state=_state(tracestate))


def _state(tracestate: object) -> str:
    """Take a ``tracestate`` whole, or not at all if the standard (3.3) does not allow all of it."""
    if not isinstance(tracestate, str):
        return ""
    members = [member for part in tracestate.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    whole = ",".join(members)
    valid = all(_STATE_MEMBER.fullmatch(member) for member in members)
    if not valid or len(keys) < len(members) or len(members) > _MAX_STATE_MEMBERS:
        return ""
    return whole if len(whole) <= _MAX_STATE_CHARS else ""


def run_span_id(run_id: RunId) -> str:
    """Give the span that stands for a run.

    It is made from the run's id, so that every attempt has the same parent even when no message told
    of it: the step was handed on, or its message was lost and sent again.
    """
    return hashlib.sha256(b"orchestrator run\0" + run_id.bytes).hexdigest()[:15] + "1"
