from __future__ import annotations

from uuid import UUID

import pytest

from shared.domain.models import RunId
from shared.domain.trace import TraceContext, parse_trace, run_span_id

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
GOOD = f"00-{TRACE_ID}-{SPAN_ID}-01"


def state_of(tracestate: str) -> str:
    trace = parse_trace(GOOD, tracestate)
    assert trace is not None
    return trace.state


def test_a_valid_trace_is_read_and_written_alike() -> None:
    trace = parse_trace(GOOD, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")
    assert trace == TraceContext(
        trace_id=TRACE_ID, span_id=SPAN_ID, sampled=True, state="congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    )
    assert trace.headers() == {"traceparent": GOOD, "tracestate": trace.state}


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_the_sampled_flag_is_one_bit_of_several(flags: str, sampled: bool) -> None:
    trace = parse_trace(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")
    assert trace is not None
    assert trace.sampled is sampled
    assert trace.traceparent.endswith("-01" if sampled else "-00")


def test_a_later_version_may_carry_more_fields() -> None:
    trace = parse_trace(f"01-{TRACE_ID}-{SPAN_ID}-01-what-may-come")
    assert trace is not None
    assert trace.trace_id == TRACE_ID


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
        f"{GOOD},{GOOD}",
        f"{GOOD}, {GOOD}",
        f"01-{TRACE_ID}-{SPAN_ID}-01-more,{GOOD}",
        f"{GOOD}\n",
        f"01-{TRACE_ID}-{SPAN_ID}-01.more",
        f"00-{TRACE_ID[:-1]}\uff14-{SPAN_ID}-01",
        17,
    ],
)
def test_anything_else_is_no_trace(header: object) -> None:
    assert parse_trace(header) is None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a=1", "a=1"),
        ("a=1 , b=2,,", "a=1,b=2"),
        ("fw529a3039@dt=x y", "fw529a3039@dt=x y"),
        (",".join(f"k{i}=v" for i in range(32)), ",".join(f"k{i}=v" for i in range(32))),
        (",".join(f"k{i}=v" for i in range(33)), ""),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("a", ""),
        ("a=b=c", ""),
        ("a=" + "v" * 257, ""),
        ("a=" + "v" * 250 + ",b=" + "v" * 250 + ",c=" + "v" * 20, ""),
        ("a=1\r\nX: y", ""),
        ("a=ü", ""),
    ],
)
def test_a_tracestate_is_handed_on_whole_or_not_at_all(given: str, kept: str) -> None:
    assert state_of(given) == kept


def test_a_run_has_one_span_id_that_is_its_own() -> None:
    one, other = (RunId(UUID(int=n)) for n in (1, 2))
    assert run_span_id(one) == run_span_id(one) != run_span_id(other)
    assert parse_trace(f"00-{TRACE_ID}-{run_span_id(one)}-01") is not None
