"""The thread that owns the sockets of all streams: it sends, keeps them open, and ends them.

No client can hold it up: every socket is non-blocking, and what a client does not take stays in a queue
that the feed does not let grow.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE
from typing import Final

import structlog

from orchestrator_api.stream.client import ROOM_BYTES, Client
from orchestrator_api.stream.wire import Blob, CloseCode

LOGGER: structlog.stdlib.BoundLogger = structlog.get_logger()

TICK_SECONDS: Final = 0.5
STALLED_SECONDS: Final = 7.0
"""A client with a full queue that has taken nothing for so long does not read."""
FAREWELL_SECONDS: Final = 5.0
"""For the last bytes to get out, and for the client to close its side."""
SHUTDOWN_SECONDS: Final = 2.0
_RECV_BYTES: Final = 65_536
_MAX_DRAINED_BYTES: Final = 1 << 20
_UNSENT_BYTES: Final = 32 * 1024
"""What the kernel may hold of a client that does not read: a farewell must still fit in."""
_AT_ONCE: Final = 32
_DEAD_AFTER_MS: Final = 30_000
"""Bytes that nobody has acknowledged for so long: the client is gone, whatever TCP says."""

Post = tuple[Client, Blob]


class Hub:
    """Sends what it is given, from a thread that begins with the first client."""

    def __init__(
        self,
        *,
        heartbeat_seconds: float,
        room: Callable[[], None],
        gone: Callable[[Client, CloseCode | None], None],
    ) -> None:
        """``room`` is called when a client that is behind can take more, ``gone`` once at the end of each."""
        self._heartbeat_seconds = heartbeat_seconds
        self._room = room
        self._gone = gone
        self._wake_sender: socket.socket | None = None
        self._lock = threading.Lock()
        self._joining: deque[Client] = deque()
        self._posts: deque[Post] = deque()
        self._endings: deque[tuple[Client, CloseCode]] = deque()
        self._clients: set[Client] = set()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._close_by = 0.0

    def add(self, client: Client) -> None:
        """Take over a client's socket."""
        with self._lock:
            self._joining.append(client)
            if self._thread is None:
                self._begin_thread()
        self._wake()

    def post(self, posts: Iterable[Post]) -> None:
        """Have blobs sent, in their order for each client."""
        self._posts.extend(posts)
        self._wake()

    def end(self, clients: Iterable[Client], code: CloseCode) -> None:
        """End the streams of these clients."""
        self._endings.extend((client, code) for client in clients)
        self._wake()

    def close(self) -> None:
        """End all streams soon, with word that the server stops. Safe in a signal handler."""
        self._closing = True
        self._wake()

    def join(self, seconds: float) -> None:
        """Wait until all streams have ended, after ``close``."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _begin_thread(self) -> None:
        self._selector = selectors.DefaultSelector()
        receiver, self._wake_sender = socket.socketpair()
        for end in (receiver, self._wake_sender):
            end.setblocking(False)
        self._selector.register(receiver, EVENT_READ)
        self._thread = threading.Thread(target=self._run, args=(receiver,), name="stream-hub", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        if self._wake_sender is not None:
            # A full pipe wakes, too.
            with suppress(BlockingIOError):
                self._wake_sender.send(b"w")

    def _run(self, wake: socket.socket) -> None:
        while True:
            try:
                self._serve(wake)
            except Exception:
                # Whoever is cut off comes back; without this thread nobody would be served any more.
                LOGGER.exception("stream_hub_failed")
                for client in list(self._clients):
                    self._drop(client)
                time.sleep(TICK_SECONDS)
            else:
                return

    def _serve(self, wake: socket.socket) -> None:
        next_tick = time.monotonic() + TICK_SECONDS
        while not (self._close_by and not self._clients):
            for key, events in self._selector.select(max(0.0, next_tick - time.monotonic())):
                if key.data is None:
                    with suppress(BlockingIOError):
                        wake.recv(_RECV_BYTES)
                elif key.data in self._clients:
                    self._guarded(key.data, self._serve_socket, events)
            self._take_joining()
            self._take_posts()
            self._take_endings()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                for client in list(self._clients):
                    self._guarded(client, self._tick, now)

    def _guarded(self, client: Client, act: Callable[..., None], *args: object) -> None:
        """Do something for a client; an error ends its stream and no other's."""
        try:
            act(client, *args)
        except OSError as error:
            LOGGER.debug("stream_broken", error=str(error), trace_id=client.trace_id)
            self._drop(client)
        except Exception:
            LOGGER.exception("stream_failed", trace_id=client.trace_id)
            self._drop(client)

    def _take_joining(self) -> None:
        while self._joining:
            client = self._joining.popleft()
            self._clients.add(client)
            self._guarded(client, self._begin)

    def _begin(self, client: Client) -> None:
        client.sock.setblocking(False)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
        self._selector.register(client.sock, EVENT_READ, client)
        if self._close_by:
            self._end(client, CloseCode.GOING_AWAY)

    def _take_posts(self) -> None:
        touched: set[Client] = set()
        while self._posts:
            client, blob = self._posts.popleft()
            if client in self._clients and client.ending is None:
                if not client.queue:
                    client.last_progress = time.monotonic()
                client.queue.append(blob)
                touched.add(client)
            else:
                client.sent += len(blob.data)
        for client in touched:
            if not client.blocked:
                self._guarded(client, self._send)

    def _take_endings(self) -> None:
        while self._endings:
            client, code = self._endings.popleft()
            if client in self._clients:
                self._guarded(client, self._end, code)
        if self._closing and not self._close_by:
            self._close_by = time.monotonic() + SHUTDOWN_SECONDS
            for client in list(self._clients):
                self._guarded(client, self._end, CloseCode.GOING_AWAY)

    def _serve_socket(self, client: Client, events: int) -> None:
        if events & EVENT_READ:
            self._receive(client)
        if events & EVENT_WRITE and client in self._clients:
            self._send(client)

    def _receive(self, client: Client) -> None:
        try:
            data = client.sock.recv(_RECV_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._drop(client)
        elif client.ending is not None:
            client.drained += len(data)
            _, code = client.wire.received(data)
            if code is CloseCode.NORMAL or client.drained > _MAX_DRAINED_BYTES:
                self._drop(client)
        else:
            answer, code = client.wire.received(data)
            if answer:
                self._say(client, answer)
            if code is not None:
                self._end(client, code)

    def _say(self, client: Client, data: bytes) -> None:
        """Send what is no event, behind what is under way."""
        client.queue.append(Blob(data, (len(data),)))
        client.sent -= len(data)
        if not client.blocked:
            self._send(client)

    def _send(self, client: Client) -> None:
        """Send as much as the kernel takes."""
        while client.queue:
            head = memoryview(client.queue[0].data)[client.offset :]
            more = [client.queue[i].data for i in range(1, min(len(client.queue), _AT_ONCE))]
            try:
                taken = client.sock.sendmsg([head, *more])
            except BlockingIOError:
                break
            client.last_progress = time.monotonic()
            client.sent += taken
            client.sent_bytes += taken
            client.offset += taken
            while client.queue and client.offset >= len(client.queue[0].data):
                client.offset -= len(client.queue.popleft().data)
        blocked = bool(client.queue)
        if blocked is not client.blocked:
            client.blocked = blocked
            self._selector.modify(client.sock, EVENT_READ | (EVENT_WRITE if blocked else 0), client)
        if client.ending is not None:
            if not blocked:
                self._finish(client)
        elif client.subscription.behind and client.pending < ROOM_BYTES:
            self._room()

    def _tick(self, client: Client, now: float) -> None:
        if client.ending is not None:
            if now >= client.end_by or (self._close_by and now >= self._close_by):
                self._drop(client)
        elif client.expires_at <= time.time():
            self._end(client, CloseCode.TOKEN_EXPIRED)
        elif client.queue:
            if client.pending >= ROOM_BYTES and now - client.last_progress >= STALLED_SECONDS:
                self._end(client, CloseCode.TRY_AGAIN_LATER)
        elif now - client.last_progress >= self._heartbeat_seconds:
            self._say(client, client.wire.heartbeat())

    def _end(self, client: Client, code: CloseCode) -> None:
        """Say why, behind what was begun, and give the client time to hear it."""
        if client.ending is not None:
            return
        client.ending = code
        client.end_by = time.monotonic() + FAREWELL_SECONDS
        rest = client.queue[0].rest_of_unit(client.offset) if client.queue else b""
        client.queue.clear()
        client.offset = 0
        farewell = client.wire.farewell(code)
        if farewell is None:
            self._drop(client)
            return
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 30)
        if last := rest + farewell:
            client.queue.append(Blob(last, (len(last),)))
        self._send(client)

    def _finish(self, client: Client) -> None:
        """Close our side once all is out; the client's is awaited, so that nothing on its way is lost."""
        client.sock.shutdown(socket.SHUT_WR)

    def _drop(self, client: Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.sock)
        client.sock.close()
        client.queue.clear()
        self._gone(client, client.ending)
