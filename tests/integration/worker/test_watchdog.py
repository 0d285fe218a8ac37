"""The watchdog acts when messages wait that the worker could take, and at no other time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from orchestrator_worker.watchdog import Watchdog
from shared.config import Settings
from shared.messaging.queue_keys import QueueKeys
from tests.support.eventually import eventually

QUEUE = "steps.default"
KEY = "orchestrator:steps.default"


@dataclass(slots=True)
class Deaf:
    """A worker that takes nothing, until it is connected anew if that helps."""

    heard: int = 0
    all_taken: bool = False
    reconnected: int = 0
    then: Callable[[], None] = field(default=lambda: None)

    def reconnect(self) -> None:
        self.reconnected += 1
        self.then()


@dataclass(slots=True)
class Watched:
    ears: Deaf
    dog: Watchdog
    keys: QueueKeys
    given_up: list[bool]


@pytest.fixture
def watched(redis_url: str) -> Iterator[Watched]:
    keys, ears, given_up = QueueKeys(Settings(redis_url=redis_url)), Deaf(), list[bool]()
    dog = Watchdog(
        keys,
        [QUEUE],
        ears,
        deaf_after_ms=100,
        draining=lambda: False,
        give_up=lambda: given_up.append(True),
        reconnecting_seconds=0.1,
    )
    with keys._client as client:
        client.lpush(KEY, "a message")
        yield Watched(ears, dog, keys, given_up)


def look_until(watched: Watched, fact: Callable[[], object]) -> None:
    def looked() -> object:
        watched.dog.look()
        return fact()

    eventually(looked, within=5)


def looks_away(watched: Watched) -> bool:
    """Look for several times as long as deafness takes to show; tell whether nothing was done."""
    looks = iter(range(20))
    look_until(watched, lambda: next(looks) == 19)
    return not watched.ears.reconnected and not watched.given_up


def test_a_deaf_worker_is_made_to_connect_anew_and_then_given_up(watched: Watched) -> None:
    look_until(watched, lambda: watched.ears.reconnected)
    assert not watched.given_up
    look_until(watched, lambda: watched.given_up)
    assert watched.ears.reconnected == 1
    assert watched.dog.deaf.count == 2


def test_one_that_hears_again_is_left_alone(watched: Watched) -> None:
    def hear() -> None:
        watched.ears.heard += 1

    watched.ears.then = hear
    look_until(watched, lambda: watched.ears.reconnected == 3)
    assert not watched.given_up


def test_one_that_takes_messages_is_left_alone_however_many_wait(watched: Watched) -> None:
    looks = iter(range(20))

    def hears() -> bool:
        watched.ears.heard += 1
        return next(looks) == 19

    look_until(watched, hears)
    assert not watched.ears.reconnected


def test_a_busy_worker_is_left_alone(watched: Watched) -> None:
    watched.ears.all_taken = True
    assert looks_away(watched)


def test_an_idle_worker_is_left_alone(watched: Watched) -> None:
    watched.keys._client.delete(KEY)
    assert looks_away(watched)


def test_nobody_is_blamed_for_a_redis_that_takes_nothing(watched: Watched) -> None:
    client = watched.keys._client
    client.config_set("maxmemory", "1")
    try:
        assert looks_away(watched)
    finally:
        client.config_set("maxmemory", "256mb")


def test_nobody_is_blamed_for_a_redis_that_is_away() -> None:
    ears, given_up = Deaf(), list[bool]()
    dog = Watchdog(
        QueueKeys(Settings(redis_url="redis://127.0.0.1:1/0")),
        [QUEUE],
        ears,
        deaf_after_ms=100,
        draining=lambda: False,
        give_up=lambda: given_up.append(True),
    )
    watched = Watched(ears, dog, dog._queue_keys, given_up)
    assert looks_away(watched)
