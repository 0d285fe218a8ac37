"""One client of the stream, as the thread that reads the ledger and the one that sends share it."""

from __future__ import annotations

import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from orchestrator_api.stream.wire import Blob, CloseCode, Wire
from shared.domain.event_stream import Cursor, StreamFilter
from shared.domain.models import TenantId

ROOM_BYTES: Final = 256 * 1024
"""With less than this to be sent, a client that is behind gets another page of the ledger."""
BUFFER_BYTES: Final = 1024 * 1024
"""With more than this to be sent, a client falls behind: it gets the rest from the ledger, later."""


@dataclass(slots=True, kw_only=True, eq=False)
class Subscription:
    """What a client is to get: the feed's side of it. Only the feed's thread changes it."""

    tenant: TenantId
    wanted: StreamFilter
    position: Cursor
    """The client has, or will be sent, all that it wants up to here."""
    seq: int = 0
    """Of the one run that it wants, if it wants one: no event up to this one lies behind the position."""
    behind: bool = True
    """It gets its events from the ledger page by page, until it has caught up with those who are live."""
    posted: int = 0
    """How many bytes were given to the sender."""


@dataclass(slots=True, kw_only=True, eq=False)
class Client:
    """A client with its socket. Only the sender's thread changes what is not in ``subscription``."""

    subscription: Subscription
    sock: socket.socket
    wire: Wire
    expires_at: float
    """When its token ends, in seconds of the epoch."""
    trace_id: str
    began: float = field(default_factory=time.monotonic)
    queue: deque[Blob] = field(default_factory=deque)
    offset: int = 0
    """How much of the first blob is sent."""
    sent: int = 0
    """How many bytes are sent, less those that were not posted by the feed."""
    sent_bytes: int = 0
    last_progress: float = field(default_factory=time.monotonic)
    """When bytes were taken by the kernel, or there was nothing to send."""
    blocked: bool = False
    """The kernel takes no more just now."""
    ending: CloseCode | None = None
    end_by: float = 0.0
    drained: int = 0
    """What it has sent after the end."""

    @property
    def pending(self) -> int:
        """Tell how many bytes wait to be sent. Right at once for the feed, late for the sender."""
        return self.subscription.posted - self.sent

    def lasted(self) -> float:
        """Tell how old the stream is, in seconds."""
        return time.monotonic() - self.began

    @property
    def has_room(self) -> bool:
        """Tell whether the feed may give it another page."""
        return self.ending is None and self.pending < ROOM_BYTES
