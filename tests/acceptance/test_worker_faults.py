"""Workers that are killed, told to go, frozen: every step is still recorded once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, seconds_between, shell
from tests.support.site import GRACE_S, LEASE_S, Site
from tests.support.stack import alive

CHILDREN_GONE_WITHIN_S = 3.0
FIRST_HANGS = (
    'echo "$ORCH_ATTEMPT" >>"$EFFECTS"; [ "$ORCH_ATTEMPT" -gt 1 ] || { setsid sleep 300 & sleep 300; }'
)
"""Its first attempt would take for ever, and has a child that left the session; the next ends at once."""


@pytest.fixture
def site(shaken_site: Site) -> Iterator[Site]:
    """A stack with two workers; after the test both work, and all is well in the ledger."""
    eventually(lambda: all(shaken_site.log(name).count("worker_ready") for name in shaken_site.workers()))
    yield shaken_site
    shaken_site.check()


def start_hanging(rest: Rest, site: Site, effects: Path, script: str = FIRST_HANGS) -> tuple[str, str]:
    """Start a run whose middle step hangs; give it and the worker that has the step."""
    step = shell("middle", script, env={"EFFECTS": str(effects)})
    rest.publish(
        "hanging",
        [{"id": "before", "uses": "noop"}, step, {"id": "after", "uses": "noop"}],
        *("before>middle", "middle>after"),
    )
    run_id = rest.start("hanging")
    eventually(lambda: effects.exists() and effects.read_text() == "1\n")
    eventually(lambda: len(site.step_processes()) >= 3)
    (attempt,) = rest.step(run_id, "middle")["attempts"]
    return run_id, site.worker_of(attempt)


def check_recorded_once(rest: Rest, run_id: str, *attempts: str) -> list[Document]:
    """Hold the run to its end, the middle step to these attempts and the others to one; give the former."""
    run = rest.ended(run_id, within=LEASE_S + 12)
    assert run["status"] == "completed", run
    assert [rest.attempts(run_id, step) for step in ("before", "after")] == [["succeeded"]] * 2
    made: list[Document] = rest.step(run_id, "middle")["attempts"]
    assert [attempt["status"] for attempt in made] == list(attempts)
    assert [attempt["attempt"] for attempt in made] == list(range(1, len(made) + 1))
    return made


def test_a_step_whose_worker_is_killed_runs_again_and_is_recorded_once(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        run_id, worker = start_hanging(rest, site, tmp_path / "effects")
        children = site.step_processes()
        site.kill_and_await_next(worker)
        eventually(lambda: not alive(children), within=CHILDREN_GONE_WITHIN_S)
        lost, won = check_recorded_once(rest, run_id, "lost", "succeeded")
        assert lost["errorCode"] == "WORKER_LOST"
        assert lost["workerId"] != won["workerId"]
        assert (tmp_path / "effects").read_text() == "1\n2\n"
        eventually(lambda: not list(site.stack.folder.work.iterdir()))


def test_all_workers_killed_at_once_with_all_slots_taken_lose_nothing(site: Site, tmp_path: Path) -> None:
    script = 'echo "$ORCH_STEP_ID" >>"$EFFECTS"; [ "$ORCH_ATTEMPT" -gt 1 ] || sleep 300'
    steps = [shell(f"s{number}", script, env={"EFFECTS": str(tmp_path / "effects")}) for number in range(12)]
    with site.rest() as rest:
        rest.publish("wide", [*steps, {"id": "end", "uses": "noop"}], *(f"{s['id']}>end" for s in steps))
        run_id = rest.start("wide")
        slots = 4 * len(site.workers())
        eventually(lambda: _statuses(rest, run_id).count("running") == slots)
        children = site.step_processes()
        for worker in site.workers():
            site.signal(worker, signal.SIGKILL)
        eventually(lambda: not alive(children), within=CHILDREN_GONE_WITHIN_S)
        # The steps that were still queued hang at their first attempt, too: their workers are killed next.
        eventually(lambda: _statuses(rest, run_id).count("succeeded") == slots, within=25)
        eventually(lambda: _statuses(rest, run_id).count("running") == 12 - slots)
        for worker in site.workers():
            site.kill_and_await_next(worker)
        run = rest.ended(run_id, within=25)
        assert run["status"] == "completed"
        assert {tuple(rest.attempts(run_id, step["id"])) for step in steps} == {("lost", "succeeded")}


def test_a_worker_that_is_told_to_go_gives_its_step_to_another_at_once(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        run_id, worker = start_hanging(rest, site, tmp_path / "effects")
        site.signal(worker, signal.SIGTERM)
        released, won = check_recorded_once(rest, run_id, "released", "succeeded")
        assert seconds_between(released["startedUtc"], released["endedUtc"]) > GRACE_S
        assert seconds_between(released["endedUtc"], won["startedUtc"]) < 1
        assert released["workerId"] != won["workerId"]
        eventually(lambda: site.log(worker).count("worker_ready"))


def test_a_worker_that_was_frozen_for_longer_than_its_lease_changes_nothing(
    site: Site, tmp_path: Path
) -> None:
    # The frozen worker's command goes on, and its success waits in the pipe for the thaw.
    script = (
        'echo "$ORCH_ATTEMPT" >>"$EFFECTS";'
        '[ "$ORCH_ATTEMPT" -gt 1 ] || until [ -e "$EFFECTS.go" ]; do sleep 0.05; done;'
        'echo "{\\"by\\": $ORCH_ATTEMPT}" >"$ORCH_OUTPUT_DIR/outputs.json"; echo done >>"$EFFECTS"'
    )
    effects = tmp_path / "effects"
    with site.rest() as rest:
        run_id, worker = start_hanging(rest, site, effects, script)
        site.signal(worker, signal.SIGSTOP)
        try:
            (tmp_path / "effects.go").touch()
            eventually(lambda: effects.read_text() == "1\ndone\n")
            check_recorded_once(rest, run_id, "lost", "succeeded")
            before = rest.run(run_id), rest.step(run_id, "middle")
        finally:
            site.signal(worker, signal.SIGCONT)
        eventually(lambda: "result_thrown_away" in site.log(worker) or "lease_lost" in site.log(worker))
        # It works again, and takes what comes next.
        eventually(lambda: not site.step_processes())
        assert (rest.run(run_id), rest.step(run_id, "middle")) == before
        assert before[1]["outputs"]["by"] == 2
        assert rest.ended(rest.start("hanging"))["status"] == "completed"


def test_a_worker_cut_off_from_the_ledger_ends_its_command_before_the_lease_does(
    site: Site, tmp_path: Path
) -> None:
    with site.rest() as rest:
        run_id, _ = start_hanging(rest, site, tmp_path / "effects")
        children = site.step_processes()
        with site.supervisor_frozen():
            site.kill_with_all_below("postgres")
            # Counted from before the last renewal, so from the kill on there is less than a lease.
            eventually(lambda: not alive(children), within=LEASE_S)
            assert (tmp_path / "effects").read_text() == "1\n"
        eventually(lambda: rest.send("GET", "/admin/health").status_code == 200, within=20)
        check_recorded_once(rest, run_id, "lost", "succeeded")


def test_a_step_that_kills_each_of_its_workers_ends_as_lost(site: Site) -> None:
    # The worker is the parent of the process that keeps the command's tree.
    murder = "kill -9 $(cut -d ' ' -f 4 /proc/$PPID/stat)"
    with site.rest() as rest, site.rest() as neighbour:
        rest.publish("murder", [shell("poison", murder), {"id": "after", "uses": "noop"}], "poison>after")
        neighbour.publish("innocent", [{"id": "only", "uses": "noop"}])
        run_id = rest.start("murder")
        innocent = neighbour.start("innocent")
        run = rest.ended(run_id, within=60)
        assert run["status"] == "failed"
        assert rest.attempts(run_id, "poison") == ["lost"] * 5
        poison = rest.step(run_id, "poison")
        assert poison["errorCode"] == "WORKER_LOST"
        assert neighbour.ended(innocent)["status"] == "completed"
        # One that dies again and again is started ever later, but it is started.
        eventually(lambda: rest.send("GET", "/admin/health").status_code == 200, within=20)


def _statuses(rest: Rest, run_id: str) -> list[str]:
    return [step["status"] for step in rest.run(run_id)["steps"]]
