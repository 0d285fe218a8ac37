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


@pytest.fixture
def of_owner(servers: Servers) -> Iterator[str]:
    """An empty database whose owner is no superuser, as on a server of one's own."""
    servers.maintain("CREATE ROLE somebody LOGIN CREATEROLE")
    servers.maintain("GRANT orch_api, orch_service TO somebody WITH ADMIN OPTION")
    servers.maintain("CREATE DATABASE of_somebody OWNER somebody")
    yield servers.url("of_somebody", user="somebody")
    servers.maintain("DROP DATABASE of_somebody WITH (FORCE)")
    servers.maintain("DROP ROLE somebody")


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


def test_definitions_that_were_there_before_are_run_ahead_as_well(of_owner: str, servers: Servers) -> None:
    """The owner is bound by row-level security, and sees all definitions as a member of both roles."""
    migrations.upgrade(of_owner, revision="0019")
    connection = psycopg2.connect(servers.url("of_somebody", user=postgres.OWNER))
    try:
        with connection, connection.cursor() as cur:
            for number, tenant in enumerate(("acme", "rival"), start=1):
                # 0 leads to 1 and 2; 3 has a when, 4 is a join, and behind 5 there are too many.
                edges = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 4), *((5, no) for no in range(6, 23))]
                into = [to for _, to in edges]
                cur.execute(
                    "INSERT INTO orch.dag_versions (tenant, dag_id, version, precedence, spec_hash,"
                    " step_count, metadata, definition, created_by) VALUES"
                    " (%s, 'd', '1.0.0', '1', sha256('x'), 23, '{}', '{}', 't') RETURNING dag_version_id",
                    [tenant],
                )
                assert cur.fetchall() == [(number,)]
                cur.executemany(
                    "INSERT INTO orch.dag_steps (tenant, dag_version_id, step_no, step_id, when_expr,"
                    " predecessors, uses, params, run_on, disabled, max_attempts, initial_delay_ms,"
                    " max_delay_ms, multiplier, timeout_ms, pool, reads_inputs, refs) VALUES"
                    " (%s, %s, %s, %s, %s, %s, 'noop', '{}', 'success', FALSE, 1, 0, 0, 1, 1, 'default',"
                    " FALSE, '{}')",
                    [
                        (tenant, number, no, f"s{no}", "true" if no == 3 else None, into.count(no))
                        for no in range(23)
                    ],
                )
                cur.executemany(
                    "INSERT INTO orch.dag_edges VALUES (%s, %s, %s, %s)",
                    [(tenant, number, *edge) for edge in edges],
                )
        migrations.upgrade(of_owner)
        with connection, connection.cursor() as cur:
            cur.execute("SELECT tenant, step_no, only_no, leads FROM orch.dag_steps WHERE step_no < 7")
            certain = {1: 0, 2: 0, 6: 5}
            assert sorted(cur.fetchall()) == [
                (tenant, no, certain.get(no), no == 0) for tenant in ("acme", "rival") for no in range(7)
            ]
    finally:
        connection.close()
