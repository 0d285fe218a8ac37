"""Celery's worker for doorbells: a pool that wakes the loop, a consumer that no bad message can end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty
from threading import Event, Lock, get_ident
from typing import Any

from celery import Celery
from celery.concurrency.thread import TaskPool
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.message import Message
from kombu.transport.redis import Transport

from shared.config import Settings
from shared.messaging.celery_app import DECISIONS_QUEUE, make_celery, queue_name
from shared.messaging.complaint import Complaint

REFUSED = Complaint("message_refused")
"""Messages that nobody of ours can have sent. Each is dropped; nothing of it is run."""

AWAY = Complaint("redis_away")
"""Tries to connect to Redis that failed."""

NO_MESSAGE = (ValueError, TypeError, AttributeError, IndexError, RecursionError)
"""What Celery's and kombu's decoding raises for bytes that are no message; they would end the worker."""


class StepPool(TaskPool):
    """Celery's thread pool, with a way to wake the event loop when a slot becomes free.

    With ``worker_disable_prefetch`` the loop stops reading while all slots are taken, and
    nothing in the threads pool tells it to go on: it would look again at its next timer, up to a
    second later (measured: two slots, 30 steps of 50 ms: 14 s instead of 0.77 s).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = Lock()
        self._taken = 0
        self._reserved = 0
        self._leaving: set[int] = set()
        self._reconnect = Event()
        self.heard = 0
        """How many messages have come so far; counted by the thread of the event loop."""
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def register_with_event_loop(self, loop: Hub) -> None:
        """Let the loop watch for wake-ups; called again after each new connection to Redis."""
        self._reconnect.clear()
        loop.add_reader(self._read, self._drain)

    def wake(self) -> None:
        """Have the event loop take a turn now. Safe in any thread and in a signal handler."""
        with suppress(BlockingIOError):
            self._write.send(b"\0")

    @property
    def all_taken(self) -> bool:
        """Whether every slot has a message."""
        return self._taken >= int(self.limit)

    def reconnect(self) -> None:
        """Have the event loop connect to Redis anew. Safe in any thread."""
        self._reconnect.set()
        self.wake()

    @property
    def num_processes(self) -> int:
        """How many slots there are for messages: the loop reads while fewer of these are taken."""
        return int(self.limit) - self._reserved

    def reserve(self) -> int:
        """Keep the free slots from messages, except for one: the next message may be on its way already."""
        with self._lock:
            number = max(0, int(self.limit) - self._taken + len(self._leaving) - 1)
            self._taken += number
            self._reserved += number
        return number

    def give_back(self, number: int) -> None:
        """Let go of so many reserved slots."""
        if number > 0:
            with self._lock:
                all_taken = self._taken >= self.limit
                self._taken -= number
                self._reserved -= number
            if all_taken:
                self.wake()

    def leaves(self, thread: int) -> None:
        """Take the slot of a thread of this pool for free: all that it has to do there is to leave it."""
        with self._lock:
            self._leaving.add(thread)

    def run_reserved(self, work: Callable[[], None]) -> None:
        """Run in a reserved slot, and then let go of it; in the caller's thread once the pool has stopped."""

        def run() -> None:
            try:
                self._run(work)
            finally:
                self.give_back(1)

        try:
            self.executor.submit(run)  # type: ignore[attr-defined]  # The stubs have it not.
        except RuntimeError:
            # What was claimed must be given back, at least.
            run()

    def _run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            with self._lock:
                self._leaving.discard(get_ident())

    def on_apply(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._taken += 1
        result = super().on_apply(partial(self._run, target), *args, **kwargs)
        result.f.add_done_callback(self._free)
        return result

    def _free(self, _: object) -> None:
        """Wake the loop if it may have stopped reading: only then were all slots taken."""
        with self._lock:
            all_taken = self._taken >= self.limit
            self._taken -= 1
        if all_taken:
            self.wake()

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            self._read.recv(4096)
        if self._reconnect.is_set():
            self._reconnect.clear()
            # As if the connection had been lost: the consumer knows what to do then.
            raise ConnectionResetError("the consumer is made to connect anew")


class DoorbellTransport(Transport):
    """kombu's Redis transport, except that bytes which are no message are dropped."""

    def on_readable(self, fileno: int) -> None:  # type: ignore[override]  # The stubs have the base class.
        try:
            super().on_readable(fileno)
        except Empty:
            raise
        except NO_MESSAGE as error:
            REFUSED.note(error)


class DoorbellConsumer(Consumer):
    """Celery's consumer, except that a message it cannot make a task of is dropped.

    And that it looks for a Redis that is away once a second. Celery's own would look ever less often,
    and come back up to half a minute after Redis.
    """

    def ensure_connected(self, conn: Connection) -> Connection:
        def note(error: Exception, _seconds: float) -> None:
            AWAY.note(error)

        return conn.ensure_connection(
            note, interval_start=1, interval_step=0, interval_max=1, callback=state.maybe_shutdown
        )

    def on_unknown_message(self, body: object, message: Message) -> None:
        """Refuse. Celery's own would log the message, whatever its size and whatever it holds."""
        raise ValueError("no task's message")

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        raise ValueError("no task of ours")

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        raise ValueError("no call of a task") from exc

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        raise ValueError("no body of a message") from exc

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Message) -> None:
            self.pool.heard += 1
            try:
                if message.headers.get("eta") or message.headers.get("expires"):
                    raise ValueError("a doorbell is not for later")
                handle(message)
            except Exception as error:  # noqa: BLE001  # Whatever it is, it must not end the worker.
                REFUSED.note(error)
                if not message.acknowledged:
                    message.ack()

        return on_message


class WorkerApp(Celery):
    """The Celery app of a worker process: its consumer reads through ``DoorbellTransport``."""

    def connection_for_read(self, *args: Any, **kwargs: Any) -> Connection:
        connection = super().connection_for_read(*args, **kwargs)
        connection.transport_cls = DoorbellTransport  # type: ignore[assignment]  # A class is taken too.
        return connection


def make_worker_celery(settings: Settings) -> Celery:
    """Build the app that both takes and sends doorbells."""
    return make_celery(settings, cls=WorkerApp)


def worker_queues(settings: Settings) -> list[str]:
    """Name the queues that this process takes messages from."""
    return [DECISIONS_QUEUE, *map(queue_name, settings.worker_pools)]


def make_controller(app: Celery, settings: Settings, *, hostname: str) -> WorkController:
    """Build Celery's worker for this process's pools. It handles no signals and writes no banner."""
    return app.WorkController(
        hostname=hostname,
        pool_cls=StepPool,
        consumer_cls=DoorbellConsumer,
        concurrency=settings.worker_concurrency,
        queues=worker_queues(settings),
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
