"""`orch demo`: everything from nothing, in one command, and nothing left but the results."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from orchestrator_cli.demo import run_example
from shared.embedded.process_tree import descendants, start_ticks
from tests.support.eventually import eventually
from tests.support.stack import alive, clean_environ, orch, running_stack

SHELL = ("/bin/sh", "-c")
FAILING_DAG = {
    "dagId": "failing",
    "version": "1.0.0",
    "steps": [
        {
            "id": "write",
            "uses": "command",
            "with": {"argv": ["/bin/sh", "-c", "echo kept > $ORCH_OUTPUT_DIR/note.txt"]},
        },
        {"id": "fail", "uses": "command", "with": {"argv": ["/bin/sh", "-c", "echo no hat >&2; exit 3"]}},
    ],
    "edges": [{"from": "write", "to": "fail"}],
}


def test_an_example_runs_from_nothing_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        orch("demo", "--example", "flaky", "--results", str(tmp_path / "results")),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**clean_environ(), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ +[0-9.]+ s  fetch +retrying", done.stdout, re.MULTILINE)
    assert re.search(r"^ +[0-9.]+ s  fetch +succeeded", done.stdout, re.MULTILINE)
    assert "the run completed\n" in done.stdout
    assert "everything is stopped" in done.stdout
    assert not list(tmp_path.glob("orch-*"))


def test_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    process = subprocess.Popen(
        orch("demo", "--data-dir", str(data_dir), "--results", str(tmp_path)),
        stdout=subprocess.DEVNULL,
        env=clean_environ(),
    )
    eventually((data_dir / "stack.json").exists, within=60)
    tree = {pid: start_ticks(pid) for pid in descendants(process.pid)}
    process.kill()
    process.wait()
    assert tree
    eventually(lambda: not alive(tree), within=10)


def test_a_run_that_fails_says_why_and_keeps_what_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dag.json").write_text(json.dumps(FAILING_DAG))
    with running_stack(tmp_path / "data") as stack, stack.client() as client:
        assert not run_example(client, tmp_path, {}, tmp_path / "results")
    printed = capsys.readouterr().out
    assert "the run failed\n" in printed
    assert "  fail: EXIT_STATUS: " in printed
    (note,) = (tmp_path / "results").glob("*/write/note.txt")
    assert note.read_text() == "kept\n"
    assert f"results in {note.parents[1]}:\n  write/note.txt (5 bytes)\n" in printed
