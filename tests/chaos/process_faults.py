"""Processes of ours that are killed, frozen, asked to stop, or die at a point of their own code."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from tests.chaos.fault import Living, Target, fault, frozen, with_all_below
from tests.support.failpoints import FUNCTIONS

ALL_PROGRAMS = ("web", "sweeper", "redis", "postgres")
CRASHES = 4


@fault("worker killed", within_s=8)
def worker_killed(target: Target) -> Iterator[None]:
    """SIGKILL to one of two workers."""
    target.some_worker().send(signal.SIGKILL)
    yield


@fault("worker and its children killed", within_s=8)
def worker_tree_killed(target: Target) -> Iterator[None]:
    """SIGKILL to a worker and every process below it."""
    for process in with_all_below(target.some_worker()):
        process.send(signal.SIGKILL)
    yield


@fault("all workers killed", within_s=15)
def all_workers_killed(target: Target) -> Iterator[None]:
    """SIGKILL to all workers at once."""
    for name in target.site.workers():
        target.program(name).send(signal.SIGKILL)
    yield


@fault("worker frozen", lasts=True, within_s=8)
def worker_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to a worker, its commands go on; SIGCONT heals."""
    yield from frozen([target.some_worker()])


@fault("worker told to stop", within_s=8)
def worker_told_to_stop(target: Target) -> Iterator[None]:
    """SIGTERM to a worker."""
    target.some_worker().send(signal.SIGTERM)
    yield


@fault("command killed", within_s=8)
def command_killed(target: Target) -> Iterator[None]:
    """SIGKILL to some process of a step that runs."""
    running = sorted(target.site.step_processes().items())
    if running:
        Living(*target.random.choice(running)).send(signal.SIGKILL)
    yield


@fault("sweeper killed", within_s=8)
def sweeper_killed(target: Target) -> Iterator[None]:
    """SIGKILL to a sweeper."""
    target.program("sweeper").send(signal.SIGKILL)
    yield


@fault("sweeper frozen", lasts=True, within_s=8)
def sweeper_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to a sweeper, perhaps within a transaction; SIGCONT heals."""
    yield from frozen([target.program("sweeper")])


@fault("sweeper told to stop", within_s=8)
def sweeper_told_to_stop(target: Target) -> Iterator[None]:
    """SIGTERM to a sweeper."""
    target.program("sweeper").send(signal.SIGTERM)
    yield


@fault("API master killed", within_s=10)
def web_master_killed(target: Target) -> Iterator[None]:
    """SIGKILL to the master of the web processes."""
    target.program("web").send(signal.SIGKILL)
    yield


@fault("API process killed", within_s=8)
def web_child_killed(target: Target) -> Iterator[None]:
    """SIGKILL to the process that serves requests."""
    for process in with_all_below(target.program("web"))[1:]:
        process.send(signal.SIGKILL)
    yield


@fault("API frozen", lasts=True, within_s=8)
def web_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to all web processes; SIGCONT heals."""
    yield from frozen(with_all_below(target.program("web")))


@fault("API told to stop", within_s=10)
def web_told_to_stop(target: Target) -> Iterator[None]:
    """SIGTERM to the master of the web processes."""
    target.program("web").send(signal.SIGTERM)
    yield


@fault("supervisor frozen", lasts=True, within_s=8)
def supervisor_frozen(target: Target) -> Iterator[None]:
    """SIGSTOP to what starts everything again, so that nothing is; SIGCONT heals."""
    yield from frozen([target.supervisor()])


@fault("everything killed", within_s=20)
def everything_killed(target: Target) -> Iterator[None]:
    """SIGKILL to API, workers, sweeper, Redis and PostgreSQL at once."""
    with_ticks = [target.program(name) for name in (*ALL_PROGRAMS, *target.site.workers())]
    for process in with_ticks:
        process.send(signal.SIGKILL)
    yield


@fault("death within a transaction or a message", lasts=True, within_s=15)
def dies_at_a_point(target: Target) -> Iterator[None]:
    """Whoever passes one of four points of our code next, drawn from 32, is killed there."""
    points = [f"{function} {moment}" for function in FUNCTIONS for moment in ("before", "after")]
    for point in target.random.sample(points, CRASHES):
        target.failpoints.arm(point)
    try:
        yield
    finally:
        target.failpoints.disarm()


@fault("hang within a transaction or a message", lasts=True, within_s=15)
def hangs_at_a_point(target: Target) -> Iterator[None]:
    """A thread that passes a point of our code hangs there; its process is killed to heal."""
    names = ("web", "sweeper", *target.site.workers())
    # Hanging threads cannot be told from others, so all that have the points are started again.
    before = [process for name in names for process in with_all_below(target.program(name))]
    point = f"{target.random.choice(FUNCTIONS)} {target.random.choice(('before', 'after'))}"
    target.failpoints.arm(point, "hang")
    try:
        yield
    finally:
        target.failpoints.disarm()
        for process in before:
            process.send(signal.SIGKILL)
