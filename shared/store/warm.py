"""Requests to load definitions and plugins, and what workers answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from shared.domain.models import DagId, Sha256, TenantId, WorkerId
from shared.domain.warm import DagName, Loaded, LoadedDag, LoadedPlugin
from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("warm")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmRequest:
    """What all workers are asked to load."""

    tenant: TenantId
    warm_id: UUID
    dags: tuple[DagName, ...]
    plugins: tuple[str, ...]


def insert_request(cur: Cursor, tenant: TenantId, request: WarmRequest) -> None:
    """Ask all workers."""
    cur.execute(
        _SQL["insert_request"],
        {
            "tenant": tenant,
            "warm_id": str(request.warm_id),
            "dags": json.dumps([asdict(dag) for dag in request.dags]),
            "plugins": list(request.plugins),
        },
    )


def list_unanswered(cur: Cursor, worker_id: WorkerId) -> list[WarmRequest]:
    """List the requests of the last minute that a worker has not answered."""
    cur.execute(_SQL["list_unanswered"], {"worker_id": worker_id})
    return [
        WarmRequest(
            tenant=row[0],
            warm_id=UUID(row[1]),
            dags=tuple(DagName(dag_id=DagId(dag["dag_id"]), version=dag["version"]) for dag in row[2]),
            plugins=tuple(row[3]),
        )
        for row in cur.fetchall()
    ]


def insert_report(cur: Cursor, request: WarmRequest, worker_id: WorkerId, loaded: Loaded) -> None:
    """Record what a worker has loaded."""
    cur.execute(
        _SQL["insert_report"],
        {
            "tenant": request.tenant,
            "warm_id": str(request.warm_id),
            "worker_id": worker_id,
            "dags": json.dumps([asdict(dag) for dag in loaded.dags]),
            "loaded": json.dumps([asdict(plugin) for plugin in loaded.plugins]),
        },
    )


def reports_of_fleet(cur: Cursor, tenant: TenantId, warm_id: UUID) -> dict[WorkerId, Loaded | None]:
    """Give each live worker with what it has loaded; ``None`` where it has not answered yet."""
    cur.execute(_SQL["reports_of_fleet"], {"tenant": tenant, "warm_id": str(warm_id)})
    return {WorkerId(row[0]): _loaded(row[1], row[2]) for row in cur.fetchall()}


def forget_old(cur: Cursor) -> None:
    """Remove requests that nobody waits for any more."""
    cur.execute(_SQL["forget_old"])


def _loaded(
    dags: Sequence[Mapping[str, str]] | None, plugins: Sequence[Mapping[str, str]] | None
) -> Loaded | None:
    if dags is None or plugins is None:
        return None
    return Loaded(
        dags=tuple(
            LoadedDag(dag_id=DagId(dag["dag_id"]), version=dag["version"], spec_hash=Sha256(dag["spec_hash"]))
            for dag in dags
        ),
        plugins=tuple(
            LoadedPlugin(name=p["name"], version=p["version"], digest=Sha256(p["digest"])) for p in plugins
        ),
    )
