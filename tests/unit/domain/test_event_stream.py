from __future__ import annotations

import json
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.event_stream import START, Cursor, StreamedEvent, StreamFilter
from shared.domain.models import DagId, RunId
from shared.domain.states import RunStatus, StepStatus
from shared.domain.step_rules import ID_PATTERN

NUMBERS = st.integers(0, (1 << 63) - 1)
CURSORS = st.builds(Cursor, st.integers(1, (1 << 63) - 1), NUMBERS) | st.just(START)
IDS = st.from_regex(ID_PATTERN, fullmatch=True) | st.sampled_from(["status", "dagId", "a-running", "running"])
STATUSES = st.sampled_from(list(RunStatus))
EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["run.started", "run.updated", "run.failed", "step.updated"]),
        "tenant": st.just("acme"),
        "dagId": IDS,
        "runId": st.uuids().map(str),
        "status": STATUSES.map(str),
        "timestamp": st.just("2026-11-21T23:04:05.123Z"),
        "traceId": st.just("4bf92f3577b34da6a3ce929d0e0e4736"),
        "seq": st.integers(1, 100_000),
    },
    optional={
        "stepId": IDS,
        "stepStatus": st.sampled_from(list(StepStatus)).map(str),
        "attempt": st.integers(0, 9),
    },
)


@given(CURSORS)
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert Cursor.parse(str(cursor)) == cursor


@given(st.text("0123456789.+-_ e\u0663\u00b2", max_size=24) | st.text(max_size=8))
def test_a_text_is_a_cursor_if_it_is_the_one_spelling_of_it(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


@pytest.mark.parametrize(
    "text", ["", "1", "0.0", "0.1", "1.", ".1", "1.01", "1.9223372036854775808", "1.1\n", "1.-1"]
)
def test_other_spellings_are_none(text: str) -> None:
    assert Cursor.parse(text) is None


@given(CURSORS, CURSORS)
def test_cursors_have_the_order_of_their_events(one: Cursor, other: Cursor) -> None:
    assert (one < other) == ((one.xid, one.event_id) < (other.xid, other.event_id))


@given(EVENTS, CURSORS)
def test_a_line_is_the_ledger_s_with_one_member_more(event: dict[str, object], cursor: Cursor) -> None:
    line = rfc8785.dumps(event).decode()  # type: ignore[arg-type]
    streamed = StreamedEvent(cursor, line)
    told = streamed.to_line()
    assert told == rfc8785.dumps({**event, "cursor": str(cursor)}).decode()  # type: ignore[dict-item]
    assert told.replace(f'"cursor":"{cursor}",', "") == line
    assert streamed.seq == event["seq"]


@given(EVENTS, st.none() | IDS, st.none() | STATUSES, st.booleans(), st.uuids())
def test_a_filter_wants_what_has_its_members(
    event: dict[str, object], dag_id: str | None, status: RunStatus | None, same_run: bool, other: RunId
) -> None:
    line = rfc8785.dumps(event).decode()  # type: ignore[arg-type]
    wanted: dict[str, str] = {}
    if dag_id is not None:
        wanted["dagId"] = dag_id
    if status is not None:
        wanted["status"] = status
    wanted["runId"] = str(event["runId"]) if same_run else str(other)
    chosen = StreamFilter(
        dag_id=None if dag_id is None else DagId(dag_id),
        status=status,
        run_id=RunId(UUID(wanted["runId"])),
    )
    assert chosen.wants(line) == (wanted.items() <= json.loads(line).items())
    assert StreamFilter().wants(line)
