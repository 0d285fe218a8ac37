"""Runs: start, list, look at, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import orjson
from flask import Response, request

from orchestrator_api import ndjson, query, render
from orchestrator_api.context import PREFIX, subject, tenant, trace, trace_id
from orchestrator_api.errors import JSON_TYPE
from orchestrator_api.export import open_export
from orchestrator_api.idempotency import Call
from orchestrator_api.listing import page
from orchestrator_api.paging import Key
from orchestrator_api.parts import parts
from orchestrator_api.responses import answer
from orchestrator_api.schemas.check import misshapen
from orchestrator_api.schemas.run import StartRun, cancel_reason, start_run
from orchestrator_api.trace import begin_run
from shared.domain.models import Run, RunFilter, RunId
from shared.domain.states import RunStatus
from shared.services import runs


def start(call: Call) -> Response:
    """Start a run: 201, or 200 with the first run when its run token was used before."""
    wanted = _start_of(call)
    run, created, change = runs.start(
        call.db,
        tenant(),
        dag_id=wanted.dag_id,
        version=wanted.version,
        inputs=wanted.inputs,
        run_token=wanted.run_token,
        trace_id=trace_id(),
        created_by=subject(),
    )
    if created:
        call.after_commit.append(lambda: _trace(run))
    call.after_commit.append(lambda: parts().follow(tenant(), run.run_id, change))
    call.about = f"/runs/{run.run_id}"
    return answer(render.run_started(run), 201 if created else 200, {"Location": PREFIX + call.about})


def _start_of(call: Call) -> StartRun:
    """Read what is to be started; a body that has not the right shape is told of its inputs, too."""
    wanted, problems = start_run(call.body, call.body_bytes)
    if wanted is None or problems:
        if wanted is not None:
            problems += runs.inputs_refused(
                call.db, tenant(), dag_id=wanted.dag_id, version=wanted.version, inputs=wanted.inputs
            )
        raise misshapen(problems)
    return wanted


def _trace(run: Run) -> None:
    """Have the messages about a new run carry its trace."""
    begun = begin_run(trace(), parts().tracer, run)
    parts().dispatcher.traces.remember(run.run_id, begun)


def list_runs() -> Response:
    """List runs, the one started last first."""
    wanted = _wanted()

    def read(after: Key | None, limit: int) -> Sequence[Run]:
        last = None if after is None else _read_end(after)
        return runs.list_page(parts().db, tenant(), wanted, after=last, limit=limit)

    return page(
        read=read,
        stream=lambda: runs.stream(parts().db_of_streams, tenant(), wanted),
        end=_end,
        render=render.run,
    )


def _end(last: Run, following: Run) -> Key:
    """Say when the last run started and, only if the next one started just then, too, which it was."""
    started = last.started_utc.isoformat()
    return (started, str(last.run_id)) if last.started_utc == following.started_utc else (started,)


def _read_end(end: Key) -> tuple[datetime, RunId | None]:
    started, *run_id = map(str, end)
    return datetime.fromisoformat(started), RunId(UUID(run_id[0])) if run_id else None


def export() -> Response:
    """Give runs with all that belongs to them, the one started first first, for keeping and verifying."""
    return ndjson.stream(open_export(parts().db_of_streams, tenant(), _wanted()))


def _wanted() -> RunFilter:
    return RunFilter(
        dag_id=query.optional(request.args, "dagId", query.dag_id),
        status=query.optional(request.args, "status", query.one_of(RunStatus)),
        from_utc=query.optional(request.args, "from", query.timestamp),
        to_utc=query.optional(request.args, "to", query.timestamp),
    )


def get(run_id: str) -> Response:
    """Give a run with the states and hashes of all its steps."""
    run, steps = runs.get_with_steps(parts().db, tenant(), query.run_id("runId", run_id))
    body = orjson.dumps({**render.run(run), "steps": orjson.Fragment(steps)})
    return Response(body, content_type=JSON_TYPE)


def cancel(call: Call, run_id: str) -> Response:
    """Ask for a run to be cancelled. Asking again changes nothing."""
    of = query.run_id("runId", run_id)
    call.about = f"/runs/{of}"
    call.reason = cancel_reason(call.body)
    run, change = runs.cancel(call.db, tenant(), of, reason=call.reason)
    call.after_commit.append(lambda: parts().follow(tenant(), of, change))
    return answer(render.run(run), 202)
