"""How the domain's values look on the wire. Plain functions: a run's 10,000 steps pass here on each look."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from shared.domain.models import Attempt, AuditEntry, DagVersion, Run, Step, TenantLimits, WorkerId
from shared.domain.warm import Loaded
from shared.plugins import PluginInfo
from shared.services.explain import Reason
from shared.services.health import Aside, Queue, Sweepers
from shared.services.incidents import Incident

Shape = dict[str, object]


def time(moment: datetime) -> str:
    """Write a time in UTC with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else time(moment)


def dag_summary(dag: DagVersion) -> Shape:
    """Write a DAG version as lists have it: without its steps and edges."""
    return {
        "dagId": dag.dag_id,
        "version": dag.version,
        "specHash": dag.spec_hash,
        "active": dag.active,
        "stepCount": dag.step_count,
        "metadata": dag.metadata,
        "createdUtc": time(dag.created_utc),
        "createdBy": dag.created_by,
        "disabledUtc": _time(dag.disabled_utc),
    }


def dag(dag: DagVersion) -> Shape:
    """Write a DAG version with its definition, and its signature if it has one."""
    signature: Shape = {} if dag.signature is None else {"signature": dag.signature}
    return {**dag_summary(dag), **(dag.definition or {}), **signature}


def run_started(run: Run) -> Shape:
    """Write what the caller who started a run gets."""
    return {
        "runId": str(run.run_id),
        "traceId": run.trace_id,
        "dagId": run.dag_id,
        "dagVersion": run.dag_version,
        "status": run.status,
        "inputsHash": run.inputs_hash,
        "startedUtc": time(run.started_utc),
    }


def run(run: Run) -> Shape:
    """Write a run."""
    return {
        "runId": str(run.run_id),
        "traceId": run.trace_id,
        "dagId": run.dag_id,
        "dagVersion": run.dag_version,
        "status": run.status,
        "inputsHash": run.inputs_hash,
        "outputsHash": run.outputs_hash,
        "startedUtc": time(run.started_utc),
        "endedUtc": _time(run.ended_utc),
        "cancelRequestedUtc": _time(run.cancel_requested_utc),
        "cancelReason": run.cancel_reason,
        "runToken": run.run_token,
        "createdBy": run.created_by,
        "stepCount": run.step_count,
        "ledgerHead": run.ledger_head,
    }


def step_summary(step: Step) -> Shape:
    """Write a step as lists have it: its state and hashes, without its outputs.

    ``orch.shown_steps`` writes the same for a run with all its steps.
    """
    return {
        "stepId": step.step_id,
        "status": step.status,
        "uses": step.uses,
        "pool": step.pool,
        "attempt": step.attempt,
        "errorCode": step.error_code,
        "errorMessage": step.error_message,
        "inputsHash": step.inputs_hash,
        "outputsHash": step.outputs_hash,
        "queuedUtc": _time(step.queued_utc),
        "startedUtc": _time(step.started_utc),
        "endedUtc": _time(step.ended_utc),
        "dueUtc": _time(step.due_utc),
    }


def step(step: Step, attempts: list[Attempt]) -> Shape:
    """Write a step with its outputs and every attempt at it."""
    return {
        **step_summary(step),
        "outputs": step.outputs,
        "attempts": [_attempt(attempt) for attempt in attempts],
    }


def _attempt(attempt: Attempt) -> Shape:
    return {
        "attempt": attempt.attempt,
        "status": attempt.status,
        "workerId": attempt.worker_id,
        "startedUtc": time(attempt.started_utc),
        "endedUtc": _time(attempt.ended_utc),
        "durationMs": _duration_ms(attempt),
        "errorCode": attempt.error_code,
        "errorMessage": attempt.error_message,
        "logsRef": attempt.logs_ref,
        "outputsHash": attempt.outputs_hash,
    }


def _duration_ms(attempt: Attempt) -> int | None:
    if attempt.ended_utc is None:
        return None
    return round((attempt.ended_utc - attempt.started_utc).total_seconds() * 1_000)


def audit(entry: AuditEntry) -> Shape:
    """Write a line of the audit trail."""
    return {
        "auditId": str(entry.audit_id),
        "atUtc": time(entry.at_utc),
        "subject": entry.subject,
        "action": entry.action,
        "object": entry.object,
        "reason": entry.reason,
        "traceId": entry.trace_id,
        "outcome": entry.outcome,
        "status": entry.status,
        "code": entry.code,
    }


def plugin(info: PluginInfo) -> Shape:
    """Write what ``uses`` may name, and what its ``with`` must look like."""
    return {
        "name": info.name,
        "version": info.version,
        "digest": info.digest,
        "schema": info.schema,
        "needsNetwork": info.needs_network,
    }


def queue(queue: Queue) -> Shape:
    """Write how much of a tenant's work waits for a pool, and for how long."""
    return {
        "tenant": queue.tenant,
        "pool": queue.pool,
        "depth": queue.depth,
        "oldestAgeSeconds": queue.oldest_age_seconds,
        "running": queue.running,
    }


def sweeper(sweepers: Sweepers) -> Shape:
    """Write whether anything recovers what is lost."""
    return {
        "status": "ok" if sweepers.live else "down",
        "lastSeenUtc": _time(sweepers.last_seen_utc),
    }


def set_aside(row: Aside) -> Shape:
    """Write a row that the sweeper fails on."""
    return {
        "tenant": row.tenant,
        "verb": row.verb,
        "runId": str(row.run_id),
        "number": row.step_no,
        "reason": row.reason,
        "tries": row.tries,
        "sinceUtc": time(row.first_utc),
        "nextUtc": time(row.next_utc),
    }


def incident(incident: Incident) -> Shape:
    """Write what went wrong, and how often."""
    return {
        "component": incident.component,
        "kind": incident.kind,
        "count": incident.count,
        "firstUtc": time(incident.first_utc),
        "lastUtc": time(incident.last_utc),
        "detail": incident.detail,
    }


def limits(limits: TenantLimits) -> Shape:
    """Write what a tenant may have; ``null`` is no limit."""
    weight = limits.weight
    return {
        "weight": int(weight) if weight.is_integer() else weight,
        "maxRunningSteps": limits.max_running_steps,
        "maxQueuedSteps": limits.max_queued_steps,
    }


def reason(reason: Reason) -> Shape:
    """Write one thing that keeps a step where it is."""
    facts = {name: time(fact) if isinstance(fact, datetime) else fact for name, fact in reason.facts.items()}
    return {"code": reason.code, "message": reason.message, **facts}


def warmth(here: Loaded, process: str, fleet: Mapping[WorkerId, Loaded | None]) -> Shape:
    """Write what this process has loaded, and what each worker has."""
    return {
        **_loaded(here),
        "api": {"process": process, "status": "confirmed"},
        "workers": [_worker_warmth(worker_id, loaded, here) for worker_id, loaded in fleet.items()],
    }


def _worker_warmth(worker_id: WorkerId, loaded: Loaded | None, here: Loaded) -> Shape:
    """Write what a worker has loaded, and name the plugins that it lacks or has otherwise than we do."""
    there = Loaded(dags=(), plugins=()) if loaded is None else loaded
    differing = [] if loaded is None else [p.name for p in here.plugins if p not in there.plugins]
    return {
        "workerId": worker_id,
        "status": "pending" if loaded is None else "confirmed",
        **_loaded(there),
        "differingPlugins": differing,
    }


def _loaded(loaded: Loaded) -> Shape:
    return {
        "dags": [
            {"dagId": dag.dag_id, "version": dag.version, "specHash": dag.spec_hash} for dag in loaded.dags
        ],
        "plugins": [{"name": p.name, "version": p.version, "digest": p.digest} for p in loaded.plugins],
    }
