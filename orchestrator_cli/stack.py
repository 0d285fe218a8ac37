"""What a stack consists of: its programs, their settings, and the order in which they come and go."""

from __future__ import annotations

import http.client
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from orchestrator_cli.data_folder import DataFolder
from orchestrator_cli.errors import CommandError
from orchestrator_cli.keys import ISSUER
from orchestrator_cli.options import UpOptions
from orchestrator_cli.supervisor import LOGGER, Supervisor
from shared import migrations
from shared.config import ConfigError, Need, Settings, load_settings
from shared.embedded import postgres, redis
from shared.embedded.account import choose_account
from shared.embedded.program import Program

HEALTH_PATH = "/api/v1/orchestrator/admin/health"
WEB = "python -m gunicorn --config python:orchestrator_api.gunicorn_conf orchestrator_api.wsgi:application"
WORKER = "python -m orchestrator_worker"
SWEEPER = "python -m orchestrator_worker.sweeper"
"""The commands of the Procfile."""

_SERVER_START_S = 60
_MIGRATION_S = 600
_HEALTHY_S = 60
_WEB_STOP_S = 20
_WORKER_LAST_RESORT_S = 15
_SHORT_STOP_S = 5
_POSTGRES_STOP_S = 30
_SPARE_CONNECTIONS = 30
_CONNECTIONS_BESIDE_SLOTS = 4


class Stack:
    """The programs of one installation on one machine."""

    def __init__(self, options: UpOptions, folder: DataFolder, supervisor: Supervisor, sockets: Path) -> None:
        self._options = options
        self._folder = folder
        self._supervisor = supervisor
        self._sockets = sockets
        self._own = own_settings(options, folder, sockets)
        self._settings = checked(self._own)
        self._workers = [f"worker-{number}" for number in range(1, options.workers + 1)]

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{_in_url(self._options.host)}:{self._options.port}"

    def start(self) -> bool:
        """Start everything, each when what it needs is there; False when a stop was requested before."""
        self._supervisor.call_on_start(self._write_down)
        self._start_servers()
        ready = self._supervisor.run_until(
            lambda: postgres.is_ready(self._sockets) and redis.is_ready(self._sockets),
            within_s=_SERVER_START_S,
            what="PostgreSQL and Redis did not come up",
        )
        return ready and self._migrate() and self._start_processes()

    def stop(self) -> None:
        """Stop everything, users before what they use, each within its time."""
        grace_s = (self._settings.grace_ms + self._settings.kill_grace_ms) / 1000
        self._supervisor.stop(["web"], within_s=_WEB_STOP_S)
        self._supervisor.stop(self._workers, within_s=grace_s + _WORKER_LAST_RESORT_S)
        self._supervisor.stop(["sweeper"], within_s=_SHORT_STOP_S)
        self._supervisor.stop(["redis"], within_s=_SHORT_STOP_S)
        self._supervisor.stop(["postgres"], within_s=_POSTGRES_STOP_S)

    def _start_servers(self) -> None:
        folder, sockets = self._folder, self._sockets
        account = choose_account(postgres.find_binaries() / "postgres", folder.cluster)
        if account.uid is not None:
            # The other user has to pass through to what is his.
            folder.path.chmod(0o711)
        account.own(sockets)
        self._supervisor.keep(redis.redis_program(folder.redis, sockets))
        postgres.create_cluster(folder.cluster, account)
        slots = self._options.workers * (self._settings.worker_concurrency + _CONNECTIONS_BESIDE_SLOTS)
        web = self._settings.web_processes * (self._settings.web_threads * 3 // 2 + _CONNECTIONS_BESIDE_SLOTS)
        connections = max(100, slots + web + _SPARE_CONNECTIONS)
        tuned = {**postgres.SETTINGS, "max_connections": str(connections)}
        self._supervisor.keep(
            postgres.postgres_program(folder.cluster, sockets, account, tuned),
            # Asked by somebody to end when its clients have gone, it would wait for ours for ever.
            is_ending=lambda: postgres.is_stopping(folder.cluster),
            prepare=lambda: postgres.end_old_server(folder.cluster, sockets),
        )

    def _migrate(self) -> bool:
        """Bring the schema up to date, in a thread: a hanging server must not keep us from stopping."""
        failure: list[BaseException] = []

        def work() -> None:
            try:
                postgres.create_database(self._sockets)
                migrations.upgrade(self._settings.migration_database_url)
                postgres.let_login_serve(self._sockets)
            except BaseException as error:  # noqa: BLE001 - handed to the main thread, whatever it is
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        done = self._supervisor.run_until(
            lambda: not thread.is_alive(), within_s=_MIGRATION_S, what="the migrations did not end"
        )
        if done and failure:
            raise CommandError(f"the migrations failed: {failure[0]}") from failure[0]
        return done

    def _start_processes(self) -> bool:
        self._supervisor.keep(self._python("web", WEB))
        for name in self._workers:
            self._supervisor.keep(self._python(name, WORKER))
        self._supervisor.keep(self._python("sweeper", SWEEPER))
        return self._supervisor.run_until(
            self._is_healthy, within_s=_HEALTHY_S, what=f"{self.url} was not healthy"
        )

    def _python(self, name: str, command: str) -> Program:
        """Describe a program of the Procfile, run by the interpreter that runs this."""
        environ = {**os.environ, **self._own, "PYTHONUNBUFFERED": "1"}
        argv = (sys.executable, *command.split()[1:])
        return Program(name=name, argv=argv, folder=self._folder.path, environ=environ)

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(_reachable(self._options.host), self._options.port, timeout=2)
        try:
            connection.request("GET", HEALTH_PATH)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _write_down(self) -> None:
        description = {
            "url": self.url,
            "pid": os.getppid(),
            "supervisorPid": os.getpid(),
            "environ": self._own,
            "processes": self._supervisor.processes(),
        }
        try:
            self._folder.write_stack(description)
        except OSError as error:
            LOGGER.warning("%s cannot be written: %s", self._folder.stack_file, error)


def own_settings(options: UpOptions, folder: DataFolder, sockets: Path) -> dict[str, str]:
    """Give the settings that a stack decides itself, as variables."""
    return {
        "ORCH_DATABASE_URL": postgres.postgres_url(sockets),
        "ORCH_MIGRATION_DATABASE_URL": postgres.postgres_url(sockets, user=postgres.OWNER),
        "ORCH_REDIS_URL": redis.redis_url(sockets),
        "ORCH_JWKS_FILE": str(folder.keys.jwks),
        "ORCH_JWT_ISSUER": ISSUER,
        "ORCH_SECRET_FILE": str(folder.keys.secret),
        "ORCH_ARTIFACTS_URL": folder.artifacts.as_uri(),
        "ORCH_WORK_DIR": str(folder.work),
        "ORCH_HOST": options.host,
        "ORCH_PORT": str(options.port),
        "ORCH_WORKER_CONCURRENCY": str(options.concurrency),
    }


def checked(own: Mapping[str, str]) -> Settings:
    """Check all settings before anything starts: our own, and what the environment adds.

    A variable that the stack decides itself is refused: whoever set it expects it to count.
    """
    taken = sorted(set(own) & {name for name, value in os.environ.items() if value})
    if taken:
        raise CommandError(
            f"{', '.join(taken)} is set, but `orch up` decides that itself: unset it, or start the processes "
            "of the Procfile against servers of your own"
        )
    try:
        return load_settings(
            {**os.environ, **own}, need=Need.DATABASE | Need.MIGRATION | Need.REDIS | Need.WEB | Need.WORKER
        )
    except ConfigError as error:
        raise CommandError(str(error)) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reachable(host: str) -> str:
    """Give an address at which a server that listens on ``host`` can be reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
