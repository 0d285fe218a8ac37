"""`orch up` as a person and a machine use it: started, stopped, killed, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from orchestrator_cli.client import Client
from orchestrator_cli.data_folder import DataFolder
from shared.domain.states import RunStatus
from tests.support.eventually import eventually
from tests.support.stack import RunningStack, alive, clean_environ, orch, running_stack

HEALTH = "/api/v1/orchestrator/admin/health"
GONE_WITHIN_S = 10.0

TINY_DAG = b"""{"dagId": "tiny", "version": "1.0.0",
    "steps": [{"id": "one", "uses": "noop"}, {"id": "two", "uses": "noop"}],
    "edges": [{"from": "one", "to": "two"}]}"""
LONG_DAG = b"""{"dagId": "long", "version": "1.0.0", "edges": [],
    "steps": [{"id": "nap", "uses": "command", "with": {"argv": ["/bin/sleep", "300"]}}]}"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def _finished_run(client: Client) -> str:
    client.publish(TINY_DAG)
    run_id = client.start_run("tiny", {})
    eventually(lambda: client.run(run_id).status == RunStatus.COMPLETED, within=20)
    return run_id


def _up_failing(data_dir: Path, *options: str, environ: dict[str, str] | None = None) -> str:
    ended = subprocess.run(
        orch("up", "--data-dir", str(data_dir), *options),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean_environ(), **(environ or {})},
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    return ended.stderr


def _healthy(stack: RunningStack) -> bool:
    try:
        return httpx.get(stack.url + HEALTH, timeout=3, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def test_a_term_signal_stops_everything_and_a_new_start_has_all_data(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        assert stack.line.count("\n") == 1
        assert f"{stack.url} " in stack.line
        with stack.client() as client:
            run_id = _finished_run(client)
        tree = stack.tree()
        assert len(tree) > 5
        assert stack.stop() == 0
        assert not alive(tree)
        assert not stack.folder.stack_file.exists()
    with running_stack(data_dir) as stack, stack.client() as client:
        assert client.run(run_id).status == RunStatus.COMPLETED


def test_an_interrupt_stops_it_as_well(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(timeout=60) == 0
        assert not alive(tree)


def test_when_it_is_killed_nothing_is_left_and_the_next_start_has_all_data(data_dir: Path) -> None:
    with running_stack(data_dir) as stack, stack.client() as client:
        run_id = _finished_run(client)
        client.publish(LONG_DAG)
        long_run = client.start_run("long", {})
        eventually(lambda: client.run(long_run).steps[0].status == "running", within=20)
        tree = stack.tree()
        stack.process.kill()
        eventually(lambda: not alive(tree), within=GONE_WITHIN_S)
    with running_stack(data_dir) as stack, stack.client() as client:
        assert client.run(run_id).status == RunStatus.COMPLETED
        assert client.run(long_run).status == RunStatus.RUNNING


def test_it_can_be_started_again_at_once_after_it_was_killed(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        stack.process.kill()
        with running_stack(data_dir) as second:
            assert _healthy(second)


def test_when_the_supervisor_is_killed_nothing_is_left_either(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        os.kill(int(str(stack.description()["supervisorPid"])), signal.SIGKILL)
        assert stack.process.wait(timeout=GONE_WITHIN_S) == 1
        assert not alive(tree)
    with running_stack(data_dir) as stack:
        assert _healthy(stack)


def test_what_survived_the_death_of_both_is_ended_by_the_next_start(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        supervisor = int(str(stack.description()["supervisorPid"]))
        os.kill(supervisor, signal.SIGSTOP)
        stack.process.kill()
        os.kill(supervisor, signal.SIGKILL)
        stack.process.wait()
        with running_stack(data_dir) as second:
            assert _healthy(second)
            eventually(lambda: not alive(tree), within=GONE_WITHIN_S)


@pytest.mark.parametrize("name", ["web", "worker-1", "sweeper", "redis", "postgres"])
def test_a_frozen_process_does_not_keep_it_from_stopping(data_dir: Path, name: str) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        os.kill(stack.pid_of(name), signal.SIGSTOP)
        assert stack.stop() == 0
        assert not alive(tree)


def test_a_process_that_dies_is_started_again(data_dir: Path) -> None:
    with running_stack(data_dir) as stack, stack.client() as client:
        for name in ("redis", "postgres", "web", "worker-1", "sweeper"):
            pid = stack.pid_of(name)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda name=name, pid=pid: stack.pid_of(name) != pid, within=20)  # type: ignore[misc]
        eventually(lambda: _healthy(stack), within=30)
        _finished_run(client)
        assert "postgres ended with signal 9" in (stack.folder.log / "up.log").read_text()


def test_a_second_one_on_the_same_folder_is_refused(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        begun = time.monotonic()
        message = _up_failing(data_dir, "--port", "0")
        assert f"{data_dir} is in use by pid {stack.process.pid}" in message
        assert time.monotonic() - begun < 10
        assert _healthy(stack)


def test_a_taken_port_is_refused_before_anything_starts(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        message = _up_failing(data_dir, "--port", str(port))
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in message
    assert not DataFolder(path=data_dir).cluster.exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be used: Not a directory" in _up_failing(tmp_path / "file" / "data")


def test_a_wrong_setting_is_refused_before_anything_starts(data_dir: Path) -> None:
    message = _up_failing(data_dir, "--port", "0", environ={"ORCH_LEASE_MS": "soon", "ORCH_LEESE_MS": "1"})
    assert "ORCH_LEASE_MS: must be a whole number" in message
    assert "ORCH_LEESE_MS: there is no such setting" in message
    assert not DataFolder(path=data_dir).cluster.exists()


def test_a_setting_that_it_decides_itself_is_refused(data_dir: Path) -> None:
    message = _up_failing(data_dir, "--port", "0", environ={"ORCH_REDIS_URL": "redis://elsewhere"})
    assert "ORCH_REDIS_URL is set" in message


def test_a_folder_with_a_long_name_works(tmp_path: Path) -> None:
    with running_stack(tmp_path / ("long" * 25) / "odd, 'quoted' & spaced") as stack:
        assert _healthy(stack)


def test_nobody_else_can_read_keys_or_reach_the_servers(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        private = [data_dir, data_dir / "run", data_dir / "keys", data_dir / "keys" / "signing.json"]
        for path in [*private, data_dir / "keys" / "secret", stack.folder.stack_file]:
            assert path.stat().st_mode & 0o077 == 0, path


def test_the_schema_can_be_checked_while_it_is_up(data_dir: Path) -> None:
    with running_stack(data_dir):
        for verb in ("check", "upgrade"):
            command = orch("db", verb, "--data-dir", str(data_dir))
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environ())
            assert (done.returncode, done.stdout) == (0, "the schema is up to date\n")
