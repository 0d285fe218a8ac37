"""DAG versions in the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.domain import graph
from shared.domain.models import DagId, DagSpec, DagVersion, JsonObject, Sha256, TenantId
from shared.store.db import Cursor, Row, Snapshot
from shared.store.queries import load

_SQL = load("dags")

MOST_AHEAD = 16
"""More steps than these behind one are not run ahead one after another: they are faster side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Startable:
    """The version that a start resolves to."""

    dag_version_id: int
    version: str
    spec_hash: Sha256
    active: bool
    inputs_schema: JsonObject | None
    queue_limited: bool
    """Whether the tenant may have only so many queued steps."""


def insert_version(
    cur: Cursor, tenant: TenantId, spec: DagSpec, *, signature: JsonObject | None, created_by: str
) -> int | None:
    """Record the version's row; ``None`` when its name is taken."""
    cur.execute(
        _SQL["insert_version"],
        {
            "tenant": tenant,
            "dag_id": spec.dag_id,
            "version": spec.version,
            "precedence": spec.precedence,
            "spec_hash": spec.spec_hash,
            "step_count": len(spec.steps),
            "metadata": json.dumps(spec.metadata),
            "definition": spec.canonical,
            "signature": None if signature is None else json.dumps(signature),
            "created_by": created_by,
        },
    )
    row = cur.fetchone()
    return None if row is None else int(row[0])


def insert_steps(cur: Cursor, tenant: TenantId, dag_version_id: int, spec: DagSpec) -> None:
    """Record the version's steps in one statement, from the definition that was just recorded."""
    predecessors = [0] * len(spec.steps)
    for _, to_no in spec.edges:
        predecessors[to_no] += 1
    only_nos = graph.only_predecessors(spec.steps, spec.edges)
    behind = Counter(only_nos)
    cur.execute(
        _SQL["insert_steps"],
        {
            "tenant": tenant,
            "dag_version_id": dag_version_id,
            "predecessors": _int_array(predecessors),
            "only_nos": _int_array("NULL" if no is None else no for no in only_nos),
            "leads": [0 < behind[no] <= MOST_AHEAD for no in range(len(spec.steps))],
            "reads_inputs": list(spec.reads_inputs),
            "refs": [_int_array(refs) for refs in spec.refs],
        },
    )


def insert_edges(cur: Cursor, tenant: TenantId, dag_version_id: int, spec: DagSpec) -> None:
    """Record the version's edges in one statement."""
    cur.execute(
        _SQL["insert_edges"],
        {
            "tenant": tenant,
            "dag_version_id": dag_version_id,
            "from_nos": _int_array(edge[0] for edge in spec.edges),
            "to_nos": _int_array(edge[1] for edge in spec.edges),
        },
    )


def _int_array(numbers: Iterable[int | str]) -> str:
    """Write integers as PostgreSQL's array text, which it reads faster than an ``ARRAY[...]`` of 50,000."""
    return "{" + ",".join(map(str, numbers)) + "}"


def get_version(cur: Cursor, tenant: TenantId, dag_id: DagId, version: str) -> DagVersion | None:
    """Read one version with its definition."""
    cur.execute(_SQL["get_version"], {"tenant": tenant, "dag_id": dag_id, "version": version})
    row = cur.fetchone()
    return None if row is None else _version(row)


def get_summary(cur: Cursor, tenant: TenantId, dag_id: DagId, version: str) -> DagVersion | None:
    """Read one version without its definition."""
    cur.execute(_SQL["get_summary"], {"tenant": tenant, "dag_id": dag_id, "version": version})
    row = cur.fetchone()
    return None if row is None else _version(row)


def list_versions(
    cur: Cursor,
    tenant: TenantId,
    *,
    dag_id: DagId | None,
    active: bool | None,
    after: tuple[str, str | None, str | None] | None,
    limit: int,
) -> list[DagVersion]:
    """Read a page of versions.

    ``after`` is (dag_id, precedence, version) of the last one seen, or its DAG alone, when
    the page is to begin with the next DAG.
    """
    cur.execute(_SQL["list_versions"], _listed(tenant, dag_id, active, after, limit))
    return [_version(row) for row in cur.fetchall()]


def stream_versions(
    snapshot: Snapshot, tenant: TenantId, *, dag_id: DagId | None, active: bool | None
) -> Iterator[DagVersion]:
    """Read all versions in the order of the pages, few of them in memory: their metadata may be large."""
    listed = _listed(tenant, dag_id, active, None, None)
    return map(_version, snapshot.stream(_SQL["list_versions"], listed, batch=20))


def _listed(
    tenant: TenantId,
    dag_id: DagId | None,
    active: bool | None,
    after: tuple[str, str | None, str | None] | None,
    limit: int | None,
) -> dict[str, object]:
    after_dag_id, after_precedence, after_version = after or (None, None, None)
    return {
        "tenant": tenant,
        "dag_id": dag_id,
        "active": active,
        "after_dag_id": after_dag_id,
        "after_precedence": after_precedence,
        "after_version": after_version,
        "max_rows": limit,
    }


def set_active(cur: Cursor, tenant: TenantId, dag_id: DagId, version: str, *, active: bool) -> None:
    """Enable or disable a version; one that is so already stays as it is."""
    cur.execute(
        _SQL["set_active"], {"tenant": tenant, "dag_id": dag_id, "version": version, "active": active}
    )


def find_startable(cur: Cursor, tenant: TenantId, dag_id: DagId, version: str | None) -> Startable | None:
    """Resolve what a start names: that version, or the highest active one (else the highest)."""
    cur.execute(_SQL["find_startable"], {"tenant": tenant, "dag_id": dag_id, "version": version})
    row = cur.fetchone()
    return None if row is None else as_startable(row)


def as_startable(row: Row) -> Startable:
    """Give the columns of a version that a start resolves to their types."""
    return Startable(
        dag_version_id=row[0],
        version=row[1],
        spec_hash=row[2],
        active=row[3],
        inputs_schema=row[4],
        queue_limited=row[5],
    )


def _version(row: Row) -> DagVersion:
    return DagVersion(
        dag_id=row[0],
        version=row[1],
        spec_hash=row[2],
        active=row[5] is None,
        created_utc=row[3],
        created_by=row[4],
        disabled_utc=row[5],
        step_count=row[6],
        metadata=row[7],
        definition=row[8],
        signature=row[9],
    )
