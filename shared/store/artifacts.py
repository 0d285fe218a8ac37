"""Who owns which bytes."""

from __future__ import annotations

from shared.domain.models import ArtifactRef, Sha256, TenantId
from shared.store.db import Cursor
from shared.store.queries import load

_SQL = load("artifacts")


def get_owned(cur: Cursor, tenant: TenantId, sha256: Sha256) -> ArtifactRef | None:
    """Read what the ledger knows of an artifact, where the tenant owns it."""
    cur.execute(_SQL["get_owned"], {"tenant": tenant, "sha256": sha256})
    row = cur.fetchone()
    if row is None:
        return None
    return ArtifactRef(name=row[0], sha256=row[0], size_bytes=row[1], content_type=row[2])
