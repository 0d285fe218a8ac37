"""Workers and the API are told to go again and again under load: they go soon, and nothing is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import pairwise

import httpx
import pytest

from shared.embedded.process_tree import descendants, start_ticks
from tests.support.eventually import eventually
from tests.support.rest import Document, Rest
from tests.support.site import GRACE_S, Site, running_site
from tests.support.stack import alive

CLIENTS = 3
ENDS_WITHIN_S = 10.0
NEXT_CLAIM_WITHIN_S = 2.0
LONG_MS = int(GRACE_S * 1_000) + 3_000
"""Longer than a worker that goes waits for its steps: one that has just begun is given back."""


@pytest.fixture(scope="module")
def shaken_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("shaken") / "data") as running:
        yield running


@pytest.fixture
def site(shaken_site: Site) -> Iterator[Site]:
    """A healthy stack with two workers; after the test it is healthy again, and all is well in the ledger."""
    shaken_site.await_health()
    yield shaken_site
    shaken_site.await_health()
    shaken_site.check()


@contextmanager
def load(rest: Rest) -> Iterator[dict[str, str]]:
    """Have clients start short runs within the block; gives the run of each token that was acknowledged."""
    acknowledged: dict[str, str] = {}
    stop = threading.Event()

    def work(client: int) -> None:
        number = 0
        while not stop.is_set():
            token = f"{client}-{number}"
            run_id = _start(rest, token)
            if run_id is not None:
                acknowledged[token] = run_id
                number += 1
            stop.wait(0.05)

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(work, client) for client in range(CLIENTS)]
        try:
            yield acknowledged
        finally:
            stop.set()
        for client in clients:
            client.result()


def _start(rest: Rest, token: str) -> str | None:
    """Start a run, or learn that it was not acknowledged; any refusal but 503 is an error."""
    try:
        response = rest.send("POST", "/runs", body={"dagId": "short", "runToken": token})
    except httpx.TransportError:
        return None
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return None
    assert response.is_success, response.text
    return str(response.json()["runId"])


def acknowledge_more(acknowledged: dict[str, str], count: int) -> None:
    """Wait until so many more starts were acknowledged."""
    enough = len(acknowledged) + count
    eventually(lambda: len(acknowledged) >= enough, within=30)


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


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_workers_and_the_api_that_are_told_to_go_under_load_lose_nothing(
    site: Site, show: Callable[[str], None], ends: int
) -> None:
    took: list[float] = []
    waited: list[float] = []
    with site.rest() as rest:
        rest.publish("short", [{"id": "a", "uses": "noop"}, {"id": "b", "uses": "noop"}], "a>b")
        rest.publish("long", [{"id": "only", "uses": "sleep", "with": {"ms": LONG_MS}}])
        with load(rest) as acknowledged:
            held: list[str] = []
            for _ in range(ends):
                acknowledge_more(acknowledged, 10)
                run_id = rest.start("long")
                held.append(run_id)
                attempt = eventually(partial(running_attempt, rest, run_id))
                assert attempt is not None
                took.append(tell_to_go(site, site.worker_of(attempt), "web"))
        ended = {run["runId"]: run for run in rest.all_ended()}
        assert {run["status"] for run in ended.values()} == {"completed"}
        told = {run["runToken"]: run_id for run_id, run in ended.items() if run["dagId"] == "short"}
        assert acknowledged.items() <= told.items()
        # A client that stopped may have one more start under way whose answer went with the API.
        assert len(told) - len(acknowledged) <= CLIENTS
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
