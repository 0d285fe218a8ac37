"""`orch run`, as a pipeline calls it: it waits, and tells the end by its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, shell
from tests.support.site import Site

SLEEP: Document = {"id": "s", "uses": "sleep", "with": {"ms": 6_000}}
SHORT: Document = {"id": "s", "uses": "sleep", "with": {"ms": 200}}


def orch(site: Site, rest: Rest, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ORCH_")}
    environ |= {"ORCH_URL": site.stack.url, "ORCH_TENANT": rest.tenant, "ORCH_TOKEN": site.token(rest.tenant)}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator_cli.main", "run", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], *, within: float = 60.0) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within)
    return process.returncode, out, err


def test_the_exit_status_tells_the_end(site: Site) -> None:
    with site.rest() as rest:
        rest.publish("good", [SHORT])
        rest.publish("bad", [SHORT, shell("a", "echo no; exit 3")], "s>a")
        rest.publish("long", [SLEEP])
        status, out, err = ended(orch(site, rest, "start", "good", "--wait"))
        assert (status, rest.run(out.strip())["status"]) == (0, "completed"), err
        assert "run completed" in err

        status, out, err = ended(orch(site, rest, "start", "bad", "--wait", "--inputs", '{"x": 1}'))
        assert (status, rest.run(out.strip())["status"]) == (4, "failed"), err
        assert "a: EXIT_STATUS: " in err

        process = orch(site, rest, "start", "long", "--wait", "--run-token", "only-once")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        run_id = rest.get("/runs?dagId=long")["items"][0]["runId"]
        rest.post(f"/runs/{run_id}:cancel", {})
        status, out, err = ended(process)
        assert (status, out.strip()) == (5, run_id), err

        # The same start again is the same run, whose end is known.
        assert ended(orch(site, rest, "start", "long", "--wait", "--run-token", "only-once"))[0] == 5


def test_what_cannot_be_started_is_an_error_of_its_own(site: Site) -> None:
    with site.rest() as rest:
        status, out, err = ended(orch(site, rest, "start", "never-published", "--wait"))
        assert (status, out) == (1, "")
        assert "404 DAG_NOT_FOUND" in err
        assert ended(orch(site, rest, "start", "x", "--inputs", "[]"))[0] == 1
        status, _, err = ended(orch(site, rest, "stream", "--after", "nonsense"))
        assert (status, "400 INVALID_ARGUMENT" in err) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_wait_survives_the_restart_of_the_server(shaken_site: Site, number: signal.Signals) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("long", [SLEEP, shell("a", "exit 1")], "s>a")
        process = orch(site, rest, "start", "long", "--wait")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        site.kill_and_await_next("web", number)
        status, _, err = ended(process)
        assert status == 4, err
        assert "the stream is interrupted" in err
        assert err.count("s                running\n") == 1
        site.await_health()


def test_a_stream_through_restarts_has_each_event_once(shaken_site: Site) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("plan", [SHORT, {"id": "b", "uses": "noop"}], "s>b")
        process = orch(site, rest, "stream", "--after", "0", "--dag-id", "plan")
        runs = []
        for round_no in range(3):
            runs += [rest.start("plan") for _ in range(5)]
            site.kill_and_await_next(("web", "redis", "web")[round_no])
            site.await_health()
        for run_id in runs:
            rest.ended(run_id)
        assert process.stdout is not None
        # Six of its steps, its begin and its end.
        told = [json.loads(process.stdout.readline()) for _ in range(len(runs) * 8)]
        process.send_signal(signal.SIGINT)
        status, rest_of_it, err = ended(process)
        assert (status, rest_of_it) == (130, ""), err
        for run_id in runs:
            mine = [event["seq"] for event in told if event["runId"] == run_id]
            assert mine == list(range(1, 9))


def test_a_reader_that_has_enough_ends_it_quietly(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        rest.publish("plan", [{"id": "a", "uses": "noop"}])
        process = orch(site, rest, "stream", "--after", "0")
        rest.ended(rest.start("plan"))
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        rest.ended(rest.start("plan"))
        assert process.stderr is not None
        assert (process.wait(timeout=20), process.stderr.read()) == (0, "")
        process.stderr.close()
