from __future__ import annotations

import re

import pytest

from orchestrator_api.trace import trace_of

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


def test_a_valid_trace_is_continued() -> None:
    trace = trace_of(f"00-{TRACE_ID}-{SPAN_ID}-01")
    assert (trace.trace_id, trace.parent_id) == (TRACE_ID, SPAN_ID)


def test_a_later_version_may_carry_more_fields() -> None:
    assert trace_of(f"01-{TRACE_ID}-{SPAN_ID}-01-what-may-come").trace_id == TRACE_ID


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01, 00-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f"01-{TRACE_ID}-{SPAN_ID}-01.more",
    ],
)
def test_anything_else_begins_a_new_trace(header: str | None) -> None:
    trace = trace_of(header)
    assert re.fullmatch("[0-9a-f]{32}", trace.trace_id)
    assert trace.trace_id != TRACE_ID
    assert trace.parent_id is None
