"""Migrations only add: the release before goes on working while its successor is rolled out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from shared import migrations
from shared.embedded import postgres
from shared.services.schema import why_too_old
from shared.store.db import Database
from tests.integration.worker.fleet import new_fleet
from tests.support.servers import Servers
from tests.support.web import free_port

PREVIOUS = "0011"
"""The newest migration of the release before this one."""

CATALOGUES = {
    "columns": """
        SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns AS c
        WHERE c.table_schema = 'orch'""",
    "functions": """
        SELECT p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)
        FROM pg_proc AS p WHERE p.pronamespace = 'orch'::regnamespace""",
    "rights": """
        SELECT t.grantee, t.table_name, t.privilege_type FROM information_schema.role_table_grants AS t
        WHERE t.table_schema = 'orch' AND t.grantee IN ('orch_api', 'orch_service')""",
    "rights to functions": """
        SELECT r.grantee, r.routine_name, r.privilege_type FROM information_schema.routine_privileges AS r
        WHERE r.routine_schema = 'orch' AND r.grantee IN ('orch_api', 'orch_service', 'PUBLIC')""",
    "attributes of types, in their order": """
        SELECT a.udt_name, a.attribute_name, a.ordinal_position FROM information_schema.attributes AS a
        WHERE a.udt_schema = 'orch'""",
}


@contextmanager
def upgraded_to(servers: Servers, revision: str) -> Iterator[str]:
    """Lend an empty database with the schema as of a migration."""
    name = f"expand_{revision}"
    servers.maintain(f"CREATE DATABASE {name}")
    url = servers.url(name, user=postgres.OWNER)
    try:
        migrations.upgrade(url, revision=revision)
        yield url
    finally:
        servers.maintain(f"DROP DATABASE {name} WITH (FORCE)")


def found(url: str, query: str) -> set[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cur:
            cur.execute(query)
            return set(cur.fetchall())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def before(servers: Servers) -> Iterator[str]:
    with upgraded_to(servers, PREVIOUS) as url:
        yield url


@pytest.mark.parametrize("what", CATALOGUES)
def test_what_the_release_before_uses_is_still_there(before: str, owner_url: str, what: str) -> None:
    had = found(before, CATALOGUES[what])
    assert had
    assert had <= found(owner_url, CATALOGUES[what])


def test_columns_that_the_release_before_does_not_fill_may_be_left_out(before: str, owner_url: str) -> None:
    columns = """
        SELECT c.table_name, c.column_name FROM information_schema.columns AS c
        INNER JOIN information_schema.tables AS t USING (table_schema, table_name)
        WHERE c.table_schema = 'orch' AND t.table_type = 'BASE TABLE'"""
    must = f"{columns} AND c.is_nullable = 'NO' AND c.column_default IS NULL AND c.is_identity = 'NO'"
    tables = {table for table, _ in found(before, columns)}
    new = {one for one in found(owner_url, must) - found(before, columns) if one[0] in tables}
    assert not new


def test_an_older_schema_is_told_from_a_newer_one(before: str, owner_url: str) -> None:
    (problem,) = migrations.check(before)
    assert f"the schema is at {PREVIOUS}" in problem
    assert migrations.check(owner_url) == []
    connection = psycopg2.connect(owner_url)
    try:
        with connection, connection.cursor() as cur:
            cur.execute("UPDATE orch.alembic_version SET version_num = '9999'")
    finally:
        connection.close()
    # A newer release has been here. This one goes on, and leaves its schema alone.
    assert migrations.check(owner_url) == []
    migrations.upgrade(owner_url)
    assert found(owner_url, "SELECT version_num FROM orch.alembic_version") == {("9999",)}


@pytest.mark.parametrize(
    "process",
    [
        ("orchestrator_worker",),
        ("orchestrator_worker.sweeper",),
        ("gunicorn", "--config", "python:orchestrator_api.gunicorn_conf"),
    ],
    ids=lambda process: process[0],
)
def test_a_process_refuses_an_older_schema_and_says_so(
    before: str, servers: Servers, tmp_path: Path, redis_url: str, process: tuple[str, ...]
) -> None:
    url = servers.url(f"expand_{PREVIOUS}")
    secret = tmp_path / "secret"
    secret.write_bytes(b"k" * 32)
    secret.chmod(0o600)
    with new_fleet(tmp_path, database_url=url, redis_url=redis_url) as fleet:
        web = {"ORCH_JWKS_FILE": str(secret), "ORCH_SECRET_FILE": str(secret), "ORCH_PORT": str(free_port())}
        ended = subprocess.run(
            [sys.executable, "-m", *process],
            env={**fleet.environ, **web},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert ended.returncode == 78, ended.stderr
    assert "run `orch db upgrade`" in ended.stderr
    assert migrations.check(before)


def test_a_process_that_cannot_reach_postgresql_waits_for_it(service_db: Database) -> None:
    away = Database("postgresql:///none?host=/nonexistent", role="orch_service", size=1, application_name="t")
    assert why_too_old(away) is None
    assert why_too_old(service_db) is None
