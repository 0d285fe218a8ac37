"""DAGs in shorthand: ``graph("a>b a>c b,c>d")``."""

from __future__ import annotations

from collections.abc import Mapping

from shared.domain.definition import build
from shared.domain.models import DagSpec, Json, JsonObject


def document(
    edges: str,
    *,
    steps: str = "",
    dag_id: str = "graph",
    version: str = "1.0.0",
    options: Mapping[str, JsonObject] | None = None,
    metadata: JsonObject | None = None,
) -> dict[str, Json]:
    """Write a DAG definition whose steps are no-ops.

    ``edges`` are groups like ``b,c>d`` (each left one to each right one), ``steps``
    names steps without an edge, ``options`` gives further fields of a step by its id.
    """
    pairs = [
        (source, target)
        for group in edges.split()
        for sources, targets in [group.split(">")]
        for source in sources.split(",")
        for target in targets.split(",")
    ]
    ids = sorted({step for pair in pairs for step in pair} | set(steps.split()))
    given = options or {}
    return {
        "dagId": dag_id,
        "version": version,
        "steps": [{"id": step, "uses": "noop", **given.get(step, {})} for step in ids],
        "edges": [{"from": source, "to": target} for source, target in pairs],
        "metadata": metadata or {},
    }


def graph(
    edges: str,
    *,
    steps: str = "",
    dag_id: str = "graph",
    version: str = "1.0.0",
    options: Mapping[str, JsonObject] | None = None,
    metadata: JsonObject | None = None,
) -> DagSpec:
    """Build the DAG that :func:`document` writes; any plugin and the pools default and big are known."""
    written = document(edges, steps=steps, dag_id=dag_id, version=version, options=options, metadata=metadata)
    return build(written, check_uses=lambda _uses, _params: [], pools=("default", "big"))
