"""A process dies at each point of a run's way, just before a statement or a message and just after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.failpoints import FUNCTIONS, Failpoints
from tests.support.rest import Document, Rest, shell
from tests.support.site import Site, running_site

RECOVERED_WITHIN_S = 30.0
"""A process is started again within a second or two, a lease of three seconds runs out, a message is sent
again after one; the machine that tests may be busy."""
MOMENTS = ("before", "after")
STEPS = {"a": "a>b", "b": "b>c", "c": "c>d", "d": ""}

NEEDS_A_LONG_STEP = "shared.store.work:renew"
# Every point is passed by the run below, but for those that need a loss or a cancellation to come by at all.
NEEDS_A_LOSS = {
    "shared.store.recovery:rescue after": "orchestrator_worker.executor:run_attempt after",
    "shared.store.recovery:resend before": "shared.messaging.doorbell:send before",
    "shared.store.recovery:resend after": "shared.messaging.doorbell:send before",
}
NEEDS_A_CANCELLATION = "shared.store.runs:cancel"
POINTS = [f"{function} {moment}" for function in FUNCTIONS for moment in MOMENTS]


@pytest.fixture(scope="module")
def failpoints(tmp_path_factory: pytest.TempPathFactory) -> Failpoints:
    return Failpoints(folder=tmp_path_factory.mktemp("failpoints"))


@pytest.fixture(scope="module")
def shaken_site(tmp_path_factory: pytest.TempPathFactory, failpoints: Failpoints) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("shaken") / "data"
    with running_site(folder, environ=failpoints.environ()) as running:
        yield running


@pytest.fixture
def site(shaken_site: Site, failpoints: Failpoints) -> Iterator[Site]:
    """A stack whose processes have the points; afterwards all runs have ended, and all is well."""
    yield shaken_site
    failpoints.disarm()
    shaken_site.await_health()
    shaken_site.check()


def insist(rest: Rest, method: str, path: str, body: Document | None = None) -> Document:
    """Call until an answer comes, each time with the same key, as a client should."""
    headers = {"Idempotency-Key": str(uuid4())}

    def answer() -> Document | None:
        try:
            response = rest.send(method, path, body=body, headers=headers)
        except httpx.TransportError:
            return None
        if response.status_code in (409, 503):
            assert response.headers["Retry-After"], response.text
            return None
        assert response.is_success, response.text
        document: Document = response.json()
        return document

    document = eventually(answer, within=RECOVERED_WITHIN_S)
    assert document is not None
    return document


def ended(rest: Rest, run_id: str) -> Document:
    """Wait for the end of a run, whoever dies meanwhile."""

    def end() -> Document | None:
        run = insist(rest, "GET", f"/runs/{run_id}")
        return None if run["status"] == "running" else run

    run = eventually(end, within=RECOVERED_WITHIN_S)
    assert run is not None
    return run


def publish(rest: Rest, effects: Path, nap: str) -> None:
    """Publish a DAG that has a retry, a ``when``, a file and a log, and that notes each attempt it makes."""
    note = 'echo "$ORCH_STEP_ID/$ORCH_ATTEMPT" >>"$EFFECTS"; echo "$ORCH_RUN_ID" >"$ORCH_OUTPUT_DIR/file"; '
    flaky = shell(
        "b",
        note + '[ -e "$EFFECTS.failed" ] || { touch "$EFFECTS.failed"; exit 1; }; sleep "$NAP"',
        env={"EFFECTS": str(effects), "NAP": nap},
        retry={"maxAttempts": 3, "initialDelayMs": 50},
    )
    steps = [
        {"id": "a", "uses": "noop", "when": "true"},
        flaky,
        {"id": "c", "uses": "noop", "when": "steps.b.status == 'succeeded'"},
        shell("d", note, env={"EFFECTS": str(effects)}),
    ]
    rest.publish("walk", steps, *(edge for edge in STEPS.values() if edge))


@pytest.mark.parametrize("point", [p for p in POINTS if not p.startswith(NEEDS_A_CANCELLATION)])
def test_whoever_dies_at_a_point_the_run_is_there_once_and_ends(
    site: Site, failpoints: Failpoints, tmp_path: Path, point: str
) -> None:
    effects = tmp_path / "effects"
    with site.rest() as rest:
        publish(rest, effects, nap="1.5" if point.startswith(NEEDS_A_LONG_STEP) else "0")
        for armed in (point, NEEDS_A_LOSS.get(point)):
            if armed is not None:
                failpoints.arm(armed)
        started = insist(rest, "POST", "/runs", {"dagId": "walk", "runToken": "once"})
        run = ended(rest, started["runId"])
        assert failpoints.taken(point), "nobody came by"
        assert run["status"] == "completed"
        assert [run["runId"] for run in rest.runs()] == [started["runId"]]
        again = rest.post("/runs", {"dagId": "walk", "runToken": "once"})
        assert again["runId"] == started["runId"]
        for step in STEPS:
            attempts = rest.attempts(run["runId"], step)
            assert attempts.count("succeeded") == 1 and attempts[-1] == "succeeded", (step, attempts)
        done = effects.read_text().split()
        assert len(done) == len(set(done)), "an attempt did its work twice"
        for step in ("b", "d"):
            winner = len(rest.attempts(run["runId"], step))
            assert f"{step}/{winner}" in done, "a success without its work"


@pytest.mark.parametrize("point", [p for p in POINTS if p.startswith(NEEDS_A_CANCELLATION)])
def test_whoever_dies_while_a_run_is_cancelled_it_is_cancelled(
    site: Site, failpoints: Failpoints, point: str
) -> None:
    with site.rest() as rest:
        rest.publish("long", [{"id": "nap", "uses": "sleep", "with": {"ms": 60_000}}])
        run_id = rest.start("long")
        eventually(lambda: rest.attempts(run_id, "nap") == ["running"])
        failpoints.arm(point)
        insist(rest, "POST", f"/runs/{run_id}:cancel", {})
        assert failpoints.taken(point), "nobody came by"
        assert ended(rest, run_id)["status"] == "cancelled"
