"""Have definitions and plugins loaded ahead of their first use, here and by every worker."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from shared.domain.models import AuditEntry, DagId, TenantId, WorkerId
from shared.domain.warm import DagName, Loaded, LoadedDag, LoadedPlugin, compile_expressions
from shared.errors import DagNotFound
from shared.plugins import Catalog
from shared.services import dags as dag_service
from shared.store import calls, dags
from shared.store import warm as store
from shared.store.db import Database
from shared.store.warm import WarmRequest

__all__ = ["WarmRequest", "answer", "ask", "forget_old", "load", "reports", "resolve", "unanswered"]


def resolve(db: Database, tenant: TenantId, dag_id: DagId, version: str | None) -> DagName:
    """Name the version that a run would use, or raise :class:`DagNotFound`."""
    with db.statement(tenant) as cur:
        found = dags.find_startable(cur, tenant, dag_id, version)
    if found is None:
        raise DagNotFound(f"no version {version} of {dag_id}" if version else f"no DAG {dag_id}")
    return DagName(dag_id=dag_id, version=found.version)


def load(
    db: Database, tenant: TenantId, catalog: Catalog, names: Sequence[DagName], plugins: Sequence[str]
) -> Loaded:
    """Load into this process what is named, one definition at a time: each may be large."""
    loaded = []
    for name in names:
        dag = dag_service.get(db, tenant, name.dag_id, name.version)
        compile_expressions(dag.definition or {"steps": []})
        loaded.append(LoadedDag(dag_id=dag.dag_id, version=dag.version, spec_hash=dag.spec_hash))
    found = [info for uses in plugins if (info := catalog.find(uses)) is not None]
    return Loaded(
        dags=tuple(loaded),
        plugins=tuple(LoadedPlugin(name=i.name, version=i.version, digest=i.digest) for i in found),
    )


def ask(db: Database, request: WarmRequest, entry: AuditEntry) -> None:
    """Ask every worker, and put that into the audit trail; workers see it within a second or two."""
    with db.transaction(request.tenant) as cur:
        store.insert_request(cur, request.tenant, request)
        calls.note(cur, request.tenant, entry)


def unanswered(db: Database, worker_id: WorkerId) -> list[WarmRequest]:
    """List what a worker is asked for and has not answered yet."""
    with db.statement(None) as cur:
        return store.list_unanswered(cur, worker_id)


def answer(db: Database, request: WarmRequest, worker_id: WorkerId, loaded: Loaded) -> None:
    """Tell what a worker has loaded."""
    with db.statement(request.tenant) as cur:
        store.insert_report(cur, request, worker_id, loaded)


def reports(db: Database, tenant: TenantId, warm_id: UUID) -> dict[WorkerId, Loaded | None]:
    """Give each live worker with what it has loaded; ``None`` where it has not answered yet."""
    with db.statement(tenant) as cur:
        return store.reports_of_fleet(cur, tenant, warm_id)


def forget_old(db: Database) -> None:
    """Remove requests of more than ten minutes ago, with their answers."""
    with db.statement(None) as cur:
        store.forget_old(cur)
