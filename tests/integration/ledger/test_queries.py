"""The SQL files and the code around them fit together, and PostgreSQL can plan every query."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg2
import pytest

import shared.store
from shared.domain.states import AttemptStatus, RunOn, RunStatus, StepStatus
from shared.store import queries

_STORE = Path(shared.store.__file__).parent
_ALL = [(aggregate, name) for aggregate in queries.aggregates() for name in queries.load(aggregate)]


@pytest.mark.parametrize(("aggregate", "name"), _ALL)
def test_each_query_is_used_by_the_function_of_its_name(aggregate: str, name: str) -> None:
    code = (_STORE / f"{aggregate}.py").read_text(encoding="utf-8")
    assert f'_SQL["{name}"]' in code
    assert f"def {name}(" in code


@pytest.mark.parametrize("aggregate", queries.aggregates())
def test_each_name_that_the_code_uses_is_a_query(aggregate: str) -> None:
    code = (_STORE / f"{aggregate}.py").read_text(encoding="utf-8")
    assert set(re.findall(r'_SQL\["(\w+)"\]', code)) == set(queries.load(aggregate))


@pytest.mark.parametrize(("aggregate", "name"), _ALL)
def test_postgresql_plans_each_query(owner_url: str, aggregate: str, name: str) -> None:
    query = queries.load(aggregate)[name]
    parameters = dict.fromkeys(re.findall(r"%\((\w+)\)s", query))
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("EXPLAIN " + query, parameters)
        assert cur.fetchall()


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("run_status_known", RunStatus),
        ("step_status_known", StepStatus),
        ("attempt_status_known", AttemptStatus),
        ("run_on_known", RunOn),
    ],
)
def test_the_checks_of_the_ledger_know_the_states_of_the_domain(
    owner_url: str, constraint: str, values: type[RunStatus | StepStatus | AttemptStatus | RunOn]
) -> None:
    with psycopg2.connect(owner_url) as connection, connection.cursor() as cur:
        cur.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (constraint,))
        row = cur.fetchone()
    assert row is not None
    assert set(re.findall(r"'(\w+)'::text", row[0])) == {str(value) for value in values}
