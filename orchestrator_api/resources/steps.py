"""The steps of a run, and the attempts at one."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response

from orchestrator_api import query, render
from orchestrator_api.context import tenant
from orchestrator_api.listing import page
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from shared.domain.models import Step
from shared.services import steps


def list_steps(run_id: str) -> Response:
    """List a run's steps in topological order."""
    of = query.run_id("runId", run_id)

    def read(after: Key | None, limit: int) -> Sequence[Step]:
        after_no = -1 if after is None else int(after[0])
        return steps.list_page(parts().db, tenant(), of, after_no=after_no, limit=limit)

    return page(
        read=read,
        stream=lambda: steps.stream(parts().db_of_streams, tenant(), of),
        end=lambda step, _: (step.step_no,),
        render=render.step_summary,
    )


def get(run_id: str, step_id: str) -> Response:
    """Give a step with its outputs and every attempt at it."""
    step, attempts = steps.get(
        parts().db, tenant(), query.run_id("runId", run_id), query.step_id("stepId", step_id)
    )
    return answer(render.step(step, attempts))
