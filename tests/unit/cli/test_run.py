"""What `orch run` refuses by itself, showing no secret; how a wait ends that cannot go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator_cli.main import main
from tests.support.scripted_server import END, HEAD, OK, chunk, refusal, serving

SECRET = "sesame"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: pytest.fail("it waits to try again"))


def run(*arguments: str, **environ: str) -> Result:
    named = {"ORCH_URL": NOWHERE, "ORCH_TOKEN": SECRET, "ORCH_TENANT": "acme", **environ}
    result = CliRunner().invoke(main, ["run", *arguments], env=named)
    assert isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result


@pytest.mark.parametrize("command", [("stream",), ("start", "plan", "--wait")])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ORCH_TOKEN", f"{SECRET}\n{SECRET}", "the token has a character"),
        ("ORCH_TOKEN", f"Bearer {SECRET}", "the token has a character"),
        ("ORCH_TOKEN", f"{SECRET}\u00d6", "the token has a character"),
        ("ORCH_TENANT", "ac me", "the tenant has a character"),
        ("ORCH_URL", "127.0.0.1:8080", "the server's address must be like"),
        ("ORCH_URL", f"ftp://user:{SECRET}@127.0.0.1", "the server's address must be like"),
        ("ORCH_URL", "http://", "the server's address must be like"),
        ("ORCH_URL", "http://[::1", "the server's address must be like"),
    ],
)
def test_what_cannot_be_sent_is_refused_at_once(
    command: tuple[str, ...], name: str, value: str, said: str
) -> None:
    result = run(*command, **{name: value})
    assert result.exit_code == 1
    assert said in result.output


def test_a_file_that_holds_no_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff" + SECRET.encode())
    assert "the token has a character" in run("stream", "--token-file", str(file)).output
    file.write_text(" \n")
    assert run("stream", "--token-file", str(file)).exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "1", "{", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"a": "\udcff"}'),
        '{"a": ' + "[" * 100_000,
    ],
)
def test_inputs_that_are_no_plain_object_are_refused(text: str) -> None:
    result = run("start", "plan", "--inputs", text)
    assert result.exit_code == 1
    assert "what was given as inputs: " in result.output


def test_inputs_are_given_once(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text("{}")
    assert run("start", "plan", "--inputs", "{}", "--inputs-file", str(file)).exit_code == 2


def told(status: str) -> bytes:
    """Give a stream of one event of a run, which is in this state then."""
    line = json.dumps(
        {"cursor": "8.1", "status": status, "timestamp": "2026-11-21T23:04:05.123Z", "type": f"run.{status}"}
    )
    return HEAD + chunk(line + "\n") + END


STARTED = OK + b"Connection: close\r\n\r\n" + chunk('{"runId": "r1"}') + END


@pytest.mark.parametrize(("status", "exit_status"), [("failed", 4), ("cancelled", 5)])
def test_the_end_is_told_also_when_its_reasons_cannot_be_read(status: str, exit_status: int) -> None:
    with serving(STARTED, told(status), refusal(401, "UNAUTHENTICATED")) as server:
        result = run("start", "plan", "--wait", ORCH_URL=server.url)
    assert (result.exit_code, result.stdout) == (exit_status, "r1\n")
    assert "which steps failed cannot be told: GET /runs/r1: 401 UNAUTHENTICATED" in result.stderr


def test_a_wait_that_is_refused_to_go_on_is_no_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with serving(STARTED, told("started")[: -len(END)], refusal(401, "UNAUTHENTICATED")) as server:
        result = run("start", "plan", "--wait", ORCH_URL=server.url)
    assert (result.exit_code, result.stdout) == (1, "r1\n")
    assert "run r1 goes on without being waited for" in result.stderr
    assert "401 UNAUTHENTICATED" in result.stderr
