"""Slots of a worker that are kept for steps which no message has brought."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from orchestrator_worker.celery_app import StepPool
from tests.support.eventually import eventually


@pytest.fixture
def pool() -> Iterator[StepPool]:
    made = StepPool(4)
    yield made
    made.on_stop()
    made._read.close()
    made._write.close()


def wait_for(event: threading.Event) -> None:
    event.wait(10)


def woken(pool: StepPool) -> bool:
    """Tell whether the event loop was woken."""
    try:
        return bool(pool._read.recv(16))
    except BlockingIOError:
        return False


def test_the_next_message_always_finds_a_slot(pool: StepPool) -> None:
    assert pool.reserve() == 3
    assert pool.num_processes == 1
    assert pool.reserve() == 0
    done = threading.Event()
    pool.on_apply(done.wait, (10,))
    assert pool.all_taken
    assert pool.reserve() == 0
    done.set()
    eventually(lambda: not pool.all_taken)


def test_what_runs_in_a_reserved_slot_leaves_it(pool: StepPool) -> None:
    kept = pool.reserve()
    go = threading.Event()
    pool.run_reserved(lambda: wait_for(go))
    pool.give_back(kept - 1)
    assert pool.num_processes == 3
    go.set()
    eventually(lambda: pool.num_processes == 4)
    assert pool.reserve() == 3


def test_the_loop_is_woken_when_a_message_may_come_again(pool: StepPool) -> None:
    kept = pool.reserve()
    done = threading.Event()
    pool.on_apply(done.wait, (10,))
    assert not woken(pool)
    pool.give_back(kept)
    assert woken(pool)
    done.set()


def test_a_slot_is_left_by_what_fails(pool: StepPool) -> None:
    def fail() -> None:
        raise ValueError("no")

    kept = pool.reserve()
    for _ in range(kept):
        pool.run_reserved(fail)
    eventually(lambda: pool.num_processes == 4)


def test_after_its_end_the_pool_runs_what_was_claimed_all_the_same(pool: StepPool) -> None:
    assert pool.reserve() == 3
    pool.on_stop()
    ran: list[str] = []
    pool.run_reserved(lambda: ran.append(threading.current_thread().name))
    assert ran == [threading.current_thread().name]
    assert pool.num_processes == 2


def test_a_slot_that_is_about_to_be_left_counts_as_free(pool: StepPool) -> None:
    go, told = threading.Event(), threading.Event()

    def leave() -> None:
        pool.leaves(threading.get_ident())
        told.set()
        wait_for(go)

    pool.on_apply(leave, ())
    assert told.wait(10)
    # One of the four is left for the next message.
    assert pool.reserve() == 3
    go.set()
    eventually(lambda: not pool._leaving)
    # It is counted once: what was reserved is taken, one is free.
    eventually(lambda: pool._taken == 3)
    assert pool.reserve() == 0


def test_a_reserved_slot_is_left_once(pool: StepPool) -> None:
    kept = pool.reserve()
    for _ in range(kept):
        pool.run_reserved(lambda: pool.leaves(threading.get_ident()))
    eventually(lambda: pool.num_processes == 4)
    assert not pool._leaving
    assert pool.reserve() == 3
