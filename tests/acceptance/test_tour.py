"""What a new user does: publish a DAG of one's own, run it, look at everything that it left."""

from __future__ import annotations

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.domain.hashing import hash_json
from tests.support.eventually import eventually
from tests.support.rest import Document, Rest, by_step, shell
from tests.support.site import KILL_GRACE_S, Site
from tests.support.stack import alive, clean_environ, orch

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NEVER_USED = "01a20146-60f9-78df-9ee5-650816d4c647"


def minted(site: Site, tenant: str) -> str:
    scopes = [part for scope in ("read", "write", "admin") for part in ("--scope", f"orchestrator:{scope}")]
    command = orch("token", "mint", "--data-dir", str(site.stack.folder.path), "--tenant", tenant, *scopes)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environ())
    return done.stdout.strip()


def greeting(dag_id: str = "greeting") -> Document:
    write = (
        'printf "hello %s" "$WHO" >"$ORCH_OUTPUT_DIR/hello.txt";'
        'echo "{\\"words\\": 2}" >"$ORCH_OUTPUT_DIR/outputs.json"; echo said'
    )
    return {
        "dagId": dag_id,
        "version": "1.0.0",
        "steps": [
            {"id": "count", "uses": "noop", "with": {"twice": "${{ steps.say.outputs.words * 2 }}"}},
            shell("say", write, env={"WHO": "${{ inputs.who }}"}),
        ],
        "edges": [{"from": "say", "to": "count"}],
        "metadata": {
            "inputsSchema": {
                "type": "object",
                "properties": {"who": {"type": "string"}},
                "required": ["who"],
            }
        },
    }


def test_a_dag_is_published_run_and_read_with_a_minted_token(site: Site) -> None:
    with Rest(site.stack.url, token=minted(site, "newcomer"), tenant="newcomer") as rest:
        published = rest.send("POST", "/dags", body=greeting())
        assert published.status_code == 201
        assert rest.send("POST", "/dags", body=greeting()).status_code == 200
        location = published.headers["Location"].removeprefix("/api/v1/orchestrator")
        version = rest.get(location)
        assert version["specHash"] == published.json()["specHash"]
        assert [step["id"] for step in version["steps"]] == ["say", "count"]
        assert [item["dagId"] for item in rest.get("/dags")["items"]] == ["greeting"]

        started = rest.send(
            "POST",
            "/runs",
            body={"dagId": "greeting", "inputs": {"who": "you"}},
            headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        )
        assert started.status_code == 201
        assert started.json()["traceId"] == started.headers["X-Trace-Id"] == TRACE
        run_id = started.json()["runId"]
        assert started.headers["Location"].endswith(f"/runs/{run_id}")

        run = rest.ended(run_id)
        assert run["status"] == "completed", by_step(run)
        assert run["inputsHash"] == hash_json({"who": "you"})
        steps = [[step["stepId"], step["status"], step["outputsHash"]] for step in run["steps"]]
        whole = {"specHash": version["specHash"], "inputsHash": run["inputsHash"], "steps": steps}
        assert run["outputsHash"] == hash_json(whole)
        assert rest.step(run_id, "count")["outputs"] == {"twice": 4}


def test_steps_attempts_and_artifacts_of_a_run_can_be_read(site: Site) -> None:
    with site.rest() as rest:
        rest.post("/dags", greeting())
        run_id = rest.start("greeting", inputs={"who": "world"})
        first = rest.ended(run_id)

        page = rest.get(f"/runs/{run_id}/steps?page_size=1")
        last = rest.get(f"/runs/{run_id}/steps?page_size=1&page_token={page['next_page_token']}")
        assert [step["stepId"] for step in page["items"] + last["items"]] == ["say", "count"]
        assert "next_page_token" not in last

        say = rest.step(run_id, "say")
        assert say["outputs"]["exitCode"] == 0
        assert say["outputsHash"] == hash_json(say["outputs"])
        (attempt,) = say["attempts"]
        assert (attempt["attempt"], attempt["status"], attempt["errorCode"]) == (1, "succeeded", None)
        assert attempt["durationMs"] >= 0
        assert attempt["outputsHash"] == say["outputsHash"]
        assert rest.artifact(attempt["logsRef"]) == b"said\n"

        file = say["outputs"]["files"]["hello.txt"]
        assert file == {"hash": hashlib.sha256(b"hello world").hexdigest(), "size": 11}
        assert rest.artifact(file["hash"]) == b"hello world"
        part = rest.send("GET", f"/artifacts/{file['hash']}", headers={"Range": "bytes=6-"})
        assert (part.status_code, part.content) == (206, b"world")
        known = {"If-None-Match": part.headers["ETag"]}
        assert rest.send("GET", f"/artifacts/{file['hash']}", headers=known).status_code == 304

        second = rest.ended(rest.start("greeting", inputs={"who": "world"}))
        assert second["outputsHash"] == first["outputsHash"]
        assert [run["runId"] for run in rest.runs()] == [second["runId"], run_id]
        assert [run["runId"] for run in rest.runs(f"&from={second['startedUtc']}")] == [second["runId"]]


def test_when_retries_and_run_on_decide_as_written(site: Site) -> None:
    third_time = '[ "$ORCH_ATTEMPT" -ge 3 ] || { echo "not yet: $ORCH_ATTEMPT" >&2; exit 7; }'
    patient = {"maxAttempts": 3, "initialDelayMs": 40, "maxDelayMs": 1_000, "multiplier": 2}
    twice = {"maxAttempts": 2, "initialDelayMs": 10, "maxDelayMs": 10, "multiplier": 1}
    steps = [
        shell("flaky", third_time, retry=patient),
        {"id": "never", "uses": "noop", "when": "steps.flaky.outputs.exitCode != 0"},
        {"id": "past-never", "uses": "noop", "when": "steps.never.status == 'skipped'"},
        shell("wrong", "exit 3", retry=twice),
        {"id": "after-wrong", "uses": "noop"},
        {"id": "mend", "uses": "noop", "runOn": "failure", "with": {"saw": "${{ steps.wrong.status }}"}},
        {"id": "no-need", "uses": "noop", "runOn": "failure"},
        {"id": "tidy", "uses": "noop", "runOn": "always"},
        {"id": "off", "uses": "noop", "disabled": True},
        {"id": "past-off", "uses": "noop"},
        {"id": "root-when", "uses": "noop", "when": "inputs.go"},
        {"id": "no-such", "uses": "noop", "when": "inputs.missing == 1"},
        shell("slow", "trap '' TERM; while :; do sleep 0.1; done", timeoutMs=300),
    ]
    with site.rest() as rest:
        rest.publish(
            "rules",
            steps,
            *("flaky>never", "never>past-never", "wrong>after-wrong", "wrong>mend", "flaky>no-need"),
            *("after-wrong>tidy", "past-never>tidy", "off>past-off"),
        )
        run = rest.ended(rest.start("rules", inputs={"go": True}))
        assert run["status"] == "failed"
        assert by_step(run) == {
            "flaky": "succeeded",
            "never": "CONDITION_FALSE",
            "past-never": "succeeded",
            "wrong": "EXIT_STATUS",
            "after-wrong": "UPSTREAM_FAILED",
            "mend": "succeeded",
            "no-need": "CONDITION_FALSE",
            "tidy": "succeeded",
            "off": "STEP_DISABLED",
            "past-off": "succeeded",
            "root-when": "succeeded",
            "no-such": "EXPRESSION_ERROR",
            "slow": "TIMEOUT",
        }
        assert rest.attempts(run["runId"], "flaky") == ["failed", "failed", "succeeded"]
        assert rest.attempts(run["runId"], "wrong") == ["failed", "failed"]
        assert rest.attempts(run["runId"], "never") == []
        assert rest.step(run["runId"], "mend")["outputs"] == {"saw": "failed"}
        first = rest.step(run["runId"], "flaky")["attempts"][0]
        assert "not yet: 1" in first["errorMessage"]


def test_cancelling_kills_a_command_that_ignores_the_polite_request(site: Site) -> None:
    stubborn = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 300\" & while :; do sleep 1; done"
    with site.rest() as rest:
        rest.publish("stubborn", [shell("hold", stubborn), {"id": "later", "uses": "noop"}], "hold>later")
        run_id = rest.start("stubborn")
        # The keeper, the shell and its two children, one of them in a session of its own.
        eventually(lambda: len(site.step_processes()) >= 4)
        processes = site.step_processes()
        answer = rest.send("POST", f"/runs/{run_id}:cancel", body={"reason": "changed my mind"})
        assert answer.status_code == 202
        assert answer.json()["cancelReason"] == "changed my mind"
        eventually(lambda: not alive(processes), within=KILL_GRACE_S + 2)
        run = rest.ended(run_id, within=2)
        assert run["status"] == "cancelled"
        assert by_step(run) == {"hold": "CANCELLED", "later": "CANCELLED"}
        assert rest.attempts(run_id, "hold") == ["cancelled"]
        again = rest.send("POST", f"/runs/{run_id}:cancel", body={"reason": "another"})
        assert again.is_success
        assert again.json()["cancelReason"] == "changed my mind"


def test_what_one_tenant_has_does_not_exist_for_another(site: Site) -> None:
    with site.rest() as own, site.rest() as other:
        own.post("/dags", greeting())
        run_id = own.start("greeting", inputs={"who": "me"}, runToken="same")
        own.ended(run_id)
        file = own.step(run_id, "say")["outputs"]["files"]["hello.txt"]["hash"]
        for method, path, known, unused in (
            ("GET", "/dags/{}/1.0.0", "greeting", "nothing"),
            ("GET", "/runs/{}", run_id, NEVER_USED),
            ("GET", "/runs/{}/steps", run_id, NEVER_USED),
            ("GET", "/runs/{}/steps/say", run_id, NEVER_USED),
            ("GET", "/artifacts/{}", file, "0" * 64),
            ("POST", "/runs/{}:cancel", run_id, NEVER_USED),
            ("POST", "/dags/{}/1.0.0:disable", "greeting", "nothing"),
            ("POST", "/dags/{}/1.0.0:enable", "greeting", "nothing"),
        ):
            if method == "GET":
                assert own.send(method, path.format(known)).status_code == 200
            assert _refusal(other, method, path, known) == _refusal(other, method, path, unused)
        assert other.send("POST", "/runs", body={"dagId": "greeting"}).status_code == 404
        assert other.get("/dags")["items"] == other.runs() == []

        # The same names, the same run token, the same bytes: each tenant's are its own.
        other.post("/dags", greeting())
        theirs = other.start("greeting", inputs={"who": "me"}, runToken="same")
        assert theirs != run_id
        assert other.ended(theirs)["status"] == "completed"
        assert other.artifact(file) == b"hello me"
        assert [run["runId"] for run in other.runs()] == [theirs]
        assert [run["runId"] for run in own.runs()] == [run_id]
        queues = other.get("/admin/health")["queues"]
        assert {queue["tenant"] for queue in queues} <= {other.tenant}


def _refusal(rest: Rest, method: str, path: str, asked_for: str) -> tuple[Document, set[str]]:
    """Give the 404 of a request, without what differs from one request to the next in any case."""
    response = rest.send(method, path.format(asked_for), body={} if method == "POST" else None)
    assert response.status_code == 404, f"{method} {path}"
    error: Document = response.json()["error"]
    del error["trace_id"]
    error["message"] = error["message"].replace(asked_for, "{}")
    return error, set(response.headers)


def test_one_run_token_starts_one_run_however_many_arrive_at_once(site: Site) -> None:
    with site.rest() as rest:
        rest.publish("once", [{"id": "only", "uses": "noop"}])
        body = {"dagId": "once", "runToken": "token", "inputs": {"n": 1}}
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: rest.send("POST", "/runs", body=body), range(40)))
        assert sorted(answer.status_code for answer in answers) == [200] * 39 + [201]
        assert len({answer.json()["runId"] for answer in answers}) == 1
        assert len(rest.all_ended()) == 1


def test_a_step_sees_where_it_is_and_nothing_of_the_worker(site: Site, tmp_path: Path) -> None:
    with site.rest() as rest:
        rest.publish("where", [shell("look", f"env >{tmp_path}/environ; pwd >{tmp_path}/folder")])
        run_id = rest.start("where")
        run = rest.ended(run_id)
        environ = dict(line.split("=", 1) for line in (tmp_path / "environ").read_text().splitlines())
        assert environ["ORCH_RUN_ID"] == run_id
        assert (environ["ORCH_STEP_ID"], environ["ORCH_ATTEMPT"]) == ("look", "1")
        assert environ["TRACEPARENT"].split("-")[1] == run["traceId"]
        ours = {"ORCH_RUN_ID", "ORCH_STEP_ID", "ORCH_ATTEMPT", "ORCH_OUTPUT_DIR"}
        assert {name for name in environ if name.startswith("ORCH_")} == ours
        assert not Path((tmp_path / "folder").read_text().strip()).exists()
