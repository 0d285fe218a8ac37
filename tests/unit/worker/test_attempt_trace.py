from __future__ import annotations

from uuid import UUID

from structlog.contextvars import clear_contextvars, get_contextvars

from orchestrator_worker.attempt_trace import attempt_trace
from shared.domain.models import RunId
from shared.domain.trace import TraceContext, run_span_id
from shared.messaging.run_traces import MAX_RUNS, RunTraces
from tests.support.attempts import RUN_ID, TRACE_ID, claim

RUN = TraceContext(trace_id=TRACE_ID, span_id="00f067aa0ba902b7", sampled=False, state="a=1")


def test_what_is_logged_during_an_attempt_has_its_ids_and_what_comes_after_has_not() -> None:
    clear_contextvars()
    with attempt_trace(claim("noop", {}), RUN, None) as trace:
        assert get_contextvars() == {
            "trace_id": TRACE_ID,
            "tenant": "acme",
            "run_id": str(RUN_ID),
            "step_id": "work",
            "attempt": 1,
        }
        assert trace.here is RUN, "who records nothing adds no span that nobody would find"
    assert get_contextvars() == {}


def test_a_run_has_the_trace_of_its_message_if_the_ledger_agrees() -> None:
    traces = RunTraces()
    derived = TraceContext(trace_id=TRACE_ID, span_id=run_span_id(RUN_ID))
    assert traces.of(RUN_ID, TRACE_ID) == derived
    traces.remember(RUN_ID, RUN)
    assert traces.of(RUN_ID, TRACE_ID) == RUN
    assert traces.headers(RUN_ID) == {"traceparent": f"00-{TRACE_ID}-{RUN.span_id}-00", "tracestate": "a=1"}
    assert traces.of(RUN_ID, "1" * 32).trace_id == "1" * 32


def test_a_process_remembers_so_many_runs_and_no_more() -> None:
    traces = RunTraces()
    for number in range(MAX_RUNS + 1):
        traces.remember(RunId(UUID(int=number)), RUN)
    assert traces.headers(RunId(UUID(int=0))) == {}
    assert traces.headers(RunId(UUID(int=1))) == RUN.headers()
