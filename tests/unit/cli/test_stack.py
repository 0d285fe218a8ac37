"""The stack runs what the Procfile says, and checks its ground before it starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator_cli import stack
from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError
from orchestrator_cli.options import UpOptions
from orchestrator_cli.supervise import free_port
from shared.embedded.process_tree import start_ticks
from shared.embedded.redis import redis_url

PROCFILE = Path(__file__).parents[3] / "Procfile"


def test_the_commands_are_those_of_the_procfile() -> None:
    lines = dict(line.split(": ", 1) for line in PROCFILE.read_text().splitlines())
    assert lines == {"web": stack.WEB, "worker": stack.WORKER, "sweeper": stack.SWEEPER}


def test_options_survive_the_command_line() -> None:
    options = UpOptions(data_dir="/a b/'c'", host="::1", port=0, workers=2, concurrency=3)
    assert UpOptions.from_text(options.to_text()) == options


def test_port_0_is_any_free_port() -> None:
    assert free_port("127.0.0.1", 0) > 1023


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(CommandError, match=f"port 8080 of {host} cannot be used"):
        free_port(host, 8080)


def test_a_short_path_holds_the_sockets_a_long_one_does_not(tmp_path: Path) -> None:
    with DataFolder(path=Path("/srv/orch")).sockets() as usual:
        assert usual == Path("/srv/orch/run")
    with DataFolder(path=tmp_path / ("x" * 100)).sockets() as short:
        assert short.stat().st_mode & 0o777 == 0o700
    assert not short.exists()


def test_the_logs_of_the_last_start_are_kept(tmp_path: Path) -> None:
    folder = DataFolder(path=tmp_path)
    folder.make()
    for content in ("first", "second"):
        folder.keep_last_logs()
        (folder.log / "web.log").write_text(content)
    assert (folder.log / "web.log.1").read_text() == "first"


def test_a_process_that_has_inherited_a_recorded_pid_is_left_alone(tmp_path: Path) -> None:
    folder = DataFolder(path=tmp_path)
    started = start_ticks(os.getpid())
    assert started is not None
    processes = {"web": {"pid": os.getpid(), "startTicks": started - 1}}
    folder.stack_file.write_text(json.dumps({"processes": processes}))
    folder.end_leftovers()
    assert not folder.stack_file.exists()


def test_odd_characters_in_a_path_survive_in_the_urls(tmp_path: Path) -> None:
    assert redis_url(Path("/a b/100%")) == "unix:///a%20b/100%25/redis.sock?db=0"
