"""The embedded servers: what a test, and an installation, gets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psycopg2
import pytest
import redis

from shared import migrations
from shared.embedded.account import other_user_account
from shared.embedded.postgres import create_cluster, end_old_server
from shared.embedded.program import Account, EmbeddedError, Program
from shared.store.db import Database


def test_a_fresh_database_has_the_newest_schema(owner_url: str) -> None:
    assert migrations.check(owner_url) == []


def test_the_login_may_do_nothing_before_it_takes_a_role(database_url: str) -> None:
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cur, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cur.execute("SELECT count(*) FROM orch.runs")
    connection.close()


def test_both_roles_are_open_to_the_login(api_db: Database, service_db: Database) -> None:
    for db, role in ((api_db, "orch_api"), (service_db, "orch_service")):
        with db.statement(None) as cur:
            cur.execute("SELECT current_user")
            assert cur.fetchone() == (role,)


def test_redis_refuses_to_forget_what_it_holds(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.dbsize() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_runs_postgresql_as_another_user_where_namespaces_are_forbidden() -> None:
    # Not in pytest's folder, which nobody else may enter.
    folder = Path(tempfile.mkdtemp(prefix="orch-test-"))
    folder.chmod(0o711)
    account = other_user_account(Path("/bin/true"), folder)
    assert account is not None
    assert account.uid not in (None, 0)
    (folder / "mine").mkdir()
    account.own(folder / "mine")
    program = Program(
        name="write",
        argv=("/bin/sh", "-c", "id -u > mine/uid"),
        folder=folder,
        environ={"PATH": "/usr/bin:/bin"},
        account=account,
    )
    assert program.start(folder / "log").wait(timeout=10) == 0
    assert int((folder / "mine" / "uid").read_text()) == account.uid
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_no_other_user_is_chosen_who_cannot_reach_the_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert other_user_account(Path("/bin/true"), tmp_path) is None


def test_a_cluster_of_another_version_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="was made by PostgreSQL 9"):
        create_cluster(tmp_path, Account())


def test_lock_files_that_name_somebody_else_are_forgotten(tmp_path: Path) -> None:
    # After a power cut the number in them may be anybody's; PostgreSQL would refuse to start.
    cluster, sockets = tmp_path / "postgres", tmp_path / "run"
    pid_file, socket_lock = cluster / "postmaster.pid", sockets / ".s.PGSQL.5432.lock"
    for lock in (pid_file, socket_lock):
        lock.parent.mkdir()
        lock.write_text(f"{os.getpid()}\n{cluster}\n")
    end_old_server(cluster, sockets)
    assert not pid_file.exists()
    assert not socket_lock.exists()
