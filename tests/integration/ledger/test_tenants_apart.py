"""One tenant sees nothing of another: not by any query, not with the WHERE left out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import psycopg2
import psycopg2.errors
import pytest

from shared.domain.models import (
    ArtifactRef,
    AuditEntry,
    AuditOutcome,
    RunFilter,
    RunId,
    Sha256,
    StepId,
    TenantId,
    TenantLimits,
)
from shared.domain.warm import Loaded
from shared.errors import ArtifactNotFound, DagNotFound, RunNotFound
from shared.ids import uuid7
from shared.services import artifacts, calls, dags, events, export, health, limits, metrics, runs, steps, warm
from shared.services.calls import CallKey, Kept
from shared.services.metrics import Total
from shared.services.warm import WarmRequest
from shared.store import queries
from shared.store.db import Database
from tests.support.eventually import eventually
from tests.support.graphs import graph
from tests.support.ledger import TRACE, Ledger, succeeded

OTHER = TenantId("other")
WARM_ID = uuid7()
CALL = CallKey(key="once", method="POST", path="/dags")
ENTRY = AuditEntry(
    audit_id=uuid7(),
    at_utc=datetime(2026, 11, 27, tzinfo=UTC),
    subject="ci",
    action="run.start",
    object="/runs",
    reason=None,
    trace_id=TRACE,
    outcome=AuditOutcome.ACCEPTED,
    status=201,
    code=None,
)
BYTES = ArtifactRef(name="out.txt", sha256=Sha256("ab" * 32), size_bytes=3, content_type="text/plain")


@pytest.fixture
def run_id(ledger: Ledger) -> RunId:
    """A run of acme that leaves a row in every table of a tenant."""
    run = ledger.start(graph("a>b"), run_token="once")
    ledger.pick()
    ledger.run_step(run, "a", replace(succeeded({"secret": 1}), artifacts=(BYTES,)))
    with calls.once(ledger.api, ledger.tenant, CALL, BYTES.sha256) as once:
        once.finish(Kept(fingerprint=BYTES.sha256, status=201, headers={}, body="{}"), ENTRY)
    limits.put(ledger.api, ledger.tenant, TenantLimits(max_queued_steps=5))
    asked = WarmRequest(tenant=ledger.tenant, warm_id=WARM_ID, dags=(), plugins=("noop",))
    warm.ask(ledger.api, asked, replace(ENTRY, audit_id=uuid7()))
    warm.answer(ledger.service, asked, ledger.worker, Loaded(dags=(), plugins=()))
    with ledger.service.statement(None) as cur:
        cur.execute(
            "SELECT orch.put_aside(%(tenant)s, 'wake', %(run_id)s, -1, 'broken')",
            {"tenant": ledger.tenant, "run_id": str(run.run_id)},
        )
    eventually(lambda: metrics.catch_up(ledger.api, ledger.tenant, within_seconds=1) and totals_of(ledger))
    return run.run_id


def totals_of(ledger: Ledger) -> Sequence[Total]:
    return metrics.measure(ledger.api, ledger.tenant).totals


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
    assert set(found) - apart == {"alembic_version", "incidents", "pool_clocks", "sweepers", "workers"}
    assert apart == set(_tables_of_tenants(owner_url))


def _parameters(ledger: Ledger, run_id: RunId, tenant: TenantId) -> dict[str, object]:
    """Give each parameter of any query a value that finds what acme has, if it is to be found."""
    with ledger.service.statement(None) as cur:
        cur.execute("SELECT dag_version_id FROM orch.dag_versions")
        version = cur.fetchall()[0][0]
    return {
        "tenant": tenant,
        "run_id": str(run_id),
        "step_no": 1,
        "step_id": "b",
        "attempt": 1,
        "after_no": -1,
        "max_rows": 10,
        "dag_id": "graph",
        "version": "1.0.0",
        "dag_version_id": version,
        "checked": version,
        "active": False,
        "after_dag_id": None,
        "after_precedence": None,
        "after_version": None,
        "status": None,
        "from_utc": None,
        "to_utc": None,
        "after_utc": None,
        "after_run_id": None,
        "reason": "theirs",
        "run_token": "once",
        "inputs": "{}",
        "inputs_hash": "00" * 32,
        "trace_id": TRACE,
        "created_by": "them",
        "worker_id": "theirs",
        "lease_ms": 1_000,
        "told": json.dumps([_told(run_id)]),
        "share": 1.0,
        "handoff_pools": [],
        "unlock": [0, 1],
        "skip": [],
        "sha256": BYTES.sha256,
        "precedence": "1",
        "spec_hash": "00" * 32,
        "step_count": 1,
        "metadata": "{}",
        "definition": '{"steps": []}',
        "signature": None,
        "predecessors": "{0}",
        "only_nos": "{NULL}",
        "leads": [False],
        "reads_inputs": [False],
        "refs": ["{}"],
        "from_nos": "{0}",
        "to_nos": "{1}",
        "key": CALL.key,
        "method": CALL.method,
        "path": CALL.path,
        "fingerprint": BYTES.sha256,
        "headers": "{}",
        "body": "{}",
        "audit_id": str(uuid7()),
        "at_utc": ENTRY.at_utc,
        "after_audit_id": None,
        "subject": "them",
        "action": None,
        "object": "/runs",
        "outcome": "accepted",
        "code": None,
        "weight": 1,
        "max_running_steps": None,
        "max_queued_steps": 5,
        "pool": "default",
        "queued_utc": "2100-01-01T00:00:00Z",
        "sent_utc": None,
        "asked_in_vain": 3,
        "warm_id": str(WARM_ID),
        "dags": "[]",
        "plugins": [],
        "loaded": "[]",
        "xid": "0",
        "event_id": 0,
        "seq": 0,
    }


def _told(run_id: RunId) -> dict[str, object]:
    """Tell of acme's run what its worker could."""
    ended = {"step_no": 1, "attempt": 1, "ending": "succeeded", "outputs": {}}
    told = {"run_id": str(run_id), "claims": [0, 1], "ended": [ended], "pools": []}
    return {"place": 0, "sure": 1, "late": 0, "free": 1, **told}


_OF_A_TENANT = [
    (aggregate, name)
    for aggregate in queries.aggregates()
    for name, query in queries.load(aggregate).items()
    # A pick is fair among all tenants, whichever of them it is told of.
    if "%(tenant)s" in query and aggregate != "dispatch"
]


def _reached(db: Database, bound_to: TenantId, query: str, parameters: dict[str, object]) -> list[object]:
    """Run a query and give every value in its rows that says anything; nothing, if it is refused."""
    query = re.sub("--.*", "", query).strip().rstrip(";")
    if "RETURNING" not in query and re.search("(?<!FOR )UPDATE|INSERT", query):
        query += " RETURNING TRUE"
    try:
        with db.statement(bound_to) as cur:
            cur.execute(query, parameters)
            found = [value for row in cur.fetchall() for value in row if value]
    except psycopg2.errors.InsufficientPrivilege:
        return []
    # A document in which nothing stands tells nothing.
    return [value for value in found if not isinstance(value, dict) or any(value.values())]


@pytest.mark.parametrize(("aggregate", "name"), _OF_A_TENANT)
def test_no_query_reaches_into_another_tenant_even_when_it_names_it(
    ledger: Ledger, run_id: RunId, aggregate: str, name: str
) -> None:
    parameters = _parameters(ledger, run_id, ledger.tenant)
    assert _reached(ledger.api, OTHER, queries.load(aggregate)[name], parameters) == []


@pytest.mark.parametrize(("aggregate", "name"), [q for q in _OF_A_TENANT if "insert" not in q[1]])
def test_each_query_finds_nothing_for_another_tenant_even_without_row_level_security(
    ledger: Ledger, run_id: RunId, aggregate: str, name: str
) -> None:
    parameters = _parameters(ledger, run_id, OTHER)
    assert _reached(ledger.service, OTHER, queries.load(aggregate)[name], parameters) == []


@pytest.mark.parametrize(
    ("aggregate", "name"),
    [q for q in _OF_A_TENANT if re.match("get|list_(?!undecided)|read|present|queues|set_|totals$", q[1])],
)
def test_the_same_queries_do_find_what_the_tenant_has(
    ledger: Ledger, run_id: RunId, aggregate: str, name: str
) -> None:
    parameters = _parameters(ledger, run_id, ledger.tenant)
    parameters = {**parameters, "step_no": 0, "active": None if name == "list_versions" else False}
    assert _reached(ledger.api, ledger.tenant, queries.load(aggregate)[name], parameters)


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
        # What expires is no history.
        for table in set(_tables_of_tenants(owner_url)) - {"idempotency_keys", "warm_requests", "set_aside"}:
            with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.statement(ledger.tenant) as cur:
                cur.execute(statement.format(f"orch.{table}"))


def test_nobody_changes_an_event(ledger: Ledger, run_id: RunId) -> None:
    for db in (ledger.api, ledger.service):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.statement(ledger.tenant) as cur:
            cur.execute("UPDATE orch.events SET line = ''")


def test_nobody_changes_the_audit_trail(ledger: Ledger, run_id: RunId) -> None:
    for db in (ledger.api, ledger.service):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege), db.statement(ledger.tenant) as cur:
            cur.execute("UPDATE orch.audit SET subject = 'somebody else'")


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
    assert runs.list_page(api, OTHER, RunFilter(), after=None, limit=5) == []
    with export.open_runs(api, OTHER, RunFilter()) as theirs:
        assert list(theirs) == []
    assert health.set_aside(api, OTHER) == [] != health.set_aside(api, ledger.tenant)
    counts = health.QueueCounts()
    assert counts.of(api, OTHER) == [] != counts.of(api, ledger.tenant)
    measures = metrics.measure(api, OTHER)
    assert (measures.totals, measures.histograms) == ([], [])
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
