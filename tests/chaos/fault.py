"""What a fault is, and the table of all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import Signals
from typing import Any, cast

import psycopg2
import redis

from shared.embedded.process_tree import descendants, start_ticks
from tests.support.failpoints import Failpoints
from tests.support.site import Site


@dataclass(frozen=True, slots=True)
class Living:
    """A process that cannot be mistaken for a later one with its pid."""

    pid: int
    ticks: int | None

    @property
    def alive(self) -> bool:
        return self.ticks is not None and start_ticks(self.pid) == self.ticks

    def send(self, number: Signals) -> None:
        """Send a signal; a process that has ended gets none."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What faults act upon."""

    site: Site
    failpoints: Failpoints
    random: Random
    small_disks: tuple[Path, ...]
    """Folders of the stack that are file systems of their own, of some megabytes; none without root."""

    def program(self, name: str) -> Living:
        """Name a program of the stack as it runs now, or as it ran last."""
        described = cast("dict[str, dict[str, Any]]", self.site.stack.description()["processes"])
        if name not in described:
            return Living(pid=0, ticks=None)
        return Living(pid=described[name]["pid"], ticks=described[name]["startTicks"])

    def some_worker(self) -> Living:
        return self.program(self.random.choice(sorted(self.site.workers())))

    def supervisor(self) -> Living:
        pid = self.site.stack.supervisor_pid
        return Living(pid=pid, ticks=start_ticks(pid))

    @contextmanager
    def postgres(self) -> Iterator[psycopg2.extensions.cursor]:
        """Open a cursor as the owner, in a connection of its own."""
        environ = cast("dict[str, str]", self.site.stack.description()["environ"])
        url = environ["ORCH_MIGRATION_DATABASE_URL"]
        with closing(psycopg2.connect(url, connect_timeout=5, application_name="chaos")) as connection:
            connection.autocommit = True
            with connection.cursor() as cur:
                yield cur

    def redis(self) -> redis.Redis:
        return self.site.redis()


def with_all_below(process: Living) -> list[Living]:
    """Name a process and everything below it."""
    below = sorted(descendants(process.pid)) if process.alive else []
    return [process, *(Living(pid=pid, ticks=start_ticks(pid)) for pid in below)]


UNREACHABLE = (psycopg2.Error, redis.RedisError, OSError)
"""What a fault meets when another has the server down at the same time: then there is nothing to break."""

Make = Callable[[Target], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to break something: made when its block is entered, healed when it is left."""

    name: str
    lasts: bool
    """It goes on until it is healed; else it is done at once, and nothing is left to heal."""
    within_s: float
    """When it is healed, steps end again within this time."""
    make: Make

    @property
    def how(self) -> str:
        """Say how it is made: the first line of its docstring."""
        return (self.make.__doc__ or "").strip().splitlines()[0]


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, *, within_s: float, lasts: bool = False
) -> Callable[[Callable[[Target], Iterator[None]]], Make]:
    """Put a generator into the table: it makes the fault, yields, and heals it."""

    def register(steps: Callable[[Target], Iterator[None]]) -> Make:
        make = contextmanager(steps)
        assert name not in FAULTS
        FAULTS[name] = Fault(name=name, lasts=lasts, within_s=within_s, make=make)
        return make

    return register


def frozen(processes: list[Living]) -> Iterator[None]:
    """Stop processes with SIGSTOP, and have them go on in the end."""
    for process in processes:
        process.send(Signals.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send(Signals.SIGCONT)
