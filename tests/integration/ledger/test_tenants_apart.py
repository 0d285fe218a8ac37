"""One tenant sees nothing of another: not by any query, not with the WHERE left out."""

from __future__ import annotations

from dataclasses import replace

import psycopg2
import psycopg2.errors
import pytest

from shared.domain.models import ArtifactRef, RunId, Sha256, StepId, TenantId
from shared.errors import ArtifactNotFound, DagNotFound, RunNotFound
from shared.services import artifacts, dags, events, health, runs, steps
from shared.store.db import Database
from tests.support.graphs import graph
from tests.support.ledger import TRACE, Ledger, succeeded

OTHER = TenantId("other")
BYTES = ArtifactRef(name="out.txt", sha256=Sha256("ab" * 32), size_bytes=3, content_type="text/plain")


@pytest.fixture
def run_id(ledger: Ledger) -> RunId:
    """A run of acme that leaves a row in every table of a tenant."""
    run = ledger.start(graph("a>b"), run_token="once")
    ledger.pick()
    ledger.run_step(run, "a", replace(succeeded({"secret": 1}), artifacts=(BYTES,)))
    return run.run_id


def _tables_of_tenants(owner_url: str) -> list[str]:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'orch' AND column_name = 'tenant' ORDER BY 1"
        )
        return [row[0] for row in cur.fetchall()]


def test_every_table_but_the_fleet_is_a_tenants_and_forces_row_level_security(owner_url: str) -> None:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,"
            " (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polwithcheck IS NOT NULL)"
            " FROM pg_class c WHERE c.relnamespace = 'orch'::regnamespace AND c.relkind = 'r' ORDER BY 1"
        )
        found = {row[0]: (row[1], row[2]) for row in cur.fetchall()}
    apart = {name for name, protection in found.items() if protection == (True, 2)}
    assert set(found) - apart == {"alembic_version", "workers"}
    assert apart == set(_tables_of_tenants(owner_url))


def test_the_service_roles_are_no_superusers_and_bypass_nothing(owner_url: str) -> None:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute(
            "SELECT rolname FROM pg_roles WHERE rolname IN ('orch_api', 'orch_service')"
            " AND NOT rolsuper AND NOT rolbypassrls AND NOT rolcanlogin ORDER BY 1"
        )
        assert cur.fetchall() == [("orch_api",), ("orch_service",)]


@pytest.mark.parametrize("tenant", [OTHER, None], ids=["other", "none"])
def test_without_any_where_a_tenant_sees_its_own_rows_only(
    ledger: Ledger, run_id: RunId, owner_url: str, tenant: TenantId | None
) -> None:
    for table in _tables_of_tenants(owner_url):
        everything = f"SELECT count(*) FROM orch.{table}"
        with ledger.api.statement(tenant) as cur:
            cur.execute(everything)
            assert cur.fetchone() == (0,), table
        with ledger.api.statement(ledger.tenant) as cur:
            cur.execute(everything)
            row = cur.fetchone()
            assert row
            assert row[0] > 0, f"{table} proves nothing: it is empty"


def test_a_tenant_can_write_neither_into_another_nor_over_it(ledger: Ledger, run_id: RunId) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), ledger.api.statement(OTHER) as cur:
        cur.execute(
            "INSERT INTO orch.run_inputs (tenant, run_id, inputs) VALUES ('acme', gen_random_uuid(), '{}')"
        )
    with ledger.api.statement(OTHER) as cur:
        cur.execute("UPDATE orch.runs SET cancel_reason = 'mine now' RETURNING run_id")
        assert cur.fetchall() == []


@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}"])
def test_nobody_deletes_from_the_ledger(
    ledger: Ledger, run_id: RunId, owner_url: str, statement: str
) -> None:
    for db in (ledger.api, ledger.service):
        for table in _tables_of_tenants(owner_url):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.statement(ledger.tenant) as cur:
                cur.execute(statement.format(f"orch.{table}"))


def test_nobody_changes_an_event(ledger: Ledger, run_id: RunId) -> None:
    for db in (ledger.api, ledger.service):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.statement(ledger.tenant) as cur:
            cur.execute("UPDATE orch.events SET line = ''")


def test_every_service_finds_nothing_of_another_tenant(ledger: Ledger, run_id: RunId) -> None:
    api, dag = ledger.api, graph("a>b")
    with pytest.raises(DagNotFound):
        dags.get(api, OTHER, dag.dag_id, dag.version)
    with pytest.raises(DagNotFound):
        dags.set_active(api, OTHER, dag.dag_id, dag.version, active=False)
    with pytest.raises(DagNotFound):
        runs.start(
            api,
            OTHER,
            dag_id=dag.dag_id,
            version=None,
            inputs={},
            run_token="once",
            trace_id=TRACE,
            created_by="x",
        )
    for call in (
        lambda: runs.get(api, OTHER, run_id),
        lambda: runs.get_with_steps(api, OTHER, run_id),
        lambda: runs.cancel(api, OTHER, run_id, reason=None),
        lambda: steps.list_page(api, OTHER, run_id, after_no=-1, limit=5),
        lambda: steps.get(api, OTHER, run_id, StepId("a")),
    ):
        with pytest.raises(RunNotFound):
            call()
    with pytest.raises(ArtifactNotFound):
        artifacts.owned(api, OTHER, BYTES.sha256)
    assert artifacts.owned(api, ledger.tenant, BYTES.sha256).size_bytes == 3
    assert events.list_all(api, OTHER, run_id) == []
    assert dags.list_page(api, OTHER, dag_id=None, active=None, after=None, limit=5) == []
    assert not runs.list_page(
        api, OTHER, dag_id=None, status=None, from_utc=None, to_utc=None, after=None, limit=5
    )
    assert health.queues(api, OTHER) == [] != health.queues(api, ledger.tenant)
    assert dags.get(api, ledger.tenant, dag.dag_id, dag.version).active
    assert runs.get(api, ledger.tenant, run_id).cancel_requested_utc is None


def test_the_tenant_does_not_outlive_its_transaction(
    database_url: str, ledger: Ledger, run_id: RunId
) -> None:
    single = Database(database_url, role="orch_api", size=1, application_name="test-one-connection")
    for tenant, expected in [(ledger.tenant, 1), (None, 0), (OTHER, 0), (ledger.tenant, 1)]:
        with single.transaction(tenant) as cur:
            cur.execute("SELECT count(*) FROM orch.runs")
            assert cur.fetchone() == (expected,)
        with single.statement(None) as cur:
            cur.execute("SELECT count(*) FROM orch.runs")
            assert cur.fetchone() == (0,)
    single.close()
