"""The processes of the Procfile, one by one, against servers that the stack did not start."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psycopg2
import pytest

from tests.support.eventually import eventually
from tests.support.invariants import check_invariants
from tests.support.rest import API, Rest, by_step, shell
from tests.support.stack import clean_environ, orch
from tests.support.tokens import ec_signer, jwks

PROCFILE = Path(__file__).parents[2] / "Procfile"
SIGNER = ec_signer()
STOPPED_WITHIN_S = 20.0


@pytest.fixture
def environ(tmp_path: Path, database_url: str, redis_url: str) -> dict[str, str]:
    """The settings of an installation of one's own."""
    (tmp_path / "jwks.json").write_text(jwks(SIGNER))
    (tmp_path / "secret").write_bytes(secrets.token_bytes(32))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    return {
        **clean_environ(),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "ORCH_DATABASE_URL": database_url,
        "ORCH_REDIS_URL": redis_url,
        "ORCH_JWKS_FILE": str(tmp_path / "jwks.json"),
        "ORCH_SECRET_FILE": str(tmp_path / "secret"),
        "ORCH_ARTIFACTS_URL": (tmp_path / "artifacts").as_uri(),
        "ORCH_WORK_DIR": str(tmp_path / "work"),
        "ORCH_PORT": port,
        "ORCH_POOLS": "default,big",
    }


@contextmanager
def running(
    environ: dict[str, str], folder: Path, *names: str
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start processes of the Procfile; each must end with 0 when it is told to go."""
    commands = dict(line.split(": ", 1) for line in PROCFILE.read_text().splitlines())
    with ExitStack() as stack:
        processes = {}
        for name in names:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            processes[name] = subprocess.Popen(
                shlex.split(commands[name]), env=environ, stdout=log, stderr=log
            )
            stack.callback(processes[name].wait)
            stack.callback(processes[name].kill)
        yield processes
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        assert {name: process.wait(STOPPED_WITHIN_S) for name, process in processes.items()} == dict.fromkeys(
            names, 0
        )


def test_the_processes_of_the_procfile_serve_an_installation(
    environ: dict[str, str], tmp_path: Path, owner_url: str
) -> None:
    migrated = subprocess.run(
        orch("db", "upgrade"), env={**environ, "ORCH_MIGRATION_DATABASE_URL": owner_url}, check=False
    )
    assert migrated.returncode == 0
    url = f"http://127.0.0.1:{environ['ORCH_PORT']}"
    with running(environ, tmp_path, "web", "worker", "sweeper"):
        eventually(lambda: _is_healthy(url), within=30)
        with Rest(url, token=SIGNER.token(), tenant="acme") as rest:
            rest.publish(
                "own",
                [shell("first", "echo hello"), {"id": "second", "uses": "noop", "pool": "big"}],
                "first>second",
            )
            run = rest.ended(rest.start("own"))
            assert by_step(run) == {"first": "succeeded", "second": "succeeded"}
    with closing(psycopg2.connect(owner_url)) as connection, connection.cursor() as cur:
        check_invariants(cur)


def test_a_worker_that_starts_before_its_servers_waits_for_them(
    environ: dict[str, str], tmp_path: Path
) -> None:
    nowhere = {
        **environ,
        "ORCH_DATABASE_URL": f"postgresql://orch@/orch?host={tmp_path}",
        "ORCH_REDIS_URL": f"unix://{tmp_path}/redis.sock?db=0",
    }
    with running(nowhere, tmp_path, "web", "worker", "sweeper") as processes:
        url = f"http://127.0.0.1:{environ['ORCH_PORT']}"
        eventually(lambda: _status(url) == httpx.codes.SERVICE_UNAVAILABLE, within=30)
        eventually(lambda: "leases_not_renewed" in (tmp_path / "worker.log").read_text(), within=30)
        eventually(lambda: "sweep_wake_failed" in (tmp_path / "sweeper.log").read_text(), within=30)
        assert {name for name, process in processes.items() if process.poll() is not None} == set()


def _is_healthy(url: str) -> bool:
    return _status(url) == httpx.codes.OK


def _status(url: str) -> int | None:
    try:
        return httpx.get(f"{url}{API}/admin/health", timeout=10, trust_env=False).status_code
    except httpx.TransportError:
        return None
