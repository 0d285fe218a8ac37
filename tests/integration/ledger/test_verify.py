"""Each rule of the ledger speaks when it is broken, and `orch db verify` says so to an operator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest
from click.testing import CliRunner

from orchestrator_cli.db import db
from shared.services.verify import broken_rules
from shared.store import queries
from shared.store.verify import plan_for_whole_tables
from tests.support.exported import fill
from tests.support.graphs import graph
from tests.support.ledger import Ledger, succeeded

_OF = "run_id = (SELECT run_id FROM orch.runs WHERE dag_id = '{}' LIMIT 1)"
COMPLETED, FAILED, LOST, WAITING = (_OF.format(name) for name in ("completed", "failed", "lost", "waiting"))
CANCELLED, RUNNING = _OF.format("cancelled"), _OF.format("under-way")
# Step b is told to have done what a did, and the other way round.
A, B = '"stepId":"a"', '"stepId":"b"'
SWAPPED = f"replace(replace(replace(line, '{A}', '#'), '{B}', '{A}'), '#', '{B}')"
LAST = "seq = (SELECT seq FROM orch.runs AS r WHERE r.run_id = e.run_id)"


def retold(what: str, where: str) -> str:
    """Change what an event tells, and forge the chain of hashes behind it, so that only the tale is wrong."""
    return f"""
        UPDATE orch.events AS e SET line = {what} WHERE {where};
        DO $$
        DECLARE e record; head bytea;
        BEGIN
            FOR e IN SELECT * FROM orch.events ORDER BY run_id, seq LOOP
                IF e.seq = 1 THEN head := decode(repeat('00', 32), 'hex'); END IF;
                head := sha256(head || convert_to(e.line, 'UTF8'));
                UPDATE orch.events SET hash = head WHERE run_id = e.run_id AND seq = e.seq;
                UPDATE orch.runs SET ledger_head = head WHERE run_id = e.run_id AND runs.seq = e.seq;
            END LOOP;
        END $$"""


def replaced(old: str, new: str, where: str) -> str:
    return retold(f"replace(line, '{old}', '{new}')", where)


BREAKS = {
    "the events of a run are numbered from 1 without a gap": (
        f"DELETE FROM orch.events WHERE {COMPLETED} AND seq = 3"
    ),
    "an event's hash is that of the hash before it and its line": (
        f"UPDATE orch.events SET line = replace(line, 'queued', 'failed') WHERE {COMPLETED} AND seq = 2"
    ),
    "an event is of a transaction that this PostgreSQL has begun": (
        f"UPDATE orch.events AS e SET xid = '4000000000' WHERE {COMPLETED} AND {LAST}"
    ),
    "the events of a run are streamed in their order": (
        f"UPDATE orch.events SET xid = '3' WHERE {COMPLETED} AND seq = 3"
    ),
    "a run's row has the number and the hash of its last event": (
        f"DELETE FROM orch.events AS e WHERE {COMPLETED} AND {LAST}"
    ),
    "an event belongs to a run of its tenant": f"UPDATE orch.events SET tenant = 'rival' WHERE {COMPLETED}",
    "an event tells of the run whose it is": replaced(
        '"tenant":"acme"', '"tenant":"rival"', f"{COMPLETED} AND seq = 2"
    ),
    "a run's first event, and no other, is that it was started": replaced(
        "run.updated", "run.started", f"{CANCELLED}"
    ),
    "a step goes from state to state by the table of transitions": replaced(
        '"stepStatus":"running"', '"stepStatus":"retrying"', f"{COMPLETED} AND seq = 3"
    ),
    "the number of the attempt grows by one with each claim, and with nothing else": replaced(
        '"attempt":1,', '"attempt":2,', f'{COMPLETED} AND line LIKE \'%"stepStatus":"running"%\''
    ),
    "a step is as its last event tells": (
        f"UPDATE orch.steps SET status = 'failed' WHERE {COMPLETED} AND step_no = 0"
    ),
    "a step begins after all its predecessors have ended": retold(SWAPPED, LOST),
    "a run has one last event when it has ended, of the same kind, and none before": replaced(
        '"type":"run.completed"', '"type":"run.failed"', COMPLETED
    ),
    "the attempts at a step are numbered from 1": (
        f"UPDATE orch.attempts SET attempt = attempt + 1 WHERE {COMPLETED} AND step_no = 0"
    ),
    "an attempt begins when the one before it has ended": (
        f"UPDATE orch.attempts SET ended_utc = ended_utc + INTERVAL '1 hour' WHERE {LOST} AND attempt = 1"
    ),
    "no attempt follows one that succeeded or was cancelled": (
        f"UPDATE orch.attempts SET status = 'succeeded' WHERE {LOST} AND step_no = 0 AND attempt = 2"
    ),
    "an attempt has an end when it does not run, and no other": (
        f"UPDATE orch.attempts SET ended_utc = NULL WHERE {COMPLETED} AND step_no = 0"
    ),
    "no attempt begins after the cancellation of its run was requested, or after the run's end": (
        f"UPDATE orch.runs SET cancel_requested_utc = started_utc - INTERVAL '1 second' WHERE {CANCELLED}"
    ),
    "a step has counted its attempts, and those that were lost or released": (
        f"UPDATE orch.steps SET lost = 0 WHERE {LOST}"
    ),
    "a step that succeeded has one attempt that did, and no other step has one": (
        f"UPDATE orch.attempts SET status = 'failed' WHERE {COMPLETED}"
    ),
    "a step that runs has one attempt that does, and no other step has one": (
        f"UPDATE orch.attempts SET status = 'lost', ended_utc = now() WHERE {RUNNING}"
    ),
    "a step is tried no more often than its policy allows": (
        "UPDATE orch.dag_steps SET max_attempts = 1 WHERE max_attempts = 3"
    ),
    "an attempt is at a step of its tenant": f"UPDATE orch.attempts SET tenant = 'rival' WHERE {COMPLETED}",
    "a step's times fit its state": f"UPDATE orch.steps SET lease_until = now() WHERE {COMPLETED}",
    "a step waits for as many predecessors as are open": (
        f"UPDATE orch.steps SET waiting = 0 WHERE {WAITING} AND step_no = 1"
    ),
    "a step is attempted only when its runOn holds and it is not disabled": (
        "UPDATE orch.dag_steps SET run_on = 'failure' WHERE dag_version_id = "
        f"(SELECT dag_version_id FROM orch.runs WHERE {COMPLETED})"
    ),
    "a step is skipped for a failure before it only when there was one": (
        f"UPDATE orch.steps SET error_code = 'UPSTREAM_FAILED' WHERE {COMPLETED} AND status = 'skipped'"
    ),
    "no more steps have a place of a concurrency key than it has": (
        "UPDATE orch.dag_steps SET concurrency_key = 'key', concurrency_limit = 1;"
        f"UPDATE orch.steps SET concurrency_key = 'key' WHERE {RUNNING} OR {WAITING}"
    ),
    "a step belongs to a run of its tenant": f"UPDATE orch.steps SET tenant = 'rival' WHERE {COMPLETED}",
    "a run has counted its steps, those that are open and those that failed": (
        f"UPDATE orch.runs SET open_steps = open_steps + 1 WHERE {WAITING}"
    ),
    "a run has ended when no step of it is open": f"UPDATE orch.runs SET ended_utc = NULL WHERE {COMPLETED}",
    "a run ends as its steps and its cancellation say": (
        f"UPDATE orch.runs SET status = 'completed' WHERE {FAILED}"
    ),
    "the outputsHash of a run is that of its steps": (
        f"UPDATE orch.steps SET outputs_hash = sha256('other') WHERE {COMPLETED} AND step_no = 0"
    ),
    "a run has its inputs": f"DELETE FROM orch.run_inputs WHERE {COMPLETED}",
    "the id of a run is one tenant's": (
        "INSERT INTO orch.runs (tenant, run_id, dag_version_id, dag_id, dag_version, status, trace_id,"
        " inputs_hash, created_by, started_utc, step_count, open_steps)"
        " SELECT 'rival', run_id, dag_version_id, dag_id, dag_version, status, trace_id,"
        " inputs_hash, created_by, started_utc, 0, 0"
        f" FROM orch.runs WHERE {COMPLETED}"
    ),
    "a start that was acknowledged is a run": (
        "INSERT INTO orch.idempotency_keys (tenant, key, method, path, fingerprint, status, headers, body)"
        " VALUES ('acme', 'k', 'POST', '/api/v1/orchestrator/runs', sha256(''), 201, '{}',"
        ' \'{"runId":"0191f000-0000-7000-8000-000000000001"}\')'
    ),
    "a tenant owns the log of each of its attempts": (
        f"UPDATE orch.attempts SET logs_ref = sha256('a log') WHERE {COMPLETED}"
    ),
    "a file was written by an attempt": (
        "INSERT INTO orch.artifact_refs (tenant, run_id, step_no, attempt, name, sha256)"
        f" SELECT tenant, run_id, 0, 9, 'file', sha256('') FROM orch.runs WHERE {COMPLETED}"
    ),
}


@pytest.fixture
def filled(ledger: Ledger, owner_url: str) -> Iterator[psycopg2.extensions.cursor]:
    """A ledger with runs of every kind, opened by its owner; what is done to it is undone."""
    fill(ledger)
    under_way = ledger.start(graph("a>b", dag_id="under-way"))
    ledger.claimed(under_way, "a")
    connection = psycopg2.connect(owner_url)
    try:
        with connection.cursor() as cur:
            # A hand that breaks the ledger keeps to no foreign keys either.
            cur.execute("SET session_replication_role = replica")
            yield cur
        connection.rollback()
    finally:
        connection.close()


def test_every_rule_has_something_that_breaks_it() -> None:
    texts = queries.load("verify").values()
    rules = {
        rule.replace("''", "'")
        for text in texts
        for rule in re.findall(r"SELECT\s+'((?:[^']|'')+)'(?: AS rule)?,", text)
    }
    assert rules == set(BREAKS)


@pytest.mark.parametrize("rule", BREAKS)
def test_a_rule_that_is_broken_is_named(filled: psycopg2.extensions.cursor, rule: str) -> None:
    plan_for_whole_tables(filled)
    assert broken_rules(filled) == []
    filled.execute(BREAKS[rule])
    assert filled.rowcount != 0
    assert rule in {broken.rule for broken in broken_rules(filled)}


def test_the_operator_is_told_that_all_holds(
    ledger: Ledger, owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ledger)
    monkeypatch.setenv("ORCH_MIGRATION_DATABASE_URL", owner_url)
    result = CliRunner().invoke(db, ["verify"])
    assert result.output == "all holds: 5 runs, 1 of them running\n"
    assert result.exit_code == 0


def test_the_operator_is_told_what_is_broken_and_where(
    ledger: Ledger, owner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ledger.start(graph("a>b"))
    ledger.run_step(run, "a", succeeded())
    monkeypatch.setenv("ORCH_MIGRATION_DATABASE_URL", owner_url)
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("UPDATE orch.events SET line = %s WHERE seq = 2", (json.dumps({"forged": True}),))
    connection.close()
    try:
        result = CliRunner().invoke(db, ["verify"])
        assert result.exit_code == 1
        assert result.output == (
            "not so: an event's hash is that of the hash before it and its line (1)\n"
            f"  acme run {run.run_id} event 2\n"
        )
    finally:
        # The ledger is held to its rules after each test: this one leaves none behind.
        with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
            cur.execute("TRUNCATE orch.runs, orch.run_inputs, orch.steps, orch.attempts, orch.events")
        connection.close()
