"""The one reader of the ledger: it brings each client what is new, and what it has missed.

Clients of a tenant that have everything up to the same place are live, and share what is read for them.
A client that resumes, or that has fallen behind, gets pages of the ledger until it has caught up; those of
a tenant that are behind share their pages, too. Where each of them stands is a cursor, so that
nothing depends on which hint was heard, or when.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from orchestrator_api.stream.client import BUFFER_BYTES, Client
from orchestrator_api.stream.hub import Post
from orchestrator_api.stream.wire import Blob, CloseCode, Encoder
from shared.domain.event_stream import Cursor, StreamedEvent
from shared.domain.models import RunId, TenantId
from shared.errors import QueueUnavailable, Unavailable
from shared.messaging.complaint import Complaint
from shared.messaging.event_hints import UNHEARD_SECONDS, EventHints
from shared.services import events
from shared.store.db import Database

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

PAGE: Final = 500
POLL_SECONDS: Final = 1.0
"""How often the ledger is looked into although nobody told of anything: hints may be lost."""
UNHEARD_POLL_SECONDS: Final = 0.05
"""The same while no hints arrive."""
POLLS_A_SECOND: Final = 100
"""No more in all: with many tenants each of them is looked at less often."""
GAP_SECONDS: Final = 0.002
"""Between two looks at a tenant: what many commits tell of is read at once."""
HELD_BACK_SECONDS: Final = (0.001, 0.05)
"""When to look again at events that wait for an older transaction: first, and later on."""
CATCH_UP_SECONDS: Final = 0.02
_PAUSE_SECONDS: Final = (0.1, 1.0)
"""After an error, first and later on."""


class Sender(Protocol):
    """Who sends what is read."""

    def post(self, posts: Iterable[Post]) -> None:
        """Have blobs sent, in their order for each client."""

    def end(self, clients: Iterable[Client], code: CloseCode) -> None:
        """End the streams of these clients."""


@dataclass(slots=True)
class _Tenant:
    """A tenant with clients here. Only the feed's thread uses it."""

    live_end: Cursor | None = None
    """Up to where those who are live have everything; ``None``: not known yet."""
    live: set[Client] = field(default_factory=set)
    behind: dict[Client, None] = field(default_factory=dict)
    """In the order in which it is their turn."""
    looked: float = 0.0
    look_at: float = 0.0
    """When to look for new events."""
    held_back_seconds: float = HELD_BACK_SECONDS[0]


class Feed:
    """Reads for all clients, from a thread that begins with the first; another hears the hints."""

    def __init__(self, db: Database, hints: EventHints, sender: Sender) -> None:
        self._db = db
        self._hints = hints
        self._sender = sender
        self._encoder = Encoder()
        self._tenants: dict[TenantId, _Tenant] = {}
        self._changed = threading.Condition()
        self._joining: deque[Client] = deque()
        self._leaving: deque[Client] = deque()
        self._told: set[TenantId] = set()
        self._heard: dict[TenantId, float] = {}
        """Whose hints arrive, and since when."""
        self._room = False
        self._threads: list[threading.Thread] = []
        self.unread = Complaint("stream_ledger_not_read")
        """The ledger could not be read; the streams go on when it can."""
        self.unheard = Complaint("stream_hints_not_heard")
        """Redis is away: the ledger is looked into more often meanwhile."""

    def add(self, client: Client) -> None:
        """Bring a client everything behind its position."""
        with self._changed:
            self._joining.append(client)
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._serve, name="stream-feed", daemon=True),
                    threading.Thread(target=self._listen, name="stream-hints", daemon=True),
                ]
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def remove(self, client: Client) -> None:
        """Forget a client."""
        with self._changed:
            self._leaving.append(client)
            self._changed.notify_all()

    def room(self) -> None:
        """Take note that a client that is behind can take more."""
        with self._changed:
            self._room = True
            self._changed.notify_all()

    def _listen(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tenants)
            try:
                for told in self._hints.hear(self._followed):
                    with self._changed:
                        now = time.monotonic()
                        self._heard = {name: self._heard.get(name, now) for name in told.heard}
                        if told.new_events:
                            self._told |= told.new_events
                            self._changed.notify_all()
            except QueueUnavailable as error:
                self.unheard.note(error)
            except Exception:
                LOGGER.exception("stream_hints_failed")
            with self._changed:
                self._heard = {}
                self._changed.notify_all()
            time.sleep(_PAUSE_SECONDS[0])

    def _followed(self) -> frozenset[TenantId]:
        with self._changed:
            return frozenset(self._tenants)

    def _serve(self) -> None:
        pause = _PAUSE_SECONDS[0]
        while True:
            try:
                self._wait()
                self._look()
                self._catch_up()
                pause = _PAUSE_SECONDS[0]
            except Unavailable as error:
                self.unread.note(error)
                time.sleep(pause)
                pause = min(2 * pause, _PAUSE_SECONDS[1])
            except Exception:
                # Nobody knows who was to get what: all begin anew from the last line that they have.
                LOGGER.exception("stream_feed_failed")
                self._end_all()
                time.sleep(_PAUSE_SECONDS[1])

    def _end_all(self) -> None:
        for of in self._tenants.values():
            self._sender.end([*of.live, *of.behind], CloseCode.INTERNAL_ERROR)

    def _wait(self) -> None:
        """Wait until there is something to do, and take in who came and went."""
        with self._changed:
            while not (self._joining or self._leaving or self._told or self._room):
                left = self._due() - time.monotonic()
                if left <= 0 or self._someone_has_room():
                    break
                self._changed.wait(left)
            self._room = False
            told, self._told = self._told, set()
            joining, self._joining = self._joining, deque()
            leaving, self._leaving = self._leaving, deque()
            for client in joining:
                of = self._tenants.setdefault(client.subscription.tenant, _Tenant())
                of.behind[client] = None
            if joining:
                # Who listens to the hints waits for tenants.
                self._changed.notify_all()
            for client in leaving:
                self._forget(client)
            for name in told & self._tenants.keys():
                of = self._tenants[name]
                of.look_at = min(of.look_at, of.looked + GAP_SECONDS)

    def _due(self) -> float:
        """Say when to look at the next tenant; the caller holds the lock."""
        return min((of.look_at for of in self._tenants.values()), default=time.monotonic() + POLL_SECONDS)

    def _someone_has_room(self) -> bool:
        return any(client.has_room for of in self._tenants.values() for client in of.behind)

    def _forget(self, client: Client) -> None:
        of = self._tenants.get(client.subscription.tenant)
        if of is not None:
            of.live.discard(client)
            of.behind.pop(client, None)
            if not of.live and not of.behind:
                del self._tenants[client.subscription.tenant]

    def _look(self) -> None:
        """Look for new events of the tenants whose time has come."""
        now = time.monotonic()
        for name, of in list(self._tenants.items()):
            if of.look_at <= now:
                self._look_at(name, of)

    def _look_at(self, name: TenantId, of: _Tenant) -> None:
        if of.live_end is None or not of.live:
            # Who comes to be live next says from where.
            of.look_at = time.monotonic() + POLL_SECONDS
            return
        page = events.read_after(self._db, name, of.live_end, limit=PAGE)
        of.live_end = page.end
        of.looked = now = time.monotonic()
        if not page.whole:
            of.look_at = now
        elif page.held_back:
            of.look_at = now + of.held_back_seconds
            of.held_back_seconds = min(2 * of.held_back_seconds, HELD_BACK_SECONDS[1])
        else:
            of.look_at = now + self._poll_seconds(name)
            of.held_back_seconds = HELD_BACK_SECONDS[0]
        if page.events:
            self._bring(of, page.events)

    def _poll_seconds(self, name: TenantId) -> float:
        # Whoever writes may not have noticed yet that somebody listens.
        since = self._heard.get(name)
        told = since is not None and time.monotonic() - since > 2 * UNHEARD_SECONDS
        seconds = POLL_SECONDS if told else UNHEARD_POLL_SECONDS
        return max(seconds, len(self._tenants) / POLLS_A_SECOND)

    def _bring(self, of: _Tenant, batch: list[StreamedEvent]) -> None:
        """Give new events to those who are live. Who cannot take them falls behind."""
        posts: list[Post] = []
        batched = _Batch(batch, self._encoder)
        for client in of.live:
            blob = batched.blob_for(client)
            if blob is not None and client.pending + len(blob.data) > BUFFER_BYTES:
                client.subscription.behind = True
                continue
            # One that has come from a server that was ahead of this one keeps its place.
            client.subscription.position = max(client.subscription.position, batch[-1].cursor)
            if blob is not None:
                client.subscription.posted += len(blob.data)
                posts.append((client, blob))
        fell = {client for client in of.live if client.subscription.behind}
        of.live -= fell
        of.behind.update(dict.fromkeys(fell))
        self._sender.post(posts)

    def _catch_up(self) -> None:
        """Give pages of the ledger to those who are behind and have room; a page serves all of a tenant.

        It ends soon, since those who are live must not wait for long.
        """
        until = time.monotonic() + CATCH_UP_SECONDS
        for name, of in list(self._tenants.items()):
            groups: defaultdict[RunId | None, list[Client]] = defaultdict(list)
            for client in of.behind:
                if client.has_room:
                    groups[client.subscription.wanted.run_id].append(client)
            if groups and (of.live_end is None or not of.live):
                of.live_end = events.present(self._db, name)
            for run_id, group in groups.items():
                self._bring_page(name, of, run_id, group)
                if time.monotonic() > until:
                    with self._changed:
                        # It is the others' turn first.
                        self._tenants[name] = self._tenants.pop(name)
                    return

    def _bring_page(self, name: TenantId, of: _Tenant, run_id: RunId | None, group: list[Client]) -> None:
        assert of.live_end is not None
        first = min((client.subscription for client in group), key=lambda of: of.position)
        if first.position < of.live_end:
            page = events.read_after(self._db, name, first.position, limit=PAGE, run_id=run_id, seq=first.seq)
            # It was read after the place where those who are live stand.
            end = max(page.end, of.live_end) if page.whole else page.end
            batched = _Batch(page.events, self._encoder)
            posts: list[Post] = []
            for client in group:
                if client.subscription.position < end:
                    blob = batched.blob_for(client)
                    client.subscription.position = end
                    if run_id is not None and page.events:
                        client.subscription.seq = page.events[-1].seq
                    if blob is not None:
                        client.subscription.posted += len(blob.data)
                        posts.append((client, blob))
            self._sender.post(posts)
        for client in group:
            if client.subscription.position >= of.live_end:
                client.subscription.behind = False
                del of.behind[client]
                of.live.add(client)
                of.look_at = 0.0
            else:
                of.behind[client] = of.behind.pop(client)


class _Batch:
    """Events in order, made into bytes once for all who want the same of them."""

    def __init__(self, batch: list[StreamedEvent], encoder: Encoder) -> None:
        self._batch = batch
        self._encoder = encoder
        self._blobs: dict[object, Blob | None] = {}

    def blob_for(self, client: Client) -> Blob | None:
        """Give the bytes of what a client wants of them behind its position; ``None`` if that is nothing."""
        of = client.subscription
        behind = of.position if self._batch and self._batch[0].cursor <= of.position else None
        key = (of.wanted.members, client.wire.framing, behind)
        if key not in self._blobs:
            lines = [
                event.to_line()
                for event in self._batch
                if (behind is None or event.cursor > behind) and of.wanted.wants(event.line)
            ]
            self._blobs[key] = self._encoder.encode(lines, client.wire.framing) if lines else None
        return self._blobs[key]
