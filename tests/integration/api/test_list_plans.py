"""What a page costs, in blocks that PostgreSQL touches: the same anywhere in a list, whatever the filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import psycopg2
import pytest

from shared.domain.models import TenantId
from shared.store import queries
from shared.store.db import Database, one
from tests.integration.api.conftest import RUNS, Large
from tests.support.rows import EPOCH, OTHERS, rows

ACME = TenantId("acme")
Filters = Mapping[str, object]

OVERHEAD = 6
"""Blocks on the way down an index, and on from one of its leaves to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What reading a page took."""

    rows: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads pages as the API does, with what EXPLAIN says of it."""

    db: Database
    owner_url: str

    def runs(self, size: int, filters: Filters, *, place: int = 0) -> Page:
        """Read the page of runs behind the item at ``place`` (0: the first page)."""
        wanted = {"dag_id": None, "status": None, "from_utc": None, "to_utc": None, **filters}
        after: tuple[object, object] = (None, None)
        if place:
            last, following = self._neighbours({**wanted, "place": place - 1})
            after = (last[0], last[1] if last[0] == following[0] else None)
        key = {**wanted, "after_utc": after[0], "after_run_id": after[1]}
        return self.page("runs", "list_runs", size, key)

    def page(self, aggregate: str, name: str, size: int, key: Filters, tenant: TenantId = ACME) -> Page:
        plan = self._plan(aggregate, name, {**key, "tenant": tenant, "max_rows": size + 1}, tenant)
        blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]  # type: ignore[operator]
        return Page(rows=round(plan["Actual Rows"]), blocks=blocks)  # type: ignore[call-overload]

    def _plan(self, aggregate: str, name: str, parameters: Filters, tenant: TenantId) -> Mapping[str, object]:
        query = queries.load(aggregate)[name]
        with self.db.statement(tenant) as cur:
            cur.execute(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query}", parameters)
            plan: Mapping[str, object] = one(cur.fetchone())[0][0]["Plan"]
            return plan

    def _neighbours(self, parameters: Filters) -> list[tuple[object, object]]:
        with psycopg2.connect(self.owner_url) as connection, connection.cursor() as cur:
            cur.execute(_NEIGHBOURS, parameters)
            return cur.fetchall()


_NEIGHBOURS = """
SELECT r.started_utc, r.run_id FROM orch.runs AS r
WHERE
    (%(dag_id)s IS NULL OR r.dag_id = %(dag_id)s) AND (%(status)s IS NULL OR r.status = %(status)s)
    AND (%(from_utc)s::timestamptz IS NULL OR r.started_utc >= %(from_utc)s)
    AND (%(to_utc)s::timestamptz IS NULL OR r.started_utc < %(to_utc)s)
ORDER BY r.started_utc DESC, r.run_id OFFSET %(place)s LIMIT 2
"""


@pytest.fixture
def reader(large: Large) -> Iterator[Reader]:
    db = Database(large.url, role="orch_api", size=1, application_name="test-plans")
    yield Reader(db=db, owner_url=large.owner_url)
    db.close()


COMMON: list[Filters] = [
    {},
    {"from_utc": EPOCH, "to_utc": EPOCH + timedelta(seconds=RUNS - 100)},
    {"dag_id": "common"},
    {"status": "completed"},
    {"dag_id": "common", "status": "completed"},
]


@pytest.mark.parametrize("filters", COMMON, ids=str)
def test_page_10_000_of_runs_costs_what_page_1_costs(reader: Reader, filters: Filters) -> None:
    first = reader.runs(10, filters)
    deep = reader.runs(10, filters, place=10_000 * 10)
    assert first.rows == deep.rows == 11
    assert deep.blocks <= 1.5 * first.blocks
    assert first.blocks <= 11 + OVERHEAD


@pytest.mark.parametrize("filters", COMMON, ids=str)
def test_a_page_among_many_runs_of_the_same_millisecond_costs_one_more_way_down_the_index(
    reader: Reader, filters: Filters
) -> None:
    ended = 2 / 3 if "status" in filters else 1
    deep = reader.runs(50, filters, place=round(RUNS * 0.9 * ended))
    assert deep.rows == 51
    assert deep.blocks <= reader.runs(50, filters).blocks + OVERHEAD


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"status": "failed"}, 20),
        ({"status": "running"}, 0),
        ({"dag_id": "rare"}, 20),
        ({"dag_id": "absent"}, 0),
        ({"dag_id": "rare", "status": "failed"}, 0),
        ({"dag_id": "common", "status": "failed"}, 20),
        ({"dag_id": "common", "status": "running"}, 0),
        ({"to_utc": EPOCH}, 0),
        ({"status": "failed", "from_utc": EPOCH + timedelta(seconds=RUNS)}, 0),
    ],
    ids=str,
)
def test_rare_runs_are_found_without_looking_at_the_others(
    reader: Reader, filters: Filters, rows: int
) -> None:
    page = reader.runs(50, filters)
    assert page.rows == rows
    assert page.blocks <= rows + OVERHEAD


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        ({"dag_id": None, "active": None}, 51),
        ({"dag_id": None, "active": True}, 51),
        ({"dag_id": None, "active": False}, 20),
        ({"dag_id": "wide", "active": None}, 51),
        ({"dag_id": "wide", "active": False}, 20),
        ({"dag_id": "common", "active": False}, 0),
    ],
    ids=str,
)
def test_a_page_of_versions_is_as_cheap_at_the_end(reader: Reader, filters: Filters, rows: int) -> None:
    first = {"after_dag_id": None, "after_precedence": None, "after_version": None}
    page = reader.page("dags", "list_versions", 50, {**first, **filters})
    assert page.rows == rows
    assert page.blocks <= rows + OVERHEAD
    if rows == 51 and filters["active"] is not False:
        late = {"after_dag_id": "wide", "after_precedence": "00000300", "after_version": "1.0.300"}
        deep = reader.page("dags", "list_versions", 50, {**late, **filters})
        assert deep.rows == 51
        assert deep.blocks <= 51 + 2 * OVERHEAD


@pytest.mark.parametrize(("action", "rows"), [(None, 51), ("run.start", 51), ("dag.publish", 20), ("x.y", 0)])
def test_a_page_of_the_audit_trail_is_as_cheap_at_the_end(
    reader: Reader, action: str | None, rows: int
) -> None:
    for after in (None, EPOCH + timedelta(seconds=OTHERS)):
        key = {"action": action, "from_utc": None, "to_utc": None}
        last = {"after_utc": after, "after_audit_id": None if after is None else "f" * 32}
        page = reader.page("calls", "list_audit", 50, {**key, **last})
        assert page.rows == rows
        assert page.blocks <= rows + OVERHEAD


def test_the_last_page_of_steps_costs_what_the_first_costs(reader: Reader) -> None:
    tenant = TenantId("long")
    with rows(reader.owner_url) as written:
        run_id = str(written.many_steps(tenant))
    first, last = (
        reader.page("steps", "list_steps", 50, {"run_id": run_id, "after_no": after_no}, tenant)
        for after_no in (-1, OTHERS - 52)
    )
    assert first.rows == last.rows == 51
    assert last.blocks <= 1.5 * first.blocks


@pytest.fixture
def without_statistics(large: Large) -> None:
    """Nothing tells the planner how many rows to expect, as in an installation that is new."""
    with psycopg2.connect(large.owner_url) as connection, connection.cursor() as cur:
        cur.execute("DELETE FROM pg_statistic WHERE starelid = 'orch.runs'::regclass")


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("filters", COMMON, ids=str)
def test_a_page_is_never_sorted_out_of_all_that_comes_behind_it(reader: Reader, filters: Filters) -> None:
    page = reader.runs(500, filters, place=1_000)
    assert page.rows == 501
    assert page.blocks <= 501 + 2 * OVERHEAD


@pytest.mark.usefixtures("without_statistics")
@pytest.mark.parametrize("filters", [*COMMON, {"status": "failed"}], ids=str)
def test_a_stream_of_runs_begins_with_its_first_row_and_not_with_a_sort_of_all(
    reader: Reader, filters: Filters
) -> None:
    wanted = {"dag_id": None, "status": None, "from_utc": None, "to_utc": None, **filters}
    wanted |= {"tenant": ACME, "after_utc": None, "after_run_id": None, "max_rows": None}
    with reader.db.snapshot(ACME) as snapshot:
        query = queries.load("runs")["list_runs"]
        snapshot.execute(f"EXPLAIN DECLARE stream NO SCROLL CURSOR FOR {query}", wanted)
        plan = "\n".join(row[0] for row in snapshot.fetchall())
    assert "Index Scan using runs_by_" in plan
    assert "Bitmap" not in plan
