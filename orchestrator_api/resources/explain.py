"""Why a step is where it is."""

from __future__ import annotations

from flask import Response

from orchestrator_api import query, render
from orchestrator_api.context import tenant
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from shared.services import explain


def get(run_id: str, step_id: str) -> Response:
    """Tell what keeps a step where it is, the most stubborn thing first; nothing, while it simply runs."""
    of, step = query.run_id("runId", run_id), query.step_id("stepId", step_id)
    status, reasons = explain.explain(parts().db, tenant(), of, step)
    return answer({"status": status, "reasons": [render.reason(reason) for reason in reasons]})
