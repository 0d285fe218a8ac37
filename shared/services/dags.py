"""Publish, read, enable and disable DAG versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.domain.models import DagId, DagSpec, DagVersion, JsonObject, TenantId
from shared.errors import DagNotFound, DagVersionConflict
from shared.store import dags as store
from shared.store.db import Database, Transactions


def publish(
    db: Transactions, tenant: TenantId, spec: DagSpec, *, signature: JsonObject | None, created_by: str
) -> tuple[DagVersion, bool]:
    """Record a version; the flag tells whether it is new. What comes back is without the definition.

    A version never changes: the same definition again changes nothing, another
    one raises :class:`DagVersionConflict`.
    """
    with db.transaction(tenant) as cur:
        dag_version_id = store.insert_version(cur, tenant, spec, signature=signature, created_by=created_by)
        if dag_version_id is not None:
            store.insert_steps(cur, tenant, dag_version_id, spec)
            if spec.edges:
                store.insert_edges(cur, tenant, dag_version_id, spec)
        recorded = _found(
            store.get_summary(cur, tenant, spec.dag_id, spec.version), spec.dag_id, spec.version
        )
    if recorded.spec_hash != spec.spec_hash:
        raise DagVersionConflict(f"{spec.dag_id} {spec.version} exists with another definition")
    return recorded, dag_version_id is not None


def get(db: Transactions, tenant: TenantId, dag_id: DagId, version: str) -> DagVersion:
    """Read one version with its definition, or raise :class:`DagNotFound`."""
    with db.statement(tenant) as cur:
        return _found(store.get_version(cur, tenant, dag_id, version), dag_id, version)


def list_page(
    db: Transactions,
    tenant: TenantId,
    *,
    dag_id: DagId | None,
    active: bool | None,
    after: tuple[str, str | None, str | None] | None,
    limit: int,
) -> list[DagVersion]:
    """Read a page of versions without definitions, by DAG, newest version first.

    ``after`` is (dag_id, precedence, version) of the last one seen, or its DAG
    alone, when the page is to begin with the next DAG.
    """
    with db.statement(tenant) as cur:
        return store.list_versions(cur, tenant, dag_id=dag_id, active=active, after=after, limit=limit)


@contextmanager
def stream(
    db: Database, tenant: TenantId, *, dag_id: DagId | None, active: bool | None
) -> Iterator[Iterator[DagVersion]]:
    """Open all versions as of one moment, without definitions, in the order of the pages."""
    with db.snapshot(tenant) as snapshot:
        yield store.stream_versions(snapshot, tenant, dag_id=dag_id, active=active)


def set_active(
    db: Transactions, tenant: TenantId, dag_id: DagId, version: str, *, active: bool
) -> DagVersion:
    """Enable or disable a version for new runs; idempotent. Gives it without the definition."""
    with db.transaction(tenant) as cur:
        store.set_active(cur, tenant, dag_id, version, active=active)
        return _found(store.get_summary(cur, tenant, dag_id, version), dag_id, version)


def _found(found: DagVersion | None, dag_id: DagId, version: str) -> DagVersion:
    if found is None:
        raise DagNotFound(f"no version {version} of {dag_id}")
    return found
