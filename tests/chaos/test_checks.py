"""The checks of chaos see what they look for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from shared.artifacts import FolderStore
from shared.domain.models import Run
from shared.store.db import Database
from tests.chaos import checks
from tests.chaos.history import Call, History
from tests.chaos.shapes import COMPLETES, Shape
from tests.support.graphs import graph
from tests.support.ledger import Ledger

SHAPES = {"graph": Shape(steps=[], edges=(), ends=COMPLETES)}
UNKNOWN = "0191f000-0000-7000-8000-000000000001"


@pytest.fixture
def ledger(api_db: Database, service_db: Database) -> Ledger:
    return Ledger(api=api_db, service=service_db)


@pytest.fixture
def cur(owner_url: str) -> Iterator[Cursor]:
    connection = psycopg2.connect(owner_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


@pytest.fixture
def run(ledger: Ledger) -> Run:
    """A run that has completed, and whose client was told of it."""
    run = ledger.start(graph("a>b"), run_token="t")
    ledger.run_step(run, "a")
    ledger.run_step(run, "b")
    return run


@pytest.fixture
def history(run: Run) -> History:
    history = History()
    history.start("acme", "t", "graph").acknowledged.add(str(run.run_id))
    return history


def test_what_is_as_it_was_told_is_no_problem(cur: Cursor, history: History) -> None:
    assert [*checks.history_problems(cur, history, SHAPES), *checks.ledger_problems(cur)] == []


def test_a_run_that_was_acknowledged_and_is_not_there_is_lost(cur: Cursor, history: History) -> None:
    history.start("acme", "another", "graph").acknowledged.add(UNKNOWN)
    (problem,) = checks.history_problems(cur, history, SHAPES)
    assert problem.endswith("and lost")


def test_two_runs_of_one_token_are_one_too_many(cur: Cursor, history: History) -> None:
    history.starts[("acme", "t")].acknowledged.add(UNKNOWN)
    (problem,) = checks.history_problems(cur, history, SHAPES)
    assert "were acknowledged" in problem


def test_a_run_that_nobody_asked_for_is_made_up(cur: Cursor, run: Run) -> None:
    (problem,) = checks.history_problems(cur, History(), SHAPES)
    assert problem == "nobody asked for [('acme', 't')]"


def test_a_cancellation_that_was_accepted_must_show(cur: Cursor, history: History) -> None:
    history.starts[("acme", "t")].cancelled = True
    (problem,) = checks.history_problems(cur, history, SHAPES)
    assert "is completed, which may be {'cancelled'}" in problem


@pytest.mark.parametrize(
    "call", [Call("GET /runs", 0, 1, 500), Call("GET /runs", 0, 1, 503, retry_after=False)]
)
def test_an_answer_that_no_fault_excuses_is_named(cur: Cursor, history: History, call: Call) -> None:
    history.note(call)
    (problem,) = checks.history_problems(cur, history, SHAPES)
    assert problem.startswith("GET /runs: 50")


def test_only_calls_during_a_fault_may_fail(history: History) -> None:
    calls = [Call("GET /runs", at, at + 0.5, status) for at in (1, 5, 9) for status in (None, 503, 200)]
    for call in calls:
        history.note(call)
    failed = history.failed_outside(4, 6, since=0)
    assert [(call.begun, call.status) for call in failed] == [(1, None), (1, 503), (9, None), (9, 503)]
    assert history.failed_outside(4, 6, since=len(calls)) == []


def test_more_steps_at_once_than_the_limit_allows_are_counted(cur: Cursor, ledger: Ledger) -> None:
    run = ledger.start(graph("a,b>c"))
    ledger.claimed(run, "a")
    ledger.claimed(run, "b")
    cur.execute("INSERT INTO orch.tenant_limits (tenant, max_running_steps) VALUES ('acme', 1)")
    (problem,) = checks.ledger_problems(cur)
    assert problem == "('acme', None): 2 ran at a time, 1 may"
    cur.execute("UPDATE orch.tenant_limits SET max_running_steps = 2")
    assert [*checks.ledger_problems(cur)] == []


def test_work_that_was_not_done_done_twice_or_by_nobody_is_named(
    cur: Cursor, run: Run, tmp_path: Path
) -> None:
    sink = tmp_path / "sink"
    cur.execute("UPDATE orch.dag_steps SET uses = 'command'")
    a, b = f"{run.run_id}/a/1", f"{run.run_id}/b/1"
    sink.write_text(f"{a}\n{b}\n")
    assert [*checks.effect_problems(cur, sink)] == []
    sink.write_text(f"{a}\n{a}\n{run.run_id}/a/2\n")
    assert sorted(checks.effect_problems(cur, sink)) == [
        f"{a} was done 2 times",
        f"{run.run_id}/a/2 was done and is not in the ledger",
        f"{b} succeeded and did nothing",
    ]


def test_an_artifact_that_is_gone_or_another_is_named(cur: Cursor, tmp_path: Path) -> None:
    sha256, size = FolderStore(tmp_path).put_bytes(b"content")
    cur.execute(
        "INSERT INTO orch.artifacts (tenant, sha256, size_bytes, content_type)"
        " VALUES ('acme', decode(%s, 'hex'), %s, 'text/plain')",
        (sha256, size),
    )
    assert [*checks.artifact_problems(cur, tmp_path)] == []
    file = tmp_path / sha256[:2] / sha256
    file.chmod(0o600)
    file.write_bytes(b"Content")
    assert [*checks.artifact_problems(cur, tmp_path)] == [f"the artifact {sha256} has another content"]
    file.unlink()
    assert [*checks.artifact_problems(cur, tmp_path)] == [f"the artifact {sha256} of acme is gone"]


def test_a_traceback_and_a_token_in_a_log_are_named_once(tmp_path: Path) -> None:
    log, read = tmp_path / "worker-1.log", dict[Path, int]()
    log.write_text("all is well\nTraceback (most recent call last): ...\nBearer eyJhbGciOiJFUzI1NiJ9\n")
    assert len([*checks.log_problems(tmp_path, read)]) == 2
    assert [*checks.log_problems(tmp_path, read)] == []
