"""Workers and the API are told to go again and again under load: they go soon, and nothing is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import pytest

from shared.embedded.process_tree import descendants, start_ticks
from tests.support.clients import (
    acknowledge_more,
    check_only_unavailable,
    clients_starting_runs,
    publish_short,
)
from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, seconds_between
from tests.support.site import GRACE_S, Site
from tests.support.stack import alive

ENDS_WITHIN_S = 10.0
NEXT_CLAIM_WITHIN_S = 2.0
LONG_MS = int(GRACE_S * 1_000) + 3_000
"""Longer than a worker that goes waits for its steps: one that has just begun is given back."""


@pytest.fixture
def site(shaken_site: Site) -> Iterator[Site]:
    """A healthy stack with two workers; after the test it is healthy again, and all is well in the ledger."""
    shaken_site.await_health()
    yield shaken_site
    shaken_site.await_health()
    shaken_site.check()


def tell_to_go(site: Site, *names: str) -> float:
    """Send SIGTERM to programs; give the seconds until they are gone with all that was below them."""
    pids = {name: site.processes()[name] for name in names}
    tree = {each: start_ticks(each) for pid in pids.values() for each in (pid, *descendants(pid))}
    begun = time.monotonic()
    for name in names:
        site.signal(name, signal.SIGTERM)
    eventually(lambda: not alive(tree), within=ENDS_WITHIN_S)
    took = time.monotonic() - begun
    eventually(lambda: all(site.processes().get(name, pid) != pid for name, pid in pids.items()), within=20)
    site.await_health()
    return took


def running_attempt(rest: Rest, run_id: str) -> Document | None:
    attempts: list[Document] = rest.step(run_id, "only")["attempts"]
    return attempts[-1] if attempts and attempts[-1]["status"] == "running" else None


def test_workers_and_the_api_that_are_told_to_go_under_load_lose_nothing(
    site: Site, show: Callable[[str], None], ends: int
) -> None:
    took: list[float] = []
    waited: list[float] = []
    with site.rest() as rest:
        publish_short(rest)
        rest.publish("long", [{"id": "only", "uses": "sleep", "with": {"ms": LONG_MS}}])
        with clients_starting_runs(rest) as history:
            held: list[str] = []
            for _ in range(ends):
                acknowledge_more(history, 10)
                run_id = rest.start("long")
                held.append(run_id)
                attempt = eventually(partial(running_attempt, rest, run_id))
                assert attempt is not None
                took.append(tell_to_go(site, site.worker_of(attempt), "web"))
        ended = {run["runId"]: run for run in rest.all_ended()}
        assert {run["status"] for run in ended.values()} == {"completed"}
        told = {run["runToken"]: run_id for run_id, run in ended.items() if run["dagId"] == "short"}
        assert told == history.acknowledged
        check_only_unavailable(history)
        for run_id in held:
            # The worker that has a step next may be told to go next.
            *given_back, last = attempts = rest.step(run_id, "only")["attempts"]
            assert given_back
            assert {attempt["status"] for attempt in given_back} == {"released"}, attempts
            assert last["status"] == "succeeded"
            waited += [
                seconds_between(one["endedUtc"], other["startedUtc"]) for one, other in pairwise(attempts)
            ]
    show(
        f"{ends} ends under load, {len(told)} runs: gone after {max(took):.1f} s at most,"
        f" given back {len(waited)} times and claimed again within {max(waited):.2f} s"
    )
    assert max(waited) < NEXT_CLAIM_WITHIN_S
