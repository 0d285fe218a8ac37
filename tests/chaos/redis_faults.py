"""Redis that dies, hangs, forgets, is full; messages that are doubled, lost, out of order, forged."""

from __future__ import annotations

import base64
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random

import redis

from tests.chaos.fault import UNREACHABLE, Target, fault, frozen

QUEUES = ("orchestrator:steps.default", "orchestrator:decisions")
SHOTS = 20
PAUSE_S = 0.05
PAUSED_MS = 4_000
MOST_MESSAGES = 500
GARBAGE = (b"", b"\xff\x00\xfe", b"null", b"[]", b"{}", b'{"body": 1}', b"[" * 4_000)


@fault("Redis killed", within_s=15)
def redis_killed(target: Target) -> Iterator[None]:
    """SIGKILL to Redis, which keeps nothing on disk: it comes back empty."""
    target.program("redis").send(signal.SIGKILL)
    yield


@fault("Redis frozen", lasts=True, within_s=15)
def redis_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to Redis; SIGCONT heals."""
    yield from frozen([target.program("redis")])


@fault("Redis flushed", within_s=8)
def redis_flushed(target: Target) -> Iterator[None]:
    """FLUSHALL."""
    with suppress(*UNREACHABLE), target.redis() as client:
        client.flushall()
    yield


@fault("Redis connections cut", within_s=10)
def redis_clients_killed(target: Target) -> Iterator[None]:
    """CLIENT KILL of every client, many times within a second."""
    with suppress(*UNREACHABLE), target.redis() as client:
        for _ in range(SHOTS):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(PAUSE_S)
    yield


@fault("Redis paused", within_s=PAUSED_MS / 1000 + 15)
def redis_paused(target: Target) -> Iterator[None]:
    """CLIENT PAUSE of all commands for four seconds (even CLIENT UNPAUSE would wait)."""
    with suppress(*UNREACHABLE), target.redis() as client:
        client.execute_command("CLIENT", "PAUSE", str(PAUSED_MS), "ALL")
    yield


@fault("Redis full", lasts=True, within_s=15)
def redis_full(target: Target) -> Iterator[None]:
    """maxmemory of one byte: every write is refused; the old value heals."""
    with suppress(*UNREACHABLE), target.redis() as client:
        client.config_set("maxmemory", "1")
    try:
        yield
    finally:
        with suppress(*UNREACHABLE), target.redis() as client:
            client.config_set("maxmemory", str(256 * 2**20))


@fault("messages doubled", within_s=8)
def messages_doubled(target: Target) -> Iterator[None]:
    """Every message that waits is put into its queue once more, for a second."""
    # Each pass doubles what the one before has left: no more than a worker can drop within a second or two.
    _meddle(target, lambda _random, waiting: waiting * 2 if len(waiting) < MOST_MESSAGES else waiting)
    yield


@fault("messages lost", within_s=8)
def messages_dropped(target: Target) -> Iterator[None]:
    """Half of the messages that wait are taken away, for a second."""
    _meddle(target, lambda random, waiting: [m for m in waiting if random.random() < 0.5])
    yield


@fault("messages out of order", within_s=8)
def messages_shuffled(target: Target) -> Iterator[None]:
    """The messages that wait are put into another order, for a second."""
    _meddle(target, lambda random, waiting: random.sample(waiting, len(waiting)))
    yield


@fault("messages forged", within_s=8)
def messages_forged(target: Target) -> Iterator[None]:
    """Beside those that wait: bytes that are no message, and messages for other tenants, runs and steps."""
    _meddle(
        target,
        lambda random, waiting: [
            *waiting,
            random.choice(GARBAGE),
            *(_forged(random, message) for message in waiting[:3]),
        ],
    )
    yield


def _meddle(target: Target, change: Callable[[Random, list[bytes]], list[bytes]]) -> None:
    """Put other messages in the place of those that wait, again and again; workers go on taking them."""
    with suppress(*UNREACHABLE), target.redis() as client:
        for _ in range(SHOTS):
            for queue in QUEUES:
                _replace(client, queue, target.random, change)
            time.sleep(PAUSE_S)


def _replace(
    client: redis.Redis, queue: str, random: Random, change: Callable[[Random, list[bytes]], list[bytes]]
) -> None:
    taken = f"{queue}.taken"
    try:
        client.rename(queue, taken)
    except redis.ResponseError:
        return  # Nothing waits there.
    waiting = client.lrange(taken, 0, -1)
    client.delete(taken)
    if changed := change(random, [message for message in waiting if isinstance(message, bytes)]):
        client.lpush(queue, *reversed(changed))


def _forged(random: Random, message: bytes) -> bytes:
    """Write a message like this one, for something else."""
    try:
        document = json.loads(message)
        args, kwargs, embedded = json.loads(base64.b64decode(document["body"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return message  # It is forged already, by this fault or one beside it.
    kwargs.update(
        random.choice(
            [
                {"tenant": "somebody-else"},
                {"run_id": "0191f000-0000-7000-8000-000000000001"},
                {"run_id": "not-an-id"},
                {"step_no": 9_999},
                {"step_no": -1},
                {"v": 99},
                {"argv": ["/bin/false"]},
            ]
        )
    )
    document["body"] = base64.b64encode(json.dumps([args, kwargs, embedded]).encode()).decode()
    return json.dumps(document).encode()
