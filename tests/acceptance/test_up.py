"""`orch up` as a person and a machine use it: started, stopped, killed, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from orchestrator_cli.client import Client
from orchestrator_cli.data_folder import DataFolder
from shared.domain.states import RunStatus, StepStatus
from tests.support.eventually import eventually
from tests.support.stack import DOWN_WITHIN_S, RunningStack, alive, clean_environ, orch, running_stack

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


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack for tests that leave it as they found it."""
    with running_stack(tmp_path_factory.mktemp("shared") / "data") as stack:
        yield stack


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


def test_when_it_is_killed_nothing_is_left_and_the_next_start_has_all_data(data_dir: Path) -> None:
    with running_stack(data_dir) as stack, stack.client() as client:
        run_id = _finished_run(client)
        client.publish(LONG_DAG)
        long_run = client.start_run("long", {})
        eventually(lambda: client.run(long_run).steps[0].status == StepStatus.RUNNING, within=20)
        tree = stack.tree()
        stack.process.kill()
        eventually(lambda: not alive(tree), within=GONE_WITHIN_S)
    with running_stack(data_dir) as stack, stack.client() as client:
        assert client.run(run_id).status == RunStatus.COMPLETED
        assert client.run(long_run).status == RunStatus.RUNNING
        stack.process.kill()
        # At once, while the killed one is still ending its processes.
        with running_stack(data_dir) as next_stack:
            assert _healthy(next_stack)


def test_when_the_supervisor_is_killed_nothing_is_left_either(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        os.kill(stack.supervisor_pid, signal.SIGKILL)
        assert stack.process.wait(timeout=GONE_WITHIN_S) == 1
        assert not alive(tree)


def test_what_survived_the_death_of_both_is_ended_by_the_next_start(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        # Frozen first, so that it cannot see the other's death.
        os.kill(stack.supervisor_pid, signal.SIGSTOP)
        stack.process.kill()
        os.kill(stack.supervisor_pid, signal.SIGKILL)
        stack.process.wait()
        assert alive(tree)
        with running_stack(data_dir) as next_stack:
            assert _healthy(next_stack)
            eventually(lambda: not alive(tree), within=GONE_WITHIN_S)


def test_frozen_processes_do_not_keep_it_from_stopping(data_dir: Path) -> None:
    with running_stack(data_dir) as stack:
        tree = stack.tree()
        for name in ("web", "worker-1", "sweeper", "redis", "postgres"):
            os.kill(stack.pid_of(name), signal.SIGSTOP)
        assert stack.stop() == 0
        assert not alive(tree)


def test_an_interrupt_stops_it_also_in_a_folder_with_a_long_and_odd_name(tmp_path: Path) -> None:
    with running_stack(tmp_path / ("long" * 25) / "odd, 'quoted' & spaced") as stack:
        assert _healthy(stack)
        tree = stack.tree()
        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(timeout=DOWN_WITHIN_S) == 0
        assert not alive(tree)


def test_a_process_that_dies_is_started_again(shared_stack: RunningStack) -> None:
    with shared_stack.client() as client:
        for name in ("redis", "postgres", "web", "worker-1", "sweeper"):
            dead = shared_stack.pid_of(name)
            os.kill(dead, signal.SIGKILL)
            eventually(partial(_has_replaced, shared_stack, name, dead), within=20)
        eventually(lambda: _healthy(shared_stack), within=30)
        _finished_run(client)
    assert "postgres ended with signal 9" in (shared_stack.folder.log / "up.log").read_text()


def _has_replaced(stack: RunningStack, name: str, dead: int) -> bool:
    return stack.pid_of(name) != dead


def test_a_second_one_on_the_same_folder_is_refused(shared_stack: RunningStack) -> None:
    message = _up_failing(shared_stack.folder.path, "--port", "0")
    assert f"{shared_stack.folder.path} is in use by pid {shared_stack.process.pid}" in message
    assert _healthy(shared_stack)


def test_nobody_else_can_read_keys_or_reach_the_servers(shared_stack: RunningStack) -> None:
    folder = shared_stack.folder
    sockets, keys = folder.path / "run", folder.keys
    for path in (folder.path, sockets, keys.folder, keys.signing, keys.secret, folder.stack_file):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("verb", ["check", "upgrade"])
def test_the_schema_can_be_checked_while_it_is_up(shared_stack: RunningStack, verb: str) -> None:
    command = orch("db", verb, "--data-dir", str(shared_stack.folder.path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environ())
    assert (done.returncode, done.stdout) == (0, "the schema is up to date\n")


def test_a_taken_port_is_refused_before_anything_starts(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        message = _up_failing(data_dir, "--port", str(port))
    assert f"port {port} of 127.0.0.1 cannot be used: Address already in use" in message
    assert not DataFolder(path=data_dir).cluster.exists()


def test_a_disk_without_room_is_refused_before_anything_starts(data_dir: Path) -> None:
    data_dir.mkdir()
    small = f"mount -t tmpfs -o size=100m small '{data_dir}' && exec \"$@\""
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", small, "sh"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs a kernel that lets a user mount a small disk for himself")
    ended = subprocess.run(
        [*inside, *orch("up", "--data-dir", str(data_dir), "--port", "0")],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environ(),
    )
    assert ended.returncode == 1
    assert f"the disk of {data_dir} has 100 MiB free, 256 are needed" in ended.stderr


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
