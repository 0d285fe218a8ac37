"""Redis, PostgreSQL and the API are killed, emptied, frozen: nothing acknowledged is lost, every run ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from shared.embedded.process_tree import descendants
from tests.support.clients import (
    History,
    acknowledge_more,
    check_nothing_lost,
    check_only_unavailable,
    clients_starting_runs,
    publish_short,
    start,
)
from tests.support.eventually import eventually
from tests.support.rest import Rest, shell
from tests.support.site import Site

pytestmark = pytest.mark.timed

ANSWERED_WITHIN_S = 5.0
"""With PostgreSQL away or frozen a request waits for four and a half seconds, and is then refused."""
STARTED_WITHIN_S = 1.0
"""With Redis away a start is not slower than else; the machine that tests may be busy."""
SLEEP_MS = 400
FROZEN_S = 10.0
SERVES_AGAIN_WITHIN_S = 2.0
CUT_OFF_WITHIN_S = 5.0
"""A follower looks several times a second; gunicorn would give requests under way three times as long."""


@pytest.fixture
def site(shaken_site: Site) -> Iterator[Site]:
    """A healthy stack; after the test it is healthy again, and all is well in the ledger."""
    shaken_site.await_health()
    yield shaken_site
    shaken_site.await_health()
    shaken_site.check()


def test_runs_that_are_queued_when_redis_is_flushed_all_end(site: Site) -> None:
    with site.rest() as rest, site.redis() as redis:
        rest.publish("sleepy", [{"id": "nap", "uses": "sleep", "with": {"ms": SLEEP_MS}}])
        started = [rest.start("sleepy") for _ in range(40)]
        for left in (24, 8):
            eventually(lambda: redis.keys("*steps.default*"))
            redis.flushall()
            eventually(partial(_fewer_running, rest, left), within=40)
        runs = rest.all_ended()
        assert {run["runId"] for run in runs} == set(started)
        assert {run["status"] for run in runs} == {"completed"}
        assert all(rest.attempts(run_id, "nap") == ["succeeded"] for run_id in started)


def _fewer_running(rest: Rest, number: int) -> bool:
    return len(rest.runs("&status=running")) <= number


def test_runs_start_while_redis_is_dead_and_go_on_when_it_is_back(site: Site) -> None:
    with site.rest() as rest:
        publish_short(rest)
        history = History()
        with site.supervisor_frozen():
            site.kill_with_all_below("redis")
            for number in range(20):
                assert start(rest, str(number), history), history.refused[0].text
            assert history.slowest < STARTED_WITHIN_S
            health = rest.send("GET", "/admin/health")
            assert health.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert health.json()["checks"] == {"postgres": "ok", "redis": "down", "workers": "ok"}
            (queue,) = health.json()["queues"]
            assert queue["depth"] > 0
        check_nothing_lost(rest, history)


def test_a_frozen_redis_slows_no_start_of_a_run(site: Site) -> None:
    with site.rest() as rest:
        publish_short(rest)
        history = History()
        site.signal("redis", signal.SIGSTOP)
        try:
            for number in range(20):
                assert start(rest, str(number), history), history.refused[0].text
            assert history.slowest < STARTED_WITHIN_S
        finally:
            site.signal("redis", signal.SIGCONT)
        check_nothing_lost(rest, history)


# Asked by SIGTERM, PostgreSQL would wait for our connections to close before it ends.
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_when_postgresql_is_ended_under_load_nothing_acknowledged_is_lost(
    site: Site, number: signal.Signals
) -> None:
    with site.rest() as rest:
        publish_short(rest)
        with clients_starting_runs(rest) as history:
            for _ in range(2):
                acknowledge_more(history, 30)
                site.kill_and_await_next("postgres", number)
            acknowledge_more(history, 30)
        assert not history.unknown
        assert history.slowest < ANSWERED_WITHIN_S
        check_only_unavailable(history)
        check_nothing_lost(rest, history)


def test_while_postgresql_is_dead_every_answer_is_that_it_is_unavailable(site: Site) -> None:
    with site.rest() as rest:
        publish_short(rest)
        run_id = rest.start("short")
        with site.supervisor_frozen():
            site.kill_with_all_below("postgres")
            history = History()
            for method, path in (
                ("GET", "/dags"),
                ("GET", "/dags/short/1.0.0"),
                ("POST", "/dags/short/1.0.0:disable"),
                ("GET", "/runs"),
                ("GET", f"/runs/{run_id}"),
                ("POST", f"/runs/{run_id}:cancel"),
                ("GET", f"/runs/{run_id}/steps"),
                ("GET", f"/runs/{run_id}/steps/a"),
                ("GET", f"/artifacts/{'0' * 64}"),
                ("GET", "/admin/health"),
            ):
                history.refused.append(rest.send(method, path, body={} if method == "POST" else None))
            assert not start(rest, "during", history)
            check_only_unavailable(history)
        eventually(lambda: start(rest, "after", history), within=30)
        assert rest.ended(run_id)["status"] == "completed"
        rest.all_ended()


def test_while_postgresql_is_frozen_every_call_is_answered_and_then_all_goes_on(
    site: Site, show: Callable[[str], None]
) -> None:
    with site.rest() as rest:
        publish_short(rest)
        with clients_starting_runs(rest) as history:
            acknowledge_more(history, 20)
            postgres = site.processes()["postgres"]
            frozen = [postgres, *descendants(postgres)]
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            try:
                begun, healths = time.monotonic(), 0.0
                while time.monotonic() - begun < FROZEN_S:
                    asked = time.monotonic()
                    answer = rest.send("GET", "/admin/health")
                    healths = max(healths, time.monotonic() - asked)
                    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                    assert answer.json()["checks"]["postgres"] == "down"
            finally:
                for pid in reversed(frozen):
                    os.kill(pid, signal.SIGCONT)
            thawed = time.monotonic()
            eventually(lambda: start(rest, "after", history), within=10)
            back = time.monotonic() - thawed
            acknowledge_more(history, 20)
        show(
            f"frozen {FROZEN_S:.0f} s: slowest answer {history.slowest:.2f} s, of health {healths:.2f} s,"
            f" {len(history.refused)} refused; served again after {back:.2f} s"
        )
        assert not history.unknown
        assert max(history.slowest, healths) < ANSWERED_WITHIN_S
        assert back < SERVES_AGAIN_WITHIN_S
        check_only_unavailable(history)
        check_nothing_lost(rest, history)


def test_when_the_api_is_killed_a_repeated_start_is_the_same_run(site: Site) -> None:
    with site.rest() as rest:
        publish_short(rest)
        with clients_starting_runs(rest) as history:
            for _ in range(2):
                acknowledge_more(history, 30)
                # The master alone: its worker has to notice by itself, or be ended by the supervisor.
                site.kill_and_await_next("web")
            acknowledge_more(history, 30)
        check_only_unavailable(history)
        check_nothing_lost(rest, history)


def publish_talking(rest: Rest, go: Path) -> None:
    """Publish a command that says a word, waits for a file, and says another one."""
    script = f"echo one; until test -e {go}; do sleep 0.02; done; echo two"
    rest.publish("talk", [shell("talk", script)])


def test_a_log_is_followed_to_its_end_though_redis_loses_its_beginning(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        publish_talking(rest, tmp_path / "go")
        run_id = rest.start("talk")
        with rest.following(run_id, "talk") as response:
            pieces = response.iter_bytes()
            assert next(pieces) == b"one\n"
            site.kill_and_await_next("redis")
            (tmp_path / "go").touch()
            assert b"".join(pieces) == b"two\n"
        assert rest.ended(run_id)["status"] == "completed"


def test_the_api_stops_without_waiting_for_the_step_that_a_client_follows(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        publish_talking(rest, tmp_path / "go")
        run_id = rest.start("talk")
        with rest.following(run_id, "talk") as response:
            pieces = response.iter_bytes()
            assert next(pieces) == b"one\n"
            begun = time.monotonic()
            site.signal("web", signal.SIGTERM)
            with pytest.raises(httpx.RemoteProtocolError):  # The client sees that this is not the end.
                next(pieces)
            assert time.monotonic() - begun < CUT_OFF_WITHIN_S
        (tmp_path / "go").touch()
        site.await_health()
        assert rest.ended(run_id)["status"] == "completed"


def test_when_everything_is_killed_at_once_every_run_still_ends(site: Site) -> None:
    with site.rest() as rest:
        publish_short(rest)
        with clients_starting_runs(rest) as history:
            acknowledge_more(history, 30)
            before = site.processes()
            with site.supervisor_frozen():
                for name in before:
                    site.signal(name, signal.SIGKILL)
            eventually(lambda: _all_replaced(site, before), within=40)
            acknowledge_more(history, 30)
        check_only_unavailable(history)
        check_nothing_lost(rest, history)


def _all_replaced(site: Site, before: dict[str, int]) -> bool:
    now = site.processes()
    return set(now) == set(before) and all(now[name] != pid for name, pid in before.items())
