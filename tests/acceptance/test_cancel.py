"""Cancellations that race with completions, and those of runs with many steps."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest
from tests.support.site import Site

STEPS = 10_000
ENDS = {"run.completed": "completed", "run.failed": "failed", "run.cancelled": "cancelled"}


def events_of(rest: Rest, dag_id: str) -> dict[str, list[Document]]:
    """Give the events of the DAG's runs, as the ledger has them."""
    lines = rest.send("GET", f"/runs:export?dagId={dag_id}").text.splitlines()[:-1]
    return {one["runId"]: one["events"] for one in map(json.loads, lines)}


def test_a_run_that_races_with_its_cancellation_ends_once_and_as_the_caller_was_told(
    site: Site, show: Callable[[str], None], races: int
) -> None:
    with site.rest() as rest:
        rest.publish("race", [{"id": "only", "uses": "sleep", "with": {"ms": 15}}])
        answers: dict[str, tuple[int, Document]] = {}
        together = threading.Barrier(2)

        def race(number: int) -> None:
            with site.rest(rest.tenant) as mine:
                run_id = mine.start("race")
                together.wait(20)
                # From before the step begins to after it has ended.
                time.sleep(0.04 * (number % 20) / 20)
                answer = mine.send("POST", f"/runs/{run_id}:cancel", body={})
                answers[run_id] = answer.status_code, answer.json()

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(race, range(races)))
        rest.all_ended()
        ended = {run["runId"]: run for run in rest.runs()}
        assert len(answers) == len(ended) == races
        for run_id, events in events_of(rest, "race").items():
            (end,) = [ENDS[event["type"]] for event in events if event["type"] in ENDS]
            assert end == ended[run_id]["status"]
            status, body = answers[run_id]
            if status == 202:
                assert end == "cancelled"
                assert body["status"] in ("running", "cancelled")
                assert body["cancelRequestedUtc"] == ended[run_id]["cancelRequestedUtc"]
            else:
                assert (status, body["error"]["code"]) == (409, "RUN_ALREADY_FINISHED")
                assert end == "completed"
                assert ended[run_id]["cancelRequestedUtc"] is None
        outcomes = Counter(run["status"] for run in ended.values())
        show(f"{races} races: {dict(outcomes)}")
        # Else it was no race.
        assert set(outcomes) == {"completed", "cancelled"}


def test_to_cancel_twice_is_to_cancel_once(site: Site) -> None:
    with site.rest() as rest:
        rest.publish("hold", [{"id": "only", "uses": "sleep", "with": {"ms": 60_000}}])
        run_id = rest.start("hold")
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda reason: _cancel(site, rest, run_id, reason), "abcdefgh"))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["cancelReason"] for answer in answers}) == 1
        assert len({answer.json()["cancelRequestedUtc"] for answer in answers}) == 1
        assert rest.ended(run_id)["status"] == "cancelled"
        (events,) = events_of(rest, "hold").values()
        assert [event["type"] for event in events].count("run.updated") == 1


def _cancel(site: Site, rest: Rest, run_id: str, reason: str) -> httpx.Response:
    with site.rest(rest.tenant) as mine:
        return mine.send("POST", f"/runs/{run_id}:cancel", body={"reason": reason})


def test_a_run_of_many_steps_is_cancelled_within_a_second(site: Site, show: Callable[[str], None]) -> None:
    """Some steps have ended, some run, some are queued, some are to be tried again, most are pending."""
    seconds = itertools.cycle([{"ms": 1}, {"ms": 60_000}])
    with site.rest() as rest:
        first: list[Document] = [
            {"id": f"a{number}", "uses": "sleep", "with": next(seconds)} for number in range(30)
        ]
        retried = {"maxAttempts": 9, "initialDelayMs": 60_000, "maxDelayMs": 60_000}
        command = {"argv": ["/bin/sh", "-c", "exit 1"]}
        again = [{"id": "0-again", "uses": "command", "with": command, "retry": retried}]
        rest_of_it = [{"id": f"b{number}", "uses": "noop"} for number in range(STEPS - 31)]
        edges = [f"a{number % 30}>b{number}" for number in range(STEPS - 31)]
        edges += [f"a{(number + 1) % 30}>b{number}" for number in range(STEPS - 31)]
        rest.publish("large", [*again, *first, *rest_of_it], *edges)
        run_id = rest.start("large")
        eventually(lambda: rest.attempts(run_id, "0-again") == ["failed"], within=20)
        statuses = Counter(step["status"] for step in rest.run(run_id)["steps"])
        assert set(statuses) >= {"pending", "queued", "running", "retrying", "succeeded"}
        begun = time.monotonic()
        answer = rest.send("POST", f"/runs/{run_id}:cancel", body={})
        answered = time.monotonic() - begun
        show(f"{STEPS} steps, {dict(statuses)}: cancelled in {answered:.2f} s")
        assert answer.status_code == 202
        assert answered < 1.0
        assert rest.ended(run_id)["status"] == "cancelled"
