"""The one way to write a definition down: steps in topological order, edges sorted, defaults filled in."""

from __future__ import annotations

from shared.domain.models import DagId, Json, JsonObject, StepSpec


def definition_of(
    dag_id: DagId,
    version: str,
    steps: tuple[StepSpec, ...],
    edges: tuple[tuple[int, int], ...],
    metadata: JsonObject,
) -> JsonObject:
    """Write a DAG down for hashing, signing and showing. ``steps`` must be in topological order."""
    named = sorted((steps[source].id, steps[target].id) for source, target in edges)
    return {
        "dagId": dag_id,
        "version": version,
        "steps": [_step(step) for step in steps],
        "edges": [{"from": source, "to": target} for source, target in named],
        "metadata": metadata,
    }


def _step(step: StepSpec) -> JsonObject:
    written: dict[str, Json] = {
        "id": step.id,
        "uses": step.uses,
        "with": step.params,
        "retry": {
            "maxAttempts": step.retry.max_attempts,
            "initialDelayMs": step.retry.initial_delay_ms,
            "maxDelayMs": step.retry.max_delay_ms,
            "multiplier": step.retry.multiplier,
        },
        "timeoutMs": step.timeout_ms,
        "pool": step.pool,
        "runOn": step.run_on.value,
        "disabled": step.disabled,
    }
    # Without these a definition is written, and so hashed, as it was before there were such fields.
    if step.when is not None:
        written["when"] = step.when
    if step.concurrency_key is not None:
        written["concurrencyKey"] = step.concurrency_key
    return written
