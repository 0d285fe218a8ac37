"""The examples, published and run as their READMEs say, on a stack that `orch up` started."""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.eventually import eventually
from tests.unit.examples.audited import AuditedEnvironment

EXAMPLES = Path(__file__).parents[2] / "examples"
ORCH = (sys.executable, "-m", "orchestrator_cli.main")
SCOPES = ("orchestrator:read", "orchestrator:write", "orchestrator:admin")
START_S = 60
RUN_S = 60
Document = dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[httpx.Client]:
    """A client with a token, and both examples published."""
    folder = Path(tempfile.mkdtemp(prefix="orch-"))
    try:
        with orch_up(folder) as url:
            scopes = [argument for scope in SCOPES for argument in ("--scope", scope)]
            mint = [*ORCH, "token", "mint", "--data-dir", str(folder), "--tenant", "acme", *scopes]
            token = subprocess.run(
                mint, capture_output=True, text=True, check=True, timeout=START_S
            ).stdout.strip()
            headers = {"Authorization": f"Bearer {token}", "X-Stella-Tenant": "acme"}
            base = f"{url}/api/v1/orchestrator"
            with httpx.Client(base_url=base, headers=headers, timeout=10, trust_env=False) as client:
                for name in ("environment-audit", "flaky"):
                    post(
                        client,
                        "/dags",
                        json.loads((EXAMPLES / name / "dag.json").read_text(encoding="utf-8")),
                    )
                yield client
    finally:
        shutil.rmtree(folder)


@contextmanager
def orch_up(folder: Path) -> Iterator[str]:
    """Run `orch up` on ``folder``; give the URL that it prints once it is healthy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*ORCH, "up", "--data-dir", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], START_S)[0], "orch up printed nothing"
            found = re.search(r"http://[0-9.:]+", process.stdout.readline().decode())
            assert found is not None, "orch up printed no URL"
            yield found[0]
        finally:
            process.terminate()
            process.wait(timeout=START_S)


def post(client: httpx.Client, path: str, body: Document) -> Document:
    response = client.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})
    assert response.is_success, response.text
    answer: Document = response.json()
    return answer


def get(client: httpx.Client, path: str) -> Document:
    response = client.get(path)
    assert response.is_success, response.text
    answer: Document = response.json()
    return answer


def run(client: httpx.Client, dag_id: str, **inputs: str) -> tuple[Document, dict[str, Document]]:
    """Start a run, wait for its end; give it and its steps by their ids."""
    run_id = post(client, "/runs", {"dagId": dag_id, "inputs": inputs})["runId"]

    def ended() -> Document | None:
        found = get(client, f"/runs/{run_id}")
        return None if found["status"] == "running" else found

    document = eventually(ended, within=RUN_S)
    assert document is not None
    return document, {step["stepId"]: step for step in document["steps"]}


def audit(client: httpx.Client, python: Path | str) -> tuple[Document, dict[str, Document]]:
    scripts = str(EXAMPLES / "environment-audit" / "scripts")
    return run(client, "environment-audit", python=str(python), scripts=scripts)


def output_file(client: httpx.Client, run_document: Document, step: str, name: str) -> str:
    outputs = get(client, f"/runs/{run_document['runId']}/steps/{step}")["outputs"]
    response = client.get(f"/artifacts/{outputs['files'][name]['hash']}")
    assert response.is_success, response.text
    return response.text


def statuses(steps: dict[str, Document]) -> dict[str, str]:
    return {step_id: step["errorCode"] or step["status"] for step_id, step in steps.items()}


def test_the_audit_of_this_environment_completes_twice_with_the_same_hash(api: httpx.Client) -> None:
    first, steps = audit(api, sys.executable)
    assert first["status"] == "completed", statuses(steps)
    assert statuses(steps).pop("failure-report") == "CONDITION_FALSE"
    bill = json.loads(output_file(api, first, "sbom", "sbom.cdx.json"))
    assert "pytest" in {component["name"] for component in bill["components"]}
    assert (
        "every file that was recorded with a hash is unchanged"
        in output_file(api, first, "report", "report.md").lower()
    )
    second, _ = audit(api, sys.executable)
    assert second["outputsHash"] == first["outputsHash"]


def test_a_tampered_file_fails_its_step_with_a_message_that_names_it(
    api: httpx.Client, tmp_path: Path
) -> None:
    audited = AuditedEnvironment(tmp_path)
    for name in ("ant", "bee", "cat", "dog"):
        audited.install(name, {f"{name}/__init__.py": b"x = 1\n"})
    (audited.site / "bee" / "__init__.py").write_bytes(b"x = 2\n")
    document, steps = audit(api, audited.python)
    assert document["status"] == "failed"
    (failed,) = (step for step in steps.values() if step["status"] == "failed")
    assert failed["stepId"].startswith("verify-")
    assert failed["errorCode"] == "EXIT_STATUS"
    assert "bee/__init__.py of bee 1.0 was changed" in failed["errorMessage"]
    others = {step["status"] for step_id, step in steps.items() if step_id != failed["stepId"]}
    assert others == {"succeeded"}
    assert "| bee 1.0 | bee/__init__.py | was changed" in output_file(api, document, "report", "report.md")
    assert "bee/__init__.py of bee was changed" in output_file(api, document, "failure-report", "failure.md")


def test_an_interpreter_that_does_not_exist_still_gets_its_failure_report(api: httpx.Client) -> None:
    document, steps = audit(api, "/nowhere/bin/python")
    assert document["status"] == "failed"
    assert "/nowhere/bin/python" in steps["inventory"]["errorMessage"]
    assert steps["report"]["errorCode"] == "CONDITION_FALSE"
    assert steps["verify-0"]["errorCode"] == "UPSTREAM_FAILED"
    assert "- inventory failed, plan skipped" in output_file(api, document, "failure-report", "failure.md")


def test_the_flaky_fetch_succeeds_at_its_third_attempt(api: httpx.Client) -> None:
    document, steps = run(api, "flaky", release="works")
    assert document["status"] == "completed"
    assert statuses(steps) == {
        "fetch": "succeeded",
        "note-retries": "succeeded",
        "praise-server": "CONDITION_FALSE",
        "release": "succeeded",
        "announce": "succeeded",
        "roll-back": "CONDITION_FALSE",
        "clean-up": "succeeded",
    }
    fetch = get(api, f"/runs/{document['runId']}/steps/fetch")
    assert [attempt["status"] for attempt in fetch["attempts"]] == ["failed", "failed", "succeeded"]
    assert "attempt 1: the server is busy" in fetch["attempts"][0]["errorMessage"]


def test_a_broken_release_is_rolled_back_and_the_run_stays_failed(api: httpx.Client) -> None:
    document, steps = run(api, "flaky", release="breaks")
    assert document["status"] == "failed"
    assert statuses(steps) == {
        "fetch": "succeeded",
        "note-retries": "succeeded",
        "praise-server": "CONDITION_FALSE",
        "release": "EXIT_STATUS",
        "announce": "UPSTREAM_FAILED",
        "roll-back": "succeeded",
        "clean-up": "succeeded",
    }
    clean_up = get(api, f"/runs/{document['runId']}/steps/clean-up")
    assert clean_up["outputs"]["stdout"] == "release failed, roll-back succeeded"


def test_a_release_that_the_schema_does_not_know_is_refused(api: httpx.Client) -> None:
    response = api.post(
        "/runs",
        json={"dagId": "flaky", "inputs": {"release": "maybe"}},
        headers={"Idempotency-Key": str(uuid4())},
    )
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "INPUTS_INVALID"
