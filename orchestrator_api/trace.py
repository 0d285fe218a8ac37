"""W3C Trace Context: continue the caller's trace, or begin a new one."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The trace that a request belongs to; ``parent_id`` is the caller's span, if there is one."""

    trace_id: str
    parent_id: str | None


def trace_of(traceparent: str | None) -> Trace:
    """Continue the trace of a valid ``traceparent``; begin a new one otherwise.

    An invalid header is never an error: the standard (W3C Trace Context, 3.2)
    wants it ignored. A later version than 00 may carry more fields behind the
    four known ones; version 00 may not.
    """
    match = _TRACEPARENT.fullmatch(traceparent.strip(" \t")) if traceparent else None
    if match is not None:
        version, trace_id, parent_id, _flags, more = match.groups()
        known = version != "ff" and (version != "00" or more is None)
        if known and trace_id != _NO_TRACE and parent_id != _NO_SPAN:
            return Trace(trace_id=trace_id, parent_id=parent_id)
    return Trace(trace_id=_new_trace_id(), parent_id=None)


def _new_trace_id() -> str:
    """Make 16 random bytes that are not all zero, which the standard reserves."""
    return secrets.token_hex(15) + f"{1 + secrets.randbelow(255):02x}"
