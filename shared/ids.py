"""Names that are drawn, not given."""

from __future__ import annotations

import os
import secrets
import time
from uuid import UUID

from shared.domain.models import RunId

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def new_run_id() -> RunId:
    """Draw the id of a run."""
    return RunId(uuid7())


def uuid7() -> UUID:
    """Draw a UUIDv7 (RFC 9562): 48 bits of Unix time in milliseconds, then 74 random bits.

    The random bits come from the kernel at each call, so that processes that
    were forked from one another cannot draw the same ones.
    """
    milliseconds = (time.time_ns() // 1_000_000) & ((1 << 48) - 1)
    random = int.from_bytes(os.urandom(10), "big")
    high = (random >> 62) & 0xFFF
    low = random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | _VERSION_7 | high << 64 | _VARIANT | low)


def new_trace_id() -> str:
    """Draw 16 bytes in hex that are not all zero, which W3C Trace Context reserves."""
    return secrets.token_hex(15) + f"{1 + secrets.randbelow(255):02x}"


def new_span_id() -> str:
    """Draw 8 bytes in hex that are not all zero."""
    return secrets.token_hex(7) + f"{1 + secrets.randbelow(255):02x}"
