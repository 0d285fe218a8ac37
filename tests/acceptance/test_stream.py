"""The event stream of a whole stack that stops and starts again, with many clients."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from shared.embedded.process_tree import descendants, start_ticks
from tests.support.clients import acknowledge_more, clients_starting_runs, publish_short
from tests.support.eventually import eventually
from tests.support.site import Site
from tests.support.stack import alive
from tests.support.stream_client import Source, Way
from tests.support.stream_follower import Follower

CLIENTS_OF_A_WAY = 100
ENDS_WITHIN_S = 10.0


@pytest.fixture
def site(shaken_site: Site) -> Iterator[Site]:
    """A healthy stack; after the test it is healthy again, and all is well in the ledger."""
    shaken_site.await_health()
    yield shaken_site
    shaken_site.await_health()
    shaken_site.check()


def stop_web(site: Site) -> float:
    """Tell the web process to go; give the seconds until it is gone with all that was below it."""
    pid = site.processes()["web"]
    tree = {each: start_ticks(each) for each in (pid, *descendants(pid))}
    begun = time.monotonic()
    site.signal("web", signal.SIGTERM)
    eventually(lambda: not alive(tree), within=ENDS_WITHIN_S)
    return time.monotonic() - begun


def test_two_hundred_clients_hear_that_the_server_stops_and_go_on_with_the_next(
    site: Site, show: Callable[[str], None]
) -> None:
    with site.rest() as rest, ExitStack() as stack:
        publish_short(rest)
        source = Source(url=site.stack.url, token=site.token(rest.tenant), tenant=rest.tenant)
        followers = [
            stack.enter_context(Follower(source, way)) for way in Way for _ in range(CLIENTS_OF_A_WAY)
        ]
        eventually(lambda: all(each.told["connected"] for each in followers), within=30)
        with clients_starting_runs(rest) as history:
            acknowledge_more(history, 20)
            took = stop_web(site)
            site.await_health()
            eventually(lambda: all(each.told["connected"] > 1 for each in followers), within=30)
            acknowledge_more(history, 20)
        rest.all_ended()
        exported = [json.loads(line) for line in rest.send("GET", "/runs:export").text.splitlines()[:-1]]
        ledger = {(event["runId"], event["seq"]) for run in exported for event in run["events"]}
        for follower in followers:
            eventually(partial(follower.has, len(ledger)), within=20)
        told = sum((each.told for each in followers), Counter[str]())
        show(
            f"gone after {took:.1f} s, {len(followers)} clients with {len(ledger)} events each: {dict(told)}"
        )
        got = {tuple(each.lines) for each in followers}
        assert len(got) == 1
        events = [json.loads(line) for line in got.pop()]
        assert Counter((event["runId"], event["seq"]) for event in events) == Counter(ledger)
    assert told["ended with 1001"] == told["ended with the last chunk"] == CLIENTS_OF_A_WAY
