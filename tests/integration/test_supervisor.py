"""Programs are kept running, and stopped with nothing left, whatever they do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.embedded.process_tree import descendants, start_ticks
from tests.support.eventually import eventually

Start = Callable[[dict[str, str]], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(commands: dict[str, str]) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.support.supervised", str(tmp_path), json.dumps(commands)]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)


def _written_pid(file: Path) -> int:
    return int(eventually(lambda: file.exists() and file.read_text().strip(), within=10) or 0)


def _is_gone(pid: int) -> bool:
    return start_ticks(pid) is None


def test_a_program_that_ignores_the_signal_is_killed_with_all_below_it(tmp_path: Path, start: Start) -> None:
    stubborn = "trap '' TERM; setsid sh -c 'echo $$ > below; exec sleep 600' & echo $$ > pid; wait; sleep 600"
    process = start({"stubborn": stubborn})
    pid, below = _written_pid(tmp_path / "pid"), _written_pid(tmp_path / "below")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert _is_gone(pid)
    assert _is_gone(below)
    assert "does not stop; it is killed" in (tmp_path / "up.log").read_text()


def test_an_orphan_is_killed_while_its_program_runs_on(tmp_path: Path, start: Start) -> None:
    orphaned = "setsid sh -c 'echo $$ > orphan; exec sleep 600' & until [ -s orphan ]; do sleep 0.01; done"
    process = start({"parent": f"({orphaned}); echo $$ > pid; exec sleep 600"})
    orphan, pid = _written_pid(tmp_path / "orphan"), _written_pid(tmp_path / "pid")
    eventually(lambda: _is_gone(orphan), within=10)
    eventually(lambda: descendants(process.pid) == {pid}, within=10)


def test_programs_stop_one_after_the_other_in_order(tmp_path: Path, start: Start) -> None:
    command = "trap 'echo {0} >> order; exit 0' TERM; echo $$ > {0}.pid; while :; do sleep 0.05; done"
    process = start({name: command.format(name) for name in ("web", "worker", "redis")})
    for name in ("web", "worker", "redis"):
        _written_pid(tmp_path / f"{name}.pid")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert (tmp_path / "order").read_text().split() == ["web", "worker", "redis"]


def test_a_program_that_dies_is_started_again(tmp_path: Path, start: Start) -> None:
    start({"mortal": "echo $$ > pid.new; mv pid.new pid; exec sleep 600"})
    first = _written_pid(tmp_path / "pid")
    subprocess.run(["/bin/kill", "-9", str(first)], check=True)
    eventually(lambda: _written_pid(tmp_path / "pid") != first, within=10)
    assert "mortal ended with signal 9; it starts again in 0.2 s" in (tmp_path / "up.log").read_text()


def test_a_program_that_never_stays_up_is_given_up_with_its_last_words(tmp_path: Path, start: Start) -> None:
    process = start({"broken": "echo cannot find my hat >&2; exit 3"})
    assert process.wait(timeout=20) == 0
    assert (tmp_path / "error").read_text().startswith("broken does not stay up:\ncannot find my hat")
    delays = [line.rsplit(" in ", 1)[1] for line in (tmp_path / "up.log").read_text().splitlines()]
    assert delays == ["0.2 s", "0.4 s", "0.8 s", "1.6 s"]


def test_when_the_launcher_dies_even_stubborn_programs_are_soon_gone(tmp_path: Path, start: Start) -> None:
    process = start({"stubborn": "trap '' TERM; echo $$ > pid; while :; do sleep 1; done"})
    pid = _written_pid(tmp_path / "pid")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert _is_gone(pid)
