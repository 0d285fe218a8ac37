"""Which trace the runs belong to that this process has lately had to do with."""

from __future__ import annotations

import threading
from collections import OrderedDict

from shared.domain.models import RunId
from shared.domain.trace import TraceContext, run_span_id

MAX_RUNS = 4_096


class RunTraces:
    """Remembers what the ledger does not keep of a run's trace: the parent, the sampled flag, ``tracestate``.

    A doorbell carries it from the process that began the run to the worker. What no
    message told of (the step was handed on, or sent again by the sweeper) and what was
    forgotten here has the ledger's trace id all the same, and counts as sampled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[RunId, TraceContext] = OrderedDict()

    def remember(self, run_id: RunId, trace: TraceContext) -> None:
        """Take note of a run's trace; the run noted first is forgotten when there are too many."""
        with self._lock:
            self._known[run_id] = trace
            if len(self._known) > MAX_RUNS:
                self._known.popitem(last=False)

    def of(self, run_id: RunId, trace_id: str) -> TraceContext:
        """Give what the attempts of a run have as their parent, in the trace that the ledger names."""
        known = self._known.get(run_id)
        if known is not None and known.trace_id == trace_id:
            return known
        return TraceContext(trace_id=trace_id, span_id=run_span_id(run_id))

    def headers(self, run_id: RunId) -> dict[str, str]:
        """Give the headers of a message about a run."""
        known = self._known.get(run_id)
        return {} if known is None else known.headers()
