"""`orch run`, as a pipeline calls it: it waits, and tells the end by its exit status."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, shell
from tests.support.site import Site, running_site
from tests.support.stack import clean_environ, orch

SLEEP: Document = {"id": "s", "uses": "sleep", "with": {"ms": 6_000}}
SHORT: Document = {"id": "s", "uses": "sleep", "with": {"ms": 200}}
SHORT_AFTER: Document = {**SHORT, "id": "t"}


def orch_run(site: Site, rest: Rest, *arguments: str) -> subprocess.Popen[str]:
    named = {"ORCH_URL": site.stack.url, "ORCH_TENANT": rest.tenant, "ORCH_TOKEN": site.token(rest.tenant)}
    return subprocess.Popen(
        orch("run", *arguments),
        env=clean_environ() | named,
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
        status, out, err = ended(orch_run(site, rest, "start", "good", "--wait"))
        assert (status, rest.run(out.strip())["status"]) == (0, "completed"), err
        assert "run completed" in err

        status, out, err = ended(orch_run(site, rest, "start", "bad", "--wait", "--inputs", '{"x": 1}'))
        assert (status, rest.run(out.strip())["status"]) == (4, "failed"), err
        assert "a: EXIT_STATUS: " in err

        process = orch_run(site, rest, "start", "long", "--wait", "--run-token", "only-once")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        run_id = rest.get("/runs?dagId=long")["items"][0]["runId"]
        rest.post(f"/runs/{run_id}:cancel", {})
        status, out, err = ended(process)
        assert (status, out.strip()) == (5, run_id), err

        # The same start again is the same run, whose end is known.
        assert ended(orch_run(site, rest, "start", "long", "--wait", "--run-token", "only-once"))[0] == 5


def test_what_cannot_be_started_is_an_error_of_its_own(site: Site) -> None:
    with site.rest() as rest:
        status, out, err = ended(orch_run(site, rest, "start", "never-published", "--wait"))
        assert (status, out) == (1, "")
        assert "404 DAG_NOT_FOUND" in err
        assert ended(orch_run(site, rest, "start", "x", "--inputs", "[]"))[0] == 1
        status, _, err = ended(orch_run(site, rest, "stream", "--after", "nonsense"))
        assert (status, "400 INVALID_ARGUMENT" in err) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_wait_survives_the_restart_of_the_server(shaken_site: Site, number: signal.Signals) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("long", [SLEEP, shell("a", "exit 1")], "s>a")
        process = orch_run(site, rest, "start", "long", "--wait")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        site.kill_and_await_next("web", number)
        status, _, err = ended(process)
        assert status == 4, err
        assert "the stream is interrupted" in err
        assert err.count("s                running\n") == 1
        site.await_health()


def test_a_wait_does_not_need_redis(shaken_site: Site) -> None:
    site = shaken_site
    with site.rest() as rest, site.redis() as redis:
        rest.publish("long", [SLEEP, SHORT_AFTER], "s>t")
        process = orch_run(site, rest, "start", "long", "--wait")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        redis.flushall()
        site.kill_and_await_next("redis")
        status, _, err = ended(process)
        assert status == 0, err
        site.await_health()


def test_a_wait_survives_that_everything_is_killed_at_once(shaken_site: Site) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("long", [SLEEP, shell("a", "exit 1")], "s>a")
        process = orch_run(site, rest, "start", "long", "--wait")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
        with site.supervisor_frozen():
            for name in site.processes():
                site.signal(name, signal.SIGKILL)
        status, out, err = ended(process, within=120)
        assert (status, rest.run(out.strip())["status"]) == (4, "failed"), err
        site.await_health()


def test_a_wait_survives_that_the_stack_is_stopped_and_started_again(tmp_path: Path) -> None:
    with running_site(tmp_path / "data") as site, site.rest("acme") as rest:
        port = urlsplit(site.stack.url).port
        assert port is not None
        rest.publish("long", [SLEEP, shell("a", "exit 1")], "s>a")
        process = orch_run(site, rest, "start", "long", "--wait")
        eventually(lambda: rest.get("/runs?dagId=long")["items"])
    assert process.poll() is None
    with running_site(tmp_path / "data", port=port) as site, site.rest("acme") as rest:
        status, out, err = ended(process)
        assert (status, rest.run(out.strip())["status"]) == (4, "failed"), err
        assert "the stream goes on" in err


def test_starts_while_the_server_is_killed_are_each_made_once(shaken_site: Site) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("plan", [{"id": "a", "uses": "noop"}])
        with site.supervisor_frozen():
            site.kill_with_all_below("web")
            refused = [orch_run(site, rest, "start", "plan") for _ in range(3)]
            for process in refused:
                assert process.stderr is not None
                assert "trying again" in process.stderr.readline()
        started = [orch_run(site, rest, "start", "plan", "--wait") for _ in range(3)]
        eventually(lambda: site.is_healthy() and rest.runs(), within=40)
        site.kill_and_await_next("web")
        answers = [ended(process) for process in refused + started]
        assert [status for status, _, _ in answers] == [0] * 6, answers
        site.await_health()
        assert {out.strip() for _, out, _ in answers} == {run["runId"] for run in rest.all_ended()}
        assert len(rest.runs()) == 6


def test_whoever_stops_waiting_leaves_the_run_as_it_is(site: Site) -> None:
    with site.rest() as rest:
        rest.publish("long", [SLEEP])
        process = orch_run(site, rest, "start", "long", "--wait")
        assert process.stderr is not None
        while "running" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        status, out, err = ended(process)
        assert status == 130
        assert f"run {out.strip()} goes on" in err
        assert rest.run(out.strip())["status"] == "running"
        assert rest.ended(out.strip())["status"] == "completed"


@pytest.mark.parametrize("unread", ["stdout", "stderr"])
def test_a_wait_that_nobody_reads_still_tells_the_end(site: Site, unread: str) -> None:
    with site.rest() as rest:
        rest.publish("bad", [SHORT, shell("a", "exit 3")], "s>a")
        process = orch_run(site, rest, "start", "bad", "--wait")
        getattr(process, unread).close()
        setattr(process, unread, None)
        assert ended(process)[0] == 4


def ledger_head(lines: list[str]) -> str:
    """Chain the hashes of lines of the stream, as the ledger has chained those of its own."""
    head = bytes(32)
    for line in lines:
        cursor = json.loads(line)["cursor"]
        head = hashlib.sha256(head + line.replace(f'"cursor":"{cursor}",', "", 1).encode()).digest()
    return head.hex()


def test_a_stream_through_restarts_has_each_event_once(shaken_site: Site) -> None:
    site = shaken_site
    with site.rest() as rest:
        rest.publish("plan", [SHORT, {"id": "b", "uses": "noop"}], "s>b")
        process = orch_run(site, rest, "stream", "--after", "0", "--dag-id", "plan")
        runs = []
        for round_no in range(3):
            runs += [rest.start("plan") for _ in range(5)]
            site.kill_and_await_next(("web", "redis", "web")[round_no])
            site.await_health()
        for run_id in runs:
            rest.ended(run_id)
        assert process.stdout is not None
        # Six of its steps, its begin and its end.
        told = [process.stdout.readline().removesuffix("\n") for _ in range(len(runs) * 8)]
        process.send_signal(signal.SIGINT)
        status, rest_of_it, err = ended(process)
        assert (status, rest_of_it) == (130, ""), err
        for run_id in runs:
            mine = [line for line in told if json.loads(line)["runId"] == run_id]
            assert [json.loads(line)["seq"] for line in mine] == list(range(1, 9))
            assert ledger_head(mine) == rest.run(run_id)["ledgerHead"]


def test_a_reader_that_has_enough_ends_it_quietly(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        rest.publish("plan", [{"id": "a", "uses": "noop"}])
        process = orch_run(site, rest, "stream", "--after", "0")
        rest.ended(rest.start("plan"))
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        rest.ended(rest.start("plan"))
        assert process.stderr is not None
        assert (process.wait(timeout=20), process.stderr.read()) == (0, "")
        process.stderr.close()
